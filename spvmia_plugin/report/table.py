"""The table of all attacks: those whose attacker has the same together, the blind baseline apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.metrics.names import ASR, AUROC, BLIND, TPRS, Metric
from spvmia_plugin.metrics.precision import PRIORS
from spvmia_plugin.report.claims import Bar, start_of
from spvmia_plugin.report.facts import accusations
from spvmia_plugin.report.numbers import (
    NOTHING_ELSE,
    Number,
    Text,
    attack_classes,
    audited,
    blind_task,
    counted,
    knowledge,
    leading,
    ranked,
    stage_seconds,
    stages,
    strongest_task,
    title,
    with_interval,
)
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import listed, worded


def attacks(audit: Audit) -> dict[str, Any]:
    """What the template lays out: families of rows, the columns that have a number, and the scale of the bars."""
    rows = [_row(audit, task) for task in ranked(audit)]
    blind = _blind_row(audit)
    everyone = [*rows, blind]
    ends = [row["auroc"][1].value for row in everyone if _known(row["auroc"][1])]
    start = start_of(min(ends, default=AUROC.guess))
    for row in everyone:
        row["bar"], row["wide"] = _bar(start, row["auroc"]), _bar(start, row.get("simultaneous"))
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row.pop("family"), []).append(row)
    resolved = [place for place in range(len(TPRS)) if any(_known(row["tprs"][place][0]) for row in everyone)]
    return {
        "families": list(families.items()),
        "blind": blind,
        "rows": rows,
        "columns": [(place, TPRS[place]) for place in resolved],
        "scale": Bar(start, 1.0, start, 1.0, guess=AUROC.guess),
        "about": _about(audit),
        "unscored": _unscored(audit),
        "remarks": _remarks(audit),
    }


def _row(audit: Audit, task: TaskResult) -> dict[str, Any]:
    is_strongest, auroc = task is strongest_task(audit), with_interval(task, AUROC.key, "share")
    return {
        "title": title(task.attack),
        "task": shown(task.task),
        "family": _family(knowledge(task), auroc[0]),
        "is_strongest": is_strongest,
        "auroc": auroc,
        "simultaneous": leading(audit, AUROC.key, "share") if is_strongest else None,
        "tprs": [with_interval(task, metric.key, "share") for metric in TPRS],
        "together": [_together(audit, task, metric) for metric in TPRS],
        "asr": with_interval(task, ASR.key, "share"),
        "scored": audited(task, "n", "scored", style="count"),
        "seconds": _seconds(task),
    }


def _together(audit: Audit, task: TaskResult, metric: Metric) -> tuple[Number, Number, Number] | None:
    """The wider interval of the number that the verdict on the most exposed few rests on; None of any other."""
    found = audit.strongest
    if found is None or metric != found.low_end_metric or task.attack != found.most_exposed.attack:
        return None
    return leading(audit, metric.key, "share")


def _family(given: str | None, auroc: Number) -> str:
    """The line above attacks that belong together; none in results of before it was recorded what they are given."""
    if not _known(auroc):
        return "Without a score"
    if given is None:
        return ""
    return "Given nothing but the answers of the target" if given == NOTHING_ELSE else f"Given {given}"


def _blind_row(audit: Audit) -> dict[str, Any]:
    """The baseline that sees no model: its own task, else what every attack recorded of it."""
    task, first = blind_task(audit), audit.tasks[0]
    if task is not None:
        return {**_row(audit, task), "is_strongest": False, "simultaneous": None, "together": [None for _ in TPRS]}
    nothing = Number(None, "share", "")
    auroc = tuple(audited(first, "blind", end, style="share") for end in ("auroc", "low", "high"))
    return {
        "title": "Blind baseline",
        "task": BLIND.key,
        "is_strongest": False,
        "auroc": auroc,
        "simultaneous": None,
        "tprs": [(nothing,) * 3 for _ in TPRS],
        "together": [None for _ in TPRS],
        "asr": (nothing,) * 3,
        "scored": nothing,
        "seconds": nothing,
    }


def _seconds(task: TaskResult) -> Number:
    if not task.mia_audit.n.scored:  # whatever ran was for the others
        return Number(None, "seconds", "")
    value = stage_seconds(task, stages(task, attack_classes()))
    return Number(value, "seconds", f"computed/{task.task}/seconds_of_what_it_rests_on")


def _everyone(audit: Audit) -> list[TaskResult]:
    """The attacks, and last the blind baseline where it is a task."""
    return [*ranked(audit), *filter(None, [blind_task(audit)])]


def _about(audit: Audit) -> list[tuple[str, str]]:
    """What each attack looks at, as the table orders them; nothing of one that a plugin brought."""
    told = {attack.name: attack.about for attack in builtin_attacks()}
    return [(title(task.attack), told[task.attack]) for task in _everyone(audit) if task.attack in told]


def _unscored(audit: Audit) -> list[Text]:
    """Why how many records have no score: a line for each reason, of all attacks that lack as many for it."""
    found: dict[tuple[str, float | None], tuple[Number, list[str]]] = {}
    for task in _everyone(audit):
        for reason in task.mia_audit.unscored:
            count = audited(task, "unscored", reason, style="count")
            found.setdefault((reason, count.value), (count, []))[1].append(title(task.attack))
    return [
        (f"{listed(names)}: ", *counted(count, "record"), f", {shown(worded(reason))}")
        for (reason, _), (count, names) in found.items()
    ]


def _remarks(audit: Audit) -> list[str]:
    """What limits the numbers of single attacks: a line for each limit, with the attacks that have it.

    Why a number is not resolved is left out: the table has none there.
    """
    tasks, found = _everyone(audit), dict[str, list[str]]()
    for task in tasks:
        numbers = task.mia_audit.metrics
        unresolved = {numbers.reason, *(tpr.reason for tpr in numbers.tprs.values())}
        for told in numbers.warnings:
            if told not in unresolved:
                found.setdefault(told, []).append(title(task.attack))
    return [
        f"{'All attacks' if len(names) == len(tasks) > 1 else listed(names)}: {shown(told)}"
        for told, names in found.items()
    ]


def _known(number: Number) -> bool:
    return number.value is not None and math.isfinite(number.value)


def _bar(start: float, numbers: Sequence[Number] | None) -> Bar | None:
    """An interval on the scale; None where there is none."""
    if numbers is None or not all(_known(number) for number in numbers):
        return None
    value, low, high = (float(number.value or 0.0) for number in numbers)
    return Bar(start, 1.0, low, high, value, AUROC.guess)


def precision(audit: Audit, priors: Sequence[float] = PRIORS) -> dict[str, Any] | None:
    """Of a hundred records that are accused, how many are members, by how many of those asked about are."""
    found, rows = audit.strongest, []
    for place, row in enumerate(accusations(audit, priors)):
        ends = (("value", row.value), ("interval/0", row.interval[0]), ("interval/1", row.interval[1]))
        numbers = [
            Number(None if math.isnan(value) else value, "percent", f"computed/precision/{place}/{name}")
            for name, value in ends
        ]
        odds = 1 / row.prior
        is_whole = math.isfinite(odds) and math.isclose(odds, round(odds))
        rows.append((f"1 in {odds:,.0f}" if is_whole else f"{100 * row.prior:.3g} %", numbers))
    if found is None or not rows:
        return None
    fpr = found.low_end_metric.fpr
    return {"rows": rows, "attack": title(str(found.most_exposed.attack)), "accused": f"{100 * fpr:g}"}
