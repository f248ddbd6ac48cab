"""What a trainer and its model say of a training: settings under the names of `spvmia finetune`, the base,
versions, and what its weights are recognised by.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spvmia_plugin.data.weights import HEAD_BYTES, MOST, spread, tensor_digest

_DISTRIBUTIONS = (
    *("spvmia-plugin", "torch", "transformers", "peft", "trl", "datasets", "accelerate", "tokenizers"),
    *("axolotl", "llamafactory", "unsloth", "deepspeed", "bitsandbytes"),
)

_SETTINGS = {
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "seed": "seed",
    **{
        name: name
        for name in (
            *("data_seed", "max_steps", "weight_decay", "lr_scheduler_type", "warmup_ratio", "warmup_steps", "optim"),
            *("adam_beta1", "adam_beta2", "max_grad_norm", "bf16", "fp16", "loss_type", "beta", "truncation_mode"),
            *("assistant_only_loss", "completion_only_loss", "packing", "packing_strategy", "padding_free"),
            *("neftune_noise_alpha", "label_smoothing_factor", "dataset_text_field", "gradient_checkpointing"),
            *("sample_packing", "train_on_inputs", "group_by_length"),
        )
    },
}
"""Names in the manifest, and those of training arguments."""


@dataclass(frozen=True)
class Facts:
    """What is known before any row is looked at.

    Attributes:
        arguments: class of the training arguments, which says whose trainer it is.
        settings: by name.
        base_model: an absolute path or a hub id; empty where the model has no name.
        method: `full`, or the adapter's kind as peft calls it, in small letters.
        max_length: where the trainer cuts sequences; None where it doesn't.
        packing: `None`, or the strategy by which several rows share a sequence.
        caveats: what the audit's loss of a record leaves out, in sentences.
        of_preferences: whether rows are preferences, of which one answer is trained on against another.
    """

    arguments: str
    settings: Mapping[str, object]
    base_model: str
    method: str
    max_length: int | None
    packing: str | None
    caveats: tuple[str, ...]
    of_preferences: bool = False


def facts_of(args: Any, model: Any) -> Facts:
    """Read training arguments and the model that is trained.

    Args:
        args: a `TrainingArguments` of any trainer.
        model: as the trainer has it.
    """
    settings = {name: _plain(getattr(args, key)) for name, key in _SETTINGS.items() if hasattr(args, key)}
    per_step = getattr(args, "per_device_train_batch_size", None)
    if per_step is not None:
        steps, processes = getattr(args, "gradient_accumulation_steps", 1), getattr(args, "world_size", 1)
        settings["batch_size"] = per_step * steps * processes
    base, method, lora = _of_model(model)
    max_length = next(
        (found for key in ("max_length", "max_seq_length", "max_seq_len") if (found := getattr(args, key, None))), None
    )
    packing = None
    if getattr(args, "packing", False):
        packing = str(getattr(args, "packing_strategy", "unknown"))
    elif getattr(args, "sample_packing", False):
        packing = "multipack"
    return Facts(
        type(args).__name__,
        {**settings, "max_length": max_length, **lora, "method": method},
        base,
        method,
        None if max_length is None else int(max_length),
        packing,
        tuple(_caveats(args, packing)),
        _kind_of(args) == _PREFERENCES,
    )


def _plain(value: object) -> object:
    value = value.value if isinstance(value, enum.Enum) else value
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def adapter_folder(model: Any) -> str:
    """The folder, in the one that is saved to, that peft writes the trained adapter into; none of the default one."""
    model = _unwrapped(model)
    active = getattr(model, "active_adapter", None) if getattr(model, "peft_config", None) else None
    return active if isinstance(active, str) and active != "default" else ""


def _unwrapped(model: Any) -> Any:
    while not hasattr(model, "config") and hasattr(model, "module"):
        model = model.module
    return model


def _of_model(model: Any) -> tuple[str, str, dict[str, object]]:
    model = _unwrapped(model)
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping) and adapters:
        active = getattr(model, "active_adapter", None)
        config = adapters.get(active) if isinstance(active, str) else None
        config = config if config is not None else next(iter(adapters.values()))
        targets = getattr(config, "target_modules", None)
        told = {
            "lora_rank": getattr(config, "r", None),
            "lora_alpha": getattr(config, "lora_alpha", None),
            "lora_dropout": getattr(config, "lora_dropout", None),
            "lora_targets": ",".join(sorted(targets)) if isinstance(targets, (set, list, tuple)) else targets,
        }
        kind = str(_plain(getattr(config, "peft_type", "adapter"))).lower()
        return _name(getattr(config, "base_model_name_or_path", None)), kind, told
    return _name(getattr(getattr(model, "config", None), "_name_or_path", None)), "full", {}


def _name(name: Any) -> str:
    if not name:
        return ""
    return str(Path(name).absolute()) if Path(str(name)).exists() else str(name)


def _caveats(args: Any, packing: str | None) -> list[str]:
    found = []
    if packing is not None:
        found.append(packed(packing))
    if getattr(args, "neftune_noise_alpha", None):
        found.append("trained with NEFTune's noise on the embeddings, scored without")
    if getattr(args, "label_smoothing_factor", 0):
        found.append("trained with smoothed labels, scored by the plain log-probability")
    if getattr(args, "truncation_mode", "keep_start") == "keep_end":
        found.append(
            "long rows were trained on by their ends (truncation_mode=keep_end), and are scored by their starts"
        )
    if str(getattr(args, "loss_type", "nll")) == "dft":
        found.append("trained with the loss 'dft', scored by the plain log-probability")
    if (kind := _kind_of(args)) is not None:
        found.append(_OF_KIND[kind])
    return found


_PREFERENCES, _LABELS, _OWN_ANSWERS = "preferences", "labels", "own answers"
_OF_KIND = {
    _PREFERENCES: "trained on preferences: every attack but premia scores the chosen side, given its prompt",
    _LABELS: "trained by labels (KTO): completions with the label false are trained down, so that their scores fall "
    "where those of other members rise; declare as members the rows with the label true to audit these alone",
    _OWN_ANSWERS: "trained on answers that the model wrote itself: of the declared rows it read the prompts alone",
}
_TRAINERS = {
    **dict.fromkeys(("GRPO", "RLOO", "PPO", "OnlineDPO", "XPO", "NashMD"), _OWN_ANSWERS),
    **dict.fromkeys(("KTO", "BCO"), _LABELS),
    **dict.fromkeys(("DPO", "CPO", "ORPO"), _PREFERENCES),
}
"""Words in the name of a trainer's arguments, and what it trains on; the first that fits."""


