"""What vLLM would make of an adapter: which ones it reads as peft does, and what it leaves out in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spvmia_plugin.models.adapters import adapter_file, holds_lora_only, is_inert

_PART = re.compile(r"(?:\.(?:lora_[A-Za-z_]+|base_layer))?(?:\.(?:weight|bias))?$")


def rank_of(config: Any) -> int:
    """The largest rank of an adapter's matrices, by its peft config."""
    return max([int(config.r), *map(int, (config.rank_pattern or {}).values())])


def misread(path: str, config: Any, *, patterns: bool) -> str | None:
    """Why vLLM would not compute with an adapter what peft computes with it; None if it would.

    Args:
        path: its folder or hub id.
        config: its peft config; None where there is none.
        patterns: whether vLLM is known to read ranks and alphas that differ from module to module.
    """
    if config is None:
        return "no adapter of peft's"
    if getattr(config.peft_type, "value", config.peft_type) != "LORA":
        return "an adapter that is no LoRA"
    saved = set(config.modules_to_save or ())
    left_out = saved | {name for name in outside_of_layers(_tensors(path)) if name.rpartition(".")[2] not in saved}
    if left_out:
        return (
            f"one with weights on {', '.join(sorted(left_out))}, which vLLM leaves out of the log-probabilities of "
            "prompts without a word"
        )
    if config.use_dora or config.lora_bias or not is_inert(config) or not holds_lora_only(path, None):
        return "one that is more than LoRA matrices in safetensors (DoRA, biases, PiSSA, saved embeddings)"
    if not patterns and (config.rank_pattern or config.alpha_pattern):
        return "one whose ranks or alphas differ from module to module, which not every version of vLLM reads"
    return None


def outside_of_layers(names: Iterable[str]) -> set[str]:
    """Of the tensors of an adapter, the modules that are in none of the model's numbered layers: output, embeddings."""
    modules = (_PART.sub("", name).removeprefix("base_model.model.") for name in names)
    return {module for module in modules if not any(part.isdigit() for part in module.split("."))}


def _tensors(path: str) -> list[str]:
    """Names in an adapter's file; none where there is no such file."""
    from safetensors import SafetensorError, safe_open

    file = adapter_file(path, "adapter_model.safetensors")
    if file is None:
        return []
    try:
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except (OSError, SafetensorError):  # damaged: `holds_lora_only` says so
        return []


def peft_config(path: str) -> Any:
    """The peft config at a folder or hub id, None if there is none."""
    from peft import PeftConfig

    if Path(path).is_dir() and not (Path(path) / "adapter_config.json").is_file():
        return None
    try:
        return PeftConfig.from_pretrained(path)
    except (OSError, ValueError, TypeError):
        return None
