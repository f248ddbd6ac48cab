"""What each attacker was given, what it saw of the target and asked of it, how it was set, and what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spvmia_plugin.auditing.api_view import shown_as
from spvmia_plugin.auditing.asked import SELF_PROMPTS
from spvmia_plugin.auditing.mia_audit import AttackerTold
from spvmia_plugin.auditing.roles import GIVEN
from spvmia_plugin.metrics.names import AUROC
from spvmia_plugin.report.numbers import NOTHING_ELSE, title
from spvmia_plugin.results import TaskResult
from spvmia_plugin.results.estimate import of_attack
from spvmia_plugin.signals import WRITTEN, View

NOT_RECORDED = "not recorded"
GRADIENTS, TEXTS, NOTHING = "gradients of the loss", "texts that it writes", "nothing"
_READ: Mapping[str, str] = {
    View.TEXT.value: "the record",
    View.LOWERCASE.value: "the record in lower case",
    View.NEIGHBOURS.value: "paraphrases of the record",
    View.PREFIXED.value: "the record after held-out texts",
    View.POPULATION.value: "held-out texts",
    View.PROBED.value: "the record after changed copies of itself",
    View.REJECTED.value: "the rejected answer",
}
"""What log-probabilities are asked of, by view."""
_OTHERS: Mapping[str, str] = {
    View.GRADIENT.value: "gradients for the record",
    View.CONTINUED.value: "texts written where the record goes on",
    SELF_PROMPTS: "texts written to train a reference on",
}
"""What else is asked of the target."""
IN_WORDS: Mapping[str, str] = {**_READ, **_OTHERS, View.SIMILARITY.value: _OTHERS[View.CONTINUED.value]}
"""What is asked of the target, by kind. Similarities are those of the texts that it writes."""


def attacker_facts(task: TaskResult) -> dict[str, Any]:
    """One attack, for programs."""
    told = task.mia_audit
    tprs = {
        metric.key: {
            # Whom the threshold picks out, beside the value, which is read between two thresholds.
            "threshold": None if math.isnan(tpr.threshold) else tpr.threshold,
            "tpr_at_threshold": tpr.largest,
            "realised_fpr": tpr.realised_fpr,
            **_ends(task, metric.key),
        }
        for metric, tpr in told.metrics.tprs.items()
    }
    return {
        "attack": task.attack,
        "title": title(task.attack),
        "given": _given(task),
        "sees": _sees(told.attacker),
        "asked_of_target": _asked(told.attacker),
        "parameters": dict(told.attack.parameters),
        "scored": told.n.scored,
        "records": told.n.records,
        "unscored": dict(told.unscored),
        AUROC.key: _ends(task, AUROC.key),
        **tprs,
    }


def _ends(task: TaskResult, key: str) -> dict[str, object]:
    found = of_attack(task, key)
    return {end: getattr(found, end) for end in ("value", "low", "high", "confidence", "reason")}


def _given(task: TaskResult) -> str:
    """What it was given besides the record and what it saw of the target; an attack without a score was not made."""
    told = task.mia_audit
    if not told.n.scored:
        return f"not made: {next(iter(told.unscored), None) or 'no record has a score'}"
    if told.attacker is None:
        return NOT_RECORDED
    return ", ".join(GIVEN.get(name, name) for name in told.attacker.given) or NOTHING_ELSE


def _sees(attacker: AttackerTold | None) -> str:
    """What it saw of the target: what its own needs were answered with, whatever others of the run asked for."""
    if attacker is None:
        return NOT_RECORDED
    if attacker.asked is None:  # results of before the kinds were recorded
        weights = [GRADIENTS] if "weights" in attacker.given else []
        shown = {"nothing": NOTHING, "text": TEXTS}.get(attacker.api_view) or shown_as(attacker.api_view)
        return ", ".join([shown, *weights])
    kinds = {asked.kind for asked in attacker.asked}
    written = {view.value for view in WRITTEN} | {SELF_PROMPTS}
    seen = [
        *([shown_as(attacker.api_view)] if kinds & _READ.keys() else []),
        *([GRADIENTS] if View.GRADIENT.value in kinds else []),
        *([TEXTS] if kinds & written else []),
    ]
    return ", ".join(seen) or NOTHING


def _asked(attacker: AttackerTold | None) -> list[dict[str, Any]] | None:
    """How much it asked of the target, each kind by itself; None where the run did not record it."""
    if attacker is None or attacker.asked is None:
        return None
    kinds = {IN_WORDS.get(each.kind, each.kind): (each.texts, each.tokens) for each in attacker.asked}
    return [{"what": what, "texts": texts, "tokens": tokens} for what, (texts, tokens) in kinds.items()]


def asked_in_words(asked: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """A line for each kind of `_asked`."""
    if asked is None:
        return ["how much was not recorded"]
    return [f"{each['what']}: {each['texts']:,} texts, {each['tokens']:,} tokens" for each in asked]