def _kind_of(args: Any) -> str | None:
    """What a trainer trains on that is no plain text or conversation; None of others."""
    return next((kind for word, kind in _TRAINERS.items() if word in type(args).__name__), None)


_ALONE = "it is scored alone, as it reads where attention stays within a row"
_PACKED = {
    "bfd": f"packed (bfd): each row shared a sequence with others; {_ALONE}",
    "bfd_split": f"packed (bfd_split): rows shared sequences and long ones were split. Of a row, {_ALONE}",
    "wrapped": "packed (wrapped): rows stood behind the rows before them, cut where a sequence was full; each is "
    "scored alone, from its own beginning",
    "multipack": f"packed (sample_packing): each row shared a sequence with others; {_ALONE}",
}


def packed(strategy: str) -> str:
    """What packing by a strategy means for a row's score."""
    return _PACKED.get(strategy, f"packed ({strategy}): each row shared a sequence with others; {_ALONE}")


def versions() -> dict[str, str]:
    """Of the libraries of this environment."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weights_in(model: Any) -> dict[str, object] | None:
    """What the weights of a model in memory are recognised by, as `weights_of` its folder; None where it is sharded."""
    torch = sys.modules.get("torch")
    if torch is None or model is None:
        return None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or any(_is_sharded(parameter) for parameter in trained):
        return None
    digests = []
    for parameter in spread(trained, MOST):
        flat = parameter.detach().reshape(-1)
        head = flat[: HEAD_BYTES // flat.element_size()].cpu().contiguous()
        digests.append(tensor_digest(parameter.shape, head.view(torch.uint8).numpy().tobytes()))
    return {"kind": "adapter" if hasattr(model, "peft_config") else "whole", "tensors": digests}


def _is_sharded(parameter: Any) -> bool:
    return parameter.numel() == 0 or hasattr(parameter, "ds_id") or type(parameter).__name__ == "DTensor"
