"""Which modules get LoRA: what was asked for, read alike for a target and for a reference, and tried on the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import AdapterHost, linear_names, lost_weights
from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.training.packed_weights import unpacked

ALL_LINEAR = "all-linear"


def lora_targets(host: AdapterHost, asked: Sequence[str] | None, option: str, **settings: Any) -> list[str] | str:
    """Names (or, by peft's default for few architectures, a pattern) of modules that peft puts LoRA on.

    Args:
        host: the model. Adapters are put on for a trial and taken off again: peft knows modules that it refuses in
            some architectures only, and says so when it meets them.
        asked: names of modules; `all-linear` alone for all linear layers that can be trained so, but the output
            layer; none for peft's default for the architecture.
        option: the option to name in errors.
        settings: further ones of `peft.LoraConfig`.

    Raises:
        SpvmiaError: a name is not in the model, one is refused, or peft has no default for the architecture.
    """
    model, kind = host.model, type(inner_model(host.model)).__name__
    if list(asked or ()) == [ALL_LINEAR]:
        names = linear_names(model)
        reason = _refusal(host, names, settings)
        taken = names if reason is None else _taken(host, names, settings)
        if not taken:
            raise SpvmiaError(
                f"{option}: expected linear layers that {kind} learns through with LoRA, found none ({reason}); "
                "name the modules, or leave the training out"
            )
        return taken
    present = [name for name, _ in model.named_modules()]
    for target in asked or ():
        if not any(name == target or name.endswith(f".{target}") for name in present):
            raise SpvmiaError(
                f"{option}: expected modules of the model, got {target!r}; pass {ALL_LINEAR!r}, or names such as "
                "those that print(model) shows"
            )
    names_or_pattern = list(asked) if asked else default_targets(model, option)
    reason = _refusal(host, names_or_pattern, settings)
    if reason is None:
        return names_or_pattern
    refused = [target for target in asked or () if _refusal(host, [target], settings) is not None]
    others = _taken(host, linear_names(model), settings)
    raise SpvmiaError(
        f"{option}: expected modules that {kind} learns through with LoRA, got "
        f"{', '.join(refused) or names_or_pattern} ({reason}); "
        + (f"pass {ALL_LINEAR!r}, or some of {', '.join(others)}" if others else "leave the training out")
    )


def _taken(host: AdapterHost, names: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Those that work. Full names that end alike are one layer over and over, and stand or fall together."""
    ends = {name.rpartition(".")[2] for name in names}
    alike = {end: [name for name in names if name.rpartition(".")[2] == end] for end in sorted(ends)}
    return sorted(name for group in alike.values() if _refusal(host, group, settings) is None for name in group)


def _refusal(host: AdapterHost, names: Sequence[str] | str, settings: dict[str, Any]) -> str | None:
    """What peft says against adapters on these modules, or the model against a step of training; None for nothing.

    Some layers are linear by class only, and give or take something else in their forward pass: peft takes those.
    """
    import torch
    from accelerate.utils.memory import should_reduce_batch_size
    from peft import LoraConfig

    modules = names if isinstance(names, str) else list(names)
    try:
        with host.new("trial", LoraConfig(task_type="CAUSAL_LM", target_modules=modules, **settings), 0) as model:
            ids = torch.tensor([[5, 6, 7, 8, 9, 10], [8, 7, 6, 5, 4, 3]], device=model.device)
            labels = ids.clone()
            ids[0, -2:], labels[0, -2:] = 0, -100  # as batches are: padded on the right
            model.train()
            with unpacked(model):
                model(input_ids=ids, labels=labels, attention_mask=(labels != -100).long()).loss.backward()
            lost = lost_weights(model, "trial")
            learns = any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    except Exception as error:  # peft's words, or a model's own where it can't be trained like this: told by who asked
        if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
            raise
        return " ".join(str(error).split())[:200] or type(error).__name__
    if lost:
        return f"peft would not find {len(lost)} of their weights again, which it renames in loading"
    return None if learns else "no gradient reaches them"


def default_targets(model: Any, option: str) -> list[str] | str:
    """The modules peft adapts in this architecture when nothing is said: their names, or a pattern.

    Raises:
        SpvmiaError: peft has no default for it.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    kind = model.config.model_type
    if kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        raise SpvmiaError(
            f"{option}: expected module names, because peft has no default for models of type {kind!r}, got none; pass "
            f"{ALL_LINEAR!r} or the names"
        )
    found = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[kind]
    return found if isinstance(found, str) else list(found)
