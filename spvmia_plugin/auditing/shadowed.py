"""Whether an audit is of the kind that weights of a shadow were fitted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spvmia_plugin.config import PREFIX, AuditConfig
from spvmia_plugin.records import AuditData

COMPARED = (
    *("self_prompts", "self_prompt", "prompt_tokens", "temperature", "top_k", "top_p", "reference", "candidate"),
    *("references", "reference_epochs", "reference_lr", "reference_batch"),
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "prefix", "max_length"),
)
"""Settings of an audit that change what `learned` sees. `mia_preset` is a set of some of them."""


def audit_settings(settings: AuditConfig) -> dict[str, Any]:
    """The settings of an audit that change what `learned` sees, under the names users type, JSON-ready.

    Models and files (`mia_reference`, `mia_candidate`) go by their name, wherever they lie.
    """
    told = settings.to_json()

    def shown(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {PREFIX + name: shown(told[PREFIX + name]) for name in COMPARED}


def weights_mark(identity: object) -> str | None:
    """By what a model's weights are told (`files`, `hub` or `tensors`), and a hash of it; None where nothing tells.

    Args:
        identity: `Backend.identity` of the model.
    """
    weights = identity.get("weights") if isinstance(identity, Mapping) else None
    if not isinstance(weights, (list, tuple)) or not weights or not all(weights):
        return None
    told_by = "+".join(next(iter(each)) for each in weights)
    return f"{told_by} {hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:16]}"


def shadow_note(
    made: Mapping[str, Any], settings: AuditConfig, data: AuditData, base_weights: str | None = None
) -> str | None:
    """What differs between an audit and those that weights were fitted on; None if nothing is known to.

    Args:
        made: `settings` of the weights' card, as `spvmia shadow` writes them.
        settings: of the audit.
        data: what is audited.
        base_weights: `weights_mark` of the base of the audited model.
    """
    found = [*_base(made, data, base_weights), *_differences(made, settings, data)]
    if not found:
        return None
    return (
        f"learned: the shadow was made for another audit than this one, so its weights may be worth less: "
        f"{', '.join(found)}"
    )


def _base(made: Mapping[str, Any], data: AuditData, weights: str | None) -> Iterator[str]:
    """The base by its weights where both sides tell them alike, else by its name: it may lie in another place."""
    own, theirs = (Path(str(name)).name if name else None for name in (data.base_model, made.get("base_model")))
    known = made.get("base_weights")
    if weights and isinstance(known, str) and weights.partition(" ")[0] == known.partition(" ")[0]:
        if weights != known:
            yield "a base of other weights" if own == theirs or own is None else f"base {own}, the shadow's {theirs}"
    elif own and theirs and own != theirs:
        yield f"base {own}, the shadow's {theirs}"


def _differences(made: Mapping[str, Any], settings: AuditConfig, data: AuditData) -> Iterator[str]:
    fingerprint = data.provenance.get("manifest_fingerprint")
    if fingerprint and made.get("target") and fingerprint != made["target"]:
        yield "records of another target"
    finetune = data.provenance.get("finetune")
    recipe = made.get("recipe")
    pairs = [(audit_settings(settings), made.get("audit"))]
    if isinstance(finetune, Mapping) and isinstance(recipe, Mapping):
        pairs.insert(0, ({name: finetune.get(name) for name in recipe}, recipe))
    if "rows" in made:
        pairs.insert(0, (rows_of(data.format, data.block_size, data.provenance.get("rendering")), made["rows"]))
    for own, theirs in pairs:
        if isinstance(theirs, Mapping):
            for name, value in own.items():
                if name in theirs and value != theirs[name]:
                    yield f"{name} {value}, the shadow's {theirs[name]}"


def rows_of(format_name: str, block_size: int, rendering: object) -> dict[str, Any]:
    """What records are and which of their tokens count, in the words of a note, JSON-ready.

    Args:
        format_name: what the rows are: `text`, or a kind of conversation.
        block_size: tokens of a record, 0 for whole documents.
        rendering: `data.rendering.Renderer.identity()`; anything but a mapping for plain text.
    """
    told: dict[str, Any] = {"format": format_name, "tokens of a record": block_size or "those of its document"}
    if isinstance(rendering, Mapping):
        template = json.dumps(rendering.get("template"), sort_keys=True)
        told = {
            "format": format_name,
            "loss on": rendering.get("loss_on"),
            "tokens at most": rendering.get("max_tokens"),
            "chat template": hashlib.sha256(template.encode()).hexdigest()[:8],
        }
    return told
