"""Whether an audit is of the kind that weights of a shadow were fitted for."""

from __future__ import annotations

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


def shadow_note(made: Mapping[str, Any], settings: AuditConfig, data: AuditData) -> str | None:
    """What differs between an audit and those that weights were fitted on; None if nothing is known to.

    Args:
        made: `settings` of the weights' card, as `spvmia shadow` writes them.
        settings: of the audit.
        data: what is audited.
    """
    found = list(_differences(made, settings, data))
    if not found:
        return None
    return (
        f"learned: the shadow was made for another audit than this one, so its weights may be worth less: "
        f"{', '.join(found)}"
    )


def _differences(made: Mapping[str, Any], settings: AuditConfig, data: AuditData) -> Iterator[str]:
    base = made.get("base_model")
    # The same model may lie in another place.
    if base and data.base_model and Path(str(base)).name != Path(data.base_model).name:
        yield f"base {Path(data.base_model).name}, the shadow's {Path(str(base)).name}"
    fingerprint = data.provenance.get("manifest_fingerprint")
    if fingerprint and made.get("target") and fingerprint != made["target"]:
        yield "records of another target"
    finetune = data.provenance.get("finetune")
    recipe = made.get("recipe")
    pairs = [(audit_settings(settings), made.get("audit"))]
    if isinstance(finetune, Mapping) and isinstance(recipe, Mapping):
        pairs.insert(0, ({name: finetune.get(name) for name in recipe}, recipe))
    for own, theirs in pairs:
        if isinstance(theirs, Mapping):
            for name, value in own.items():
                if name in theirs and value != theirs[name]:
                    yield f"{name} {value}, the shadow's {theirs[name]}"
