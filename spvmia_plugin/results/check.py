"""Results files come from other people too: what is read of `mia_audit` has the types that it is read as."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.strict_json import is_number, is_whole, not_finite

FORMAT = 1
"""Layout of `mia_audit` that this version reads."""

_NUMBER, _COUNT, _TEXT, _TEXTS, _ANY = "a finite number", "a count", "a text", "a list of texts", "a mapping"
_MAYBE_NUMBER, _MAYBE_TEXT, _MAYBE_COUNT = "a finite number or null", "a text or null", "a count or null"
_FLAG = "true or false"
_END_OF_TIME = 253_402_300_000
"""The year 9999, the last that a calendar has."""
_MAPPINGS = {"config": False, "versions": False, "n-shot": False, "group_subtasks": False} | {
    "higher_is_better": True,
    "n-samples": True,
}
"""Parts of a results file besides its rows, and whether each holds mappings."""
_INTERVAL = [_MAYBE_NUMBER, _MAYBE_NUMBER]
_TPR = {
    **dict.fromkeys(("value", "stderr", "realised_fpr", "threshold"), _MAYBE_NUMBER),
    "interval": _INTERVAL,
    "reason": _MAYBE_TEXT,
}
_SHAPE: Mapping[str, Any] = {
    "attack": {"name": _TEXT},
    "membership": _TEXT,
    "metrics": {
        **dict.fromkeys(("auroc", "auroc_stderr", "asr", "privacy_score"), _MAYBE_NUMBER),
        "auroc_interval": _INTERVAL,
        "tpr_at_1pct_fpr": _TPR,
        "tpr_at_0.1pct_fpr": _TPR,
        "confidence": _NUMBER,
        "reason": _MAYBE_TEXT,
        "warnings": _TEXTS,
    },
    "n": dict.fromkeys(("records", "members", "nonmembers", "scored"), _COUNT),
    "unscored": _ANY,
    "epsilon_lb": _ANY,
    "blind": {"auroc": _MAYBE_NUMBER},
    "notes": _TEXTS,
    "cost": _ANY,
    "stages": _ANY,
    "models": _ANY,
    "data": {"source": _TEXT, "fingerprint": _TEXT, "block_size": _COUNT},
    "settings": _ANY,
    "seed": _COUNT,
    "versions": {"spvmia-plugin": _TEXT},
}


def check_results(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse a results file whose parts are not what lm_eval writes.

    Raises:
        SpvmiaError: names the file and the part.
    """
    problem = next(filter(None, (_part_problem(raw, part) for part in _MAPPINGS)), None)
    rows = raw["results"].values()
    if problem is None and not all(isinstance(row, Mapping) for row in rows):
        problem = "expected a mapping for each task in 'results'"
    if problem is None and not (
        raw.get("date") is None or (_is(raw["date"], _NUMBER) and 0 <= raw["date"] < _END_OF_TIME)
    ):
        problem = "expected a finite number as 'date', the seconds since 1970"
    problem = problem or _group_problem(raw.get("group_subtasks") or {})
    if problem:
        raise SpvmiaError(f"RESULTS: {path}: {problem}; run lm_eval again, or leave the file out")


def _part_problem(raw: Mapping[str, Any], part: str) -> str | None:
    value = raw.get(part)
    if value is None:
        return None
    nested = _MAPPINGS[part]
    if isinstance(value, Mapping) and all(not nested or isinstance(inner, Mapping) for inner in value.values()):
        return None
    return f"expected {'mappings by task' if nested else 'a mapping'} as {part!r}"


def _group_problem(groups: Mapping[str, Any]) -> str | None:
    """Groups are lists of names, and none holds itself."""
    if not all(_is(members, _TEXTS) for members in groups.values()):
        return "expected lists of names in 'group_subtasks'"
    left = dict(groups)
    while done := [name for name, members in left.items() if not any(member in left for member in members)]:
        left = {name: members for name, members in left.items() if name not in done}
    return f"expected groups that do not hold themselves, got {sorted(left)[0]!r}" if left else None


