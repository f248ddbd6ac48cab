"""Whether a target carries its base: which model the base is, and whether switching adapters off can give it back.

Decided here is what can be known without running anything. What it leaves open, `RoleModels` settles by comparing
answers (see `probe`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from spvmia_plugin.models.inner import inner_model

# Fields of peft's LoraConfig that have no say in what the model computes while the adapter is off. Any other field
# must have its default: an option that a later peft brings is not among these, and is looked into by running.
_HARMLESS = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "use_dora",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "runtime_config",
        "lora_bias",
    }
)
# With these set, another adapter can still be put beside the target's own. With others, peft refuses or mixes them up.
_SHAREABLE = frozenset(
    {
        "init_lora_weights",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "modules_to_save",
        "ensure_weight_tying",
    }
)


def base_name(lm: Any, given: str | None, *, explicit: bool) -> str | None:
    """Folder or hub id of the model before fine-tuning, None if nothing tells.

    What was loaded holds, and not what an adapter's config remembers of the machine it was trained on.

    Args:
        lm: the harness's HFLM.
        given: `mia_base_model`, or what a manifest names.
        explicit: it is `mia_base_model`.
    """
    loaded = getattr(lm, "pretrained", None)
    if explicit and given is not None:
        return given
    if isinstance(loaded, str) and (getattr(lm, "peft", None) or getattr(lm, "delta", None)):
        return loaded
    configs = getattr(lm.model, "peft_config", None)
    if given is not None or not configs:
        return given
    remembered = [config.base_model_name_or_path for config in configs.values()]
    return next(
        (str(name) for name in [getattr(inner_model(lm.model), "name_or_path", None), *remembered] if name), None
    )


def is_hostable(model: Any) -> bool:
    """Whether further adapters can be put on a model beside its own: LoRA, without biases, not merged.

    A merged adapter is taken out of the weights, in place and with rounding, as soon as peft is asked to switch it
    off, so such a model is left alone.
    """
    from peft import LoraConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return False
    configs = list(model.peft_config.values())
    if not all(type(config) is LoraConfig and _has_defaults(config, _HARMLESS | _SHAREABLE) for config in configs):
        return False
    return not any(module.merged for module in model.modules() if isinstance(module, BaseTunerLayer))


def kinds(model: Any) -> str:
    """What sort of adapters a model has, for people."""
    found = {str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()}
    return ", ".join(sorted(found))


def is_inert(config: Any) -> bool:
    """Whether a peft config is of LoRA that leaves everything but its own matrices as it was, by arithmetic."""
    from peft import LoraConfig

    if type(config) is not LoraConfig or not _has_defaults(config, _HARMLESS | {"init_lora_weights"}):
        return False
    return isinstance(config.init_lora_weights, bool) or config.init_lora_weights == "gaussian"


def is_inert_in_memory(model: Any) -> bool:
    """Whether all adapters of a model are inert, and nothing else was hung on it that could change what it computes."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    def is_changed(module: Any) -> bool:
        replaced = "forward" in vars(module) and not hasattr(module, "_hf_hook")  # accelerate's only move tensors
        return bool(replaced or module._forward_hooks or module._forward_pre_hooks)

    return all(is_inert(config) for config in model.peft_config.values()) and not any(
        isinstance(module, AuxiliaryTrainingWrapper) or is_changed(module) for module in model.modules()
    )


def holds_lora_only(place: str, revision: str | None) -> bool:
    """Whether an adapter's file holds LoRA matrices and nothing that would be written over the base's own weights.

    peft saves embeddings with the adapter where tokens were added, and loading puts them into the base.
    """
    from huggingface_hub import hf_hub_download
    from safetensors import SafetensorError, safe_open

    name = "adapter_model.safetensors"
    try:
        path = adapter_file(place, name, revision)
        if path is None and not Path(place).exists():
            path = Path(hf_hub_download(place, name, revision=revision))
        if path is None:
            return False
        with safe_open(path, framework="pt") as file:
            return all(".lora_" in key for key in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, ValueError, SafetensorError):  # not there, nothing that could be there, or damaged
        return False


def adapter_file(place: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a folder, or of a hub model in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(place).is_dir():
        return path if (path := Path(place) / name).is_file() else None
    try:
        found = try_to_load_from_cache(place, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def structure(model: Any) -> str | None:
    """Hash of how a model's adapters stand: active, scaled, merged, switched off. None for a model without any."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if not getattr(model, "peft_config", None):
        return None
    found: list[object] = [str(getattr(model, "active_adapter", None)) if hasattr(model, "get_base_model") else ""]
    for name, module in inner_model(model).named_modules():
        if isinstance(module, BaseTunerLayer):
            scaling = getattr(module, "scaling", None)
            scaled = sorted((str(k), repr(v)) for k, v in scaling.items()) if isinstance(scaling, dict) else []
            state = [list(module.active_adapters), list(module.merged_adapters), module.disable_adapters, scaled]
            found.append([name, type(module).__name__, *state])
        elif isinstance(module, AuxiliaryTrainingWrapper):
            found.append([name, type(module).__name__, list(module.active_adapters), module.disable_adapters])
    return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()


def _has_defaults(config: Any, free: frozenset[str]) -> bool:
    """Whether every field but those of `free` is what it is when nothing is said."""
    for spec in dataclasses.fields(config):
        if spec.name in free:
            continue
        value = getattr(config, spec.name)
        default = spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()
        if value != default and not (value in (None, [], {}) and default in (None, [], {})):
            return False
    return True
