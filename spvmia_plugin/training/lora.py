"""LoRA, for targets and references alike: its configuration, which modules get it, and the training of references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import AuditConfig, read_names
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import AdapterHost, linear_names, lost_weights, save_adapter
from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.training.checkpoints import writing
from spvmia_plugin.training.trainer import TrainSettings, train, unpacked
from spvmia_plugin.util.processes import is_first

if TYPE_CHECKING:
    from peft import LoraConfig

    from spvmia_plugin.training.config import FinetuneConfig

ALL_LINEAR = "all-linear"


def lora_config(host: AdapterHost, config: AuditConfig | FinetuneConfig, option: str) -> LoraConfig:
    """The LoRA of a target or a reference, each of whose modules was tried: nothing is left behind on the model.

    Args:
        host: the model.
        config: `lora_rank`, `lora_alpha`, `lora_dropout`, `lora_targets`.
        option: what names the targets, for errors.

    Raises:
        SpvmiaError: a target is not in the model, or refused; or the model can't be trained.
    """
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(host, read_names(config.lora_targets or ()), option, r=config.lora_rank),
    )


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


_NAME = "training"


def train_lora(
    host: AdapterHost,
    sequences: Sequence[Sequence[int]],
    config: AuditConfig,
    output_dir: Path,
    *,
    counted: Sequence[Sequence[bool]] | None = None,
    pad_token_id: int,
    base_name: str | None,
    processes: int = 1,
) -> dict[str, object]:
    """Train an adapter and write it to `output_dir` as a peft folder; the host's model stays what it was.

    Args:
        host: the model without adapters.
        sequences: token ids; those too short to predict anything are left out.
        config: `reference_*`, `lora_*` and `seed`.
        output_dir: gets the adapter, and the checkpoints; the last one stays (see `training.train`).
        counted: which tokens of each sequence carry loss; sequences without one are left out. None for all tokens.
        pad_token_id: for padding.
        base_name: written into the adapter's config.
        processes: that train together; the first writes.

    Returns:
        What `training.train` returns, with the number of texts, of those left out for want of a token that carries
        loss (`without_loss`, with `counted`), and of trained parameters.

    Raises:
        SpvmiaError: the LoRA targets are not in the model or refused by peft; `output_dir` cannot be written; no
            sequence has a token that carries loss.
    """
    masks = counted if counted is not None else [[True] * len(ids) for ids in sequences]
    kept = [i for i, mask in enumerate(masks) if any(mask[1:])]  # nothing predicts the first token
    if counted is not None and sequences and not any(map(len, sequences)):
        raise SpvmiaError(
            f"mia_self_prompt: expected conversations to train a reference on, got {len(sequences)} empty ones: the "
            "target ends them at once; use mia_self_prompt=reply with held-out conversations (mia_prompts), or check "
            "mia_chat_template"
        )
    if counted is not None and sequences and not kept:
        raise SpvmiaError(
            f"mia_loss_on: expected conversations with tokens that carry loss to train a reference on, got "
            f"{len(sequences)} without any; use mia_loss_on=all, or a larger mia_record_tokens"
        )
    usable = [sequences[i] for i in kept]
    settings = TrainSettings(
        epochs=config.reference_epochs,
        lr=config.reference_lr,
        batch_size=config.reference_batch,
        seed=config.seed,
        processes=processes,
    )
    lora = lora_config(host, config, "mia_lora_targets")
    lora.base_model_name_or_path = base_name
    with host.new(_NAME, lora, config.seed) as model:
        record = train(
            model,
            usable,
            settings,
            output_dir,
            counted=None if counted is None else [counted[i] for i in kept],
            pad_token_id=pad_token_id,
            description="reference",
        )
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if is_first(processes):
            with writing(output_dir):
                save_adapter(model, _NAME, output_dir)
    left_out = {} if counted is None else {"without_loss": len(sequences) - len(usable)}
    return {**record, **left_out, "texts": len(usable), "parameters": parameters}