def check_record(record: Mapping[str, Any], path: Path, task: str) -> None:
    """Refuse a record of another layout, or with a value that is not what it should be.

    Raises:
        SpvmiaError: names the file, the task and the key.
    """
    if record.get("format") != FORMAT:
        raise SpvmiaError(
            f"RESULTS: {path}: {task}: expected mia_audit of format {FORMAT}, got {record.get('format')!r}; use the "
            "version of spvmia-plugin that wrote it"
        )
    checks = (_shape, _cost, _clusters, _findings, _strongest, _models, _not_finite)
    problem = next(filter(None, (check(record) for check in checks)), None)
    if problem:
        raise SpvmiaError(f"RESULTS: {path}: {task}: mia_audit: {problem}; run lm_eval again, or leave the file out")


def _problem(value: Any, shape: Any, where: str = "") -> str | None:
    """The first thing that does not fit, or None."""
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return f"expected a mapping as {where or 'the record'}, got {type(value).__name__}"
        found = (_problem(value.get(key), part, f"{where}.{key}".lstrip(".")) for key, part in shape.items())
        return next((problem for problem in found if problem), None)
    if isinstance(shape, list):
        if not isinstance(value, list) or len(value) != len(shape):
            return f"expected {len(shape)} values as {where}, got {type(value).__name__}"
        found = (_problem(item, part, where) for item, part in zip(value, shape, strict=True))
        return next((problem for problem in found if problem), None)
    return None if _is(value, shape) else f"expected {shape} as {where}, got {type(value).__name__}"


def _is(value: Any, kind: str) -> bool:
    if kind.endswith(" or null"):
        return value is None or _is(value, kind.removesuffix(" or null"))
    if kind == _NUMBER:
        return is_number(value)
    if kind == _COUNT:
        return is_whole(value) and value >= 0
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind == _TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str if kind == _TEXT else Mapping)


def _shape(record: Mapping[str, Any]) -> str | None:
    return _problem(record, _SHAPE)


def _cost(record: Mapping[str, Any]) -> str | None:
    stages = record["cost"].items()
    found = (_problem(spent, {"seconds": _NUMBER}, f"cost of {stage}") for stage, spent in stages)
    return next((problem for problem in found if problem), None)


def _clusters(record: Mapping[str, Any]) -> str | None:
    clusters = record["data"].get("clusters", {})
    is_right = isinstance(clusters, Mapping) and all(isinstance(document, str) for document in clusters.values())
    return None if is_right else "expected texts by record as data.clusters"


def _not_finite(value: Any) -> str | None:
    """JSON has no NaN and no Infinity, but Python reads them."""
    found = not_finite(value)
    return None if found is None else f"expected finite numbers, got {found}"


def _findings(record: Mapping[str, Any]) -> str | None:
    findings = record.get("preconditions")
    if not isinstance(findings, list):
        return "expected a list as preconditions"
    shape = {"code": _TEXT, "severity": _TEXT, "message": _TEXT, "details": _ANY}
    return next((problem for finding in findings if (problem := _problem(finding, shape, "preconditions"))), None)


def _strongest(record: Mapping[str, Any]) -> str | None:
    """Absent from runs of before it was recorded, and empty where only the blind baseline ran."""
    found = record.get("strongest")
    if not found:
        return None
    shape = {
        "name": _MAYBE_TEXT,
        "auroc": _MAYBE_NUMBER,
        "interval": _INTERVAL,
        "critical": _MAYBE_NUMBER,
        "n_attacks": _COUNT,
        "confidence": _NUMBER,
        "reason": _MAYBE_TEXT,
    }
    if isinstance(found, Mapping) and (missing := sorted(set(shape) - set(found))):
        return f"expected strongest.{missing[0]}"
    return _problem(found, shape, "strongest")


def _models(record: Mapping[str, Any]) -> str | None:
    for role, told in record["models"].items():
        if not isinstance(told, Mapping):
            return f"expected a mapping as models.{role}, got {type(told).__name__}"
        weights = told.get("weights", [])
        if not isinstance(weights, list) or not all(isinstance(part, Mapping) for part in weights):
            return f"expected a list of mappings as models.{role}.weights"
    blind = record["blind"]
    if blind.get("auroc") is not None:
        return _problem(blind, dict.fromkeys(("low", "high", "confidence"), _NUMBER), "blind")
    return None
