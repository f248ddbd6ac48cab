"""What two audits must have in common for their numbers to be compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from spvmia_plugin.auditing.mia_audit import MiaAudit
from spvmia_plugin.metrics.names import BOUNDED_BY
from spvmia_plugin.results.model import Audit, TaskResult
from spvmia_plugin.util.console import shown

Compare = Literal["models", "recipes"]
SameData = Literal["fingerprint", "ids"]
Conditions = Mapping[str, str]
"""Name of a condition, as people call it -> its value."""

_FREE_SETTINGS = frozenset(
    f"mia_{name}"
    for name in (
        # Where things lie, and what the fingerprint of the data covers.
        *("members", "nonmembers", "prompts", "candidate", "text_column", "manifest", "dataset_path", "shadow"),
        *("max_samples", "base_model"),
        *("split", "block_size"),  # conditions of their own
        *("preset", "log_text", "seed", "cache_dir"),  # a name for the others; no part of the protocol
        "reference_parallel",  # who trains, not what
        "canary_attack",  # the attack itself is a condition, where one was asked to guess coins
        # What they come to is a condition of its own where rows are conversations; for plain text they say nothing.
        *("format", "loss_on", "chat_template", "record_tokens", "self_prompt"),
        *("unit_column", "group_column"),  # by whom numbers are told as well; the fingerprint knows the records
        "allow_degenerate",  # a permission, not a way
        *BOUNDED_BY.values(),  # what numbers are held against
    )
)
_NOT_RECIPE = frozenset(
    {
        *("members", "nonmembers", "prompts", "canaries", "canary_kind"),
        *("block_size", "text_column", "unit_column", "seed", "dtype"),
    }
)
"""Settings of the fine-tuning that say which data (the fingerprint tells), not how they were learned."""
_METHOD = "fine-tuning"
"""Name of the condition that holds the method; those of its settings begin with it."""
# `function` is exact bits: another machine gives others. Weights, structure and form tell models apart.
_NOT_MODEL = frozenset({"backend", "tokenizer", "function"})

_SORTED = json.JSONEncoder(sort_keys=True).encode
"""JSON with sorted keys. `json.dumps` would make an encoder for each of the 15,000 values of a board of 200 models."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

UNKNOWN_RECIPE = "not known: there is no manifest of spvmia finetune"
UNTRAINED_METHOD = "none"
UNTRAINED = f"{UNTRAINED_METHOD}: the model before fine-tuning"


def conditions(audit: Audit, attacks: Sequence[TaskResult], compare: Compare, same_data: SameData) -> Conditions:
    """Everything that must be equal.

    Args:
        audit: the audit.
        attacks: its attacks that count, one or all.
        compare: whether the rows of a table are models under one recipe, or recipes of one base model.
        same_data: how data are recognised: by their keyed hash, or by the ids and labels of the audited records.
    """
    told, data = audit.mia_audit, audit.mia_audit.data
    return {
        "data set": audit.dataset,
        "audit": "canaries" if audit.tasks[0].is_canary_audit else "records",
        "data": data.fingerprint if same_data == "fingerprint" else _ids_digest(audit),
        "split": str(data.provenance.get("split")),
        "members and non-members": f"{told.n.members} and {told.n.nonmembers}",
        "membership": told.membership,
        **(recipe(audit) if compare == "models" else {"base model": base_model(audit)}),
        **how_audited(audit, attacks),
    }


def how_audited(audit: Audit, attacks: Sequence[TaskResult]) -> Conditions:
    """How an audit was made, whatever the model, its training and the records.

    Args:
        audit: the audit.
        attacks: its attacks that count.
    """
    told = audit.mia_audit
    return {
        "block size": str(told.data.block_size),
        **_of_conversations(told),
        **{name: _text(value) for name, value in told.settings.items() if name not in _FREE_SETTINGS},
        **{f"attack {task.attack}": _text(_parameters(task.mia_audit)) for task in attacks},
        **{f"weights of {task.attack}": weights for task in attacks if (weights := _weights(task.mia_audit))},
        "spvmia-plugin": str(told.versions.get("spvmia-plugin")),
    }


def _parameters(told: MiaAudit) -> dict[str, Any]:
    """Of the attack, without the place of its weights."""
    return {name: value for name, value in told.attack.parameters.items() if name != "shadow"}


def _weights(told: MiaAudit) -> str | None:
    """Which frozen weights an attack has; those of a shadow are fitted for each target anew, by one recipe."""
    if told.learned is None or "digest" not in told.learned:
        return None
    return "a shadow's" if told.learned.get("weights") == "shadow" else _text(told.learned["digest"])


def _of_conversations(told: MiaAudit) -> dict[str, str]:
    """What conversations were read as: as it turned out, not as it was asked for. Nothing for plain text.

    A model's own chat template is the model's, as its tokenizer is; one that was named is a condition.
    """
    rendering = told.data.provenance.get("rendering")
    if told.scored is None or not isinstance(rendering, Mapping):
        return {}
    named = told.settings.get("mia_chat_template") is not None
    return {
        "rows": str(told.scored.get("format")),
        "loss on": str(told.scored.get("loss_on")),
        "record tokens": str(rendering.get("max_tokens")),
        "chat template": _text(rendering.get("template")) if named else "the model's own",
        "self-prompts from": str(told.settings.get("mia_self_prompt") or ("reply" if told.n.prompts else "whole")),
    }


def digest(values: Conditions) -> str:
    """Twelve hexadecimal digits that stand for the conditions: equal exactly where they are."""
    return hashlib.sha256(_SORTED(values).encode()).hexdigest()[:12]


def differences(one: Conditions, other: Conditions) -> str:
    """What differs, in words: "fine-tuning (3 epochs here, 5 epochs there), attack ez (only here)"."""
    told = []
    for name in dict.fromkeys([*one, *other]):
        here, there = one.get(name), other.get(name)
        if here is None or there is None:
            told.append(f"{name} (only {'there' if here is None else 'here'})")
        elif here != there:
            told.append(f"{name} ({_short(here)} here, {_short(there)} there)")
    return ", ".join(told)


def settings_that_differ(audits: Sequence[Audit]) -> str:
    """What the audits of one data set do not share, in words: "mia_min_k (not given, 0.5), mia_seed (0, 1)"."""
    told = [_told_apart(audit) for audit in audits]
    names = sorted({name for each in told for name in each})
    values = {name: dict.fromkeys(each.get(name, "not given") for each in told) for name in names}
    different = [f"{name} ({', '.join(of_name)})" for name, of_name in values.items() if len(of_name) > 1]
    return ", ".join(different) or "which records they are of"


def _told_apart(audit: Audit) -> dict[str, str]:
    """All that makes it another audit than the others of its data set."""
    told = audit.mia_audit
    return {
        "audit": "canaries" if audit.tasks[0].is_canary_audit else "records",
        "data": told.data.fingerprint[:8],
        "records": str(told.n.records),
        **{name: "none" if value is None else shown(_text(value)) for name, value in told.settings.items()},
    }


def _short(value: str) -> str:
    is_hash = len(value) == 64 and all(character in "0123456789abcdef" for character in value)
    return value[:8] if is_hash else value


def grouped(items: Iterable[Any], key: Callable[[Any], Conditions]) -> list[tuple[Conditions, list[Any]]]:
    """Items with equal conditions together, the largest group first, otherwise in the order they came."""
    groups: dict[str, tuple[Conditions, list[Any]]] = {}
    for item in items:
        values = key(item)
        groups.setdefault(digest(values), (values, []))[1].append(item)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def recipe_words(recipe: Conditions, common: Conditions | None = None) -> str:
    """How a target was fine-tuned, in words; what all rows have in common may be left out."""
    told = {name: value for name, value in recipe.items() if name == _METHOD or (common or {}).get(name) != value}
    parts = (f"{name.removeprefix(_METHOD).strip()} {value}" for name, value in told.items() if name != _METHOD)
    return ", ".join([recipe[_METHOD], *parts])


def common_recipe(recipes: Sequence[Conditions]) -> Conditions:
    """The settings that have one value wherever they apply (the rank of adapters says nothing of full fine-tuning)."""
    found: dict[str, set[str]] = {}
    for settings in recipes:
        for name, value in settings.items():
            found.setdefault(name, set()).add(value)
    return {name: values.pop() for name, values in found.items() if len(values) == 1 and name != _METHOD}


def recipe(audit: Audit) -> dict[str, str]:
    """How the target was fine-tuned: the method, and the settings that apply to it."""
    told = audit.mia_audit.data.provenance.get("finetune")
    if is_untrained(audit):
        return {_METHOD: UNTRAINED}
    if not isinstance(told, Mapping):
        return {_METHOD: UNKNOWN_RECIPE}
    values = {name: value for name, value in told.items() if name not in _NOT_RECIPE and value is not None}
    lora = values.get("method") == "lora"
    kept = {name: value for name, value in values.items() if lora or not name.startswith("lora_")}
    method = str(kept.pop("method", "of an unnamed method"))
    words = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in kept.items()}
    return {_METHOD: method, **{f"{_METHOD} {name.replace('_', ' ')}": value for name, value in words.items()}}


def is_untrained(audit: Audit) -> bool:
    """Whether the target is its own base: the model before fine-tuning."""
    weights = audit.mia_audit.weights("target")
    return bool(weights) and weights == audit.mia_audit.weights("base")


def method(recipe: Conditions) -> str:
    """The method of a fine-tuning: "lora", "full"; `UNTRAINED_METHOD` of the model before it."""
    return recipe[_METHOD].partition(":")[0]


def without_recipe(values: Conditions) -> Conditions:
    """Conditions but for how the target was fine-tuned."""
    return {name: value for name, value in values.items() if not name.startswith(_METHOD)}


def hub_id(audit: Audit) -> str | None:
    """Id of the audited model on the Hub, where its weights came from there; None of one that lies on a disk."""
    weights = audit.mia_audit.weights("target")
    found = weights[-1].get("hub") if weights else None  # an adapter comes after its base
    return found if isinstance(found, str) and _HUB_ID.fullmatch(found) else None


def base_model(audit: Audit) -> str:
    """The model before fine-tuning: the hash of its weights where it was loaded, else its name."""
    weights = audit.mia_audit.weights("base")
    return _hashed(weights) if weights else str(audit.mia_audit.data.base_model)


def target_identity(audit: Audit) -> str | None:
    """A hash over the weights of base and adapter and the form they were loaded in; None where nothing was loaded."""
    if not audit.mia_audit.weights("target"):
        return None
    target = audit.mia_audit.models["target"]
    return _hashed({name: value for name, value in target.items() if name not in _NOT_MODEL})


def _ids_digest(audit: Audit) -> str:
    """A hash over ids and labels of the audited records and the candidates' file: the same rows, the same names."""
    if not audit.has_samples:
        return audit.mia_audit.data.fingerprint
    rows = sorted([record_id, label] for record_id, label in zip(audit.ids(), audit.labels().tolist(), strict=True))
    candidate = audit.mia_audit.settings.get("mia_candidate")
    names = [audit.mia_audit.data.source, PurePath(str(candidate)).name if candidate else None]
    return _hashed([*names, rows])


def _hashed(value: object) -> str:
    return hashlib.sha256(_SORTED(value).encode()).hexdigest()


def _text(value: object) -> str:
    return value if isinstance(value, str) else _SORTED(value)
