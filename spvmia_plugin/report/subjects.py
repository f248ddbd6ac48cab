"""What the page tells of whom records belong to, and of groups of them."""

from __future__ import annotations

import math
from typing import Any

from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL
from spvmia_plugin.report.numbers import Number, Text, audited, ranked, title
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.util.console import shown

_ENDS = ("value", "low", "high")


def units(audit: Audit) -> dict[str, Any] | None:
    """The section on units; None where nobody said whose the records are."""
    told = audit.mia_audit.unit
    if told is None:
        return None
    first = audit.tasks[0]
    members, others = (audited(first, "unit", key, style="count") for key in ("members", "nonmembers"))
    median, most = (audited(first, "unit", key, style="count") for key in ("median_records", "most_records"))
    intro: Text = (
        f'The column "{shown(told.column)}" says whom a record belongs to: ',
        *(members, " units of members, ", others, " of others, with a median of ", median, " records (at most "),
        *(most, "). Each unit counts once here."),
    )
    return {
        "intro": intro,
        "strongest": _strongest(first, told.together is not None),
        "by_number": _by_number(first),
        "rows": [(title(task.attack), _auroc(task), _tprs(task)) for task in ranked(audit) if task.mia_audit.unit],
        **_together(audit),
    }


def _strongest(task: TaskResult, known: bool) -> Text | None:
    if not known or task.mia_audit.unit is None or task.mia_audit.unit.together is None:
        return None
    found = task.mia_audit.unit.together.strongest
    if found.auroc.attack is None:
        return (f"No attack has a number by unit: {shown(str(found.auroc.reason))}.",)
    parts: list[str | Number] = []
    for metric in (AUROC, found.low_end_metric):
        path = ("unit", "together", "strongest", metric.key)
        value, low, high = (audited(task, *path, end, style="share") for end in _ENDS)
        leader = found.by_metric[metric.key]
        if leader.attack is not None:
            parts += [f"{metric.label} by unit ", value, " (", low, " to ", high, f") by {title(leader.attack)}", "; "]
    return (*parts[:-1], ". The intervals hold for all attacks and metrics at once.")


def _by_number(task: TaskResult) -> Text | None:
    """Where how many records a unit has tells who is a member."""
    told = task.mia_audit.unit
    if told is None or math.isnan(told.by_number) or told.by_number_interval[0] <= 0.5 <= told.by_number_interval[1]:
        return None
    auroc = audited(task, "unit", "by_number", style="share")
    low, high = (audited(task, "unit", "by_number_interval", end, style="share") for end in (0, 1))
    return (
        *("How many records a unit has tells the classes apart by itself: AUROC ", auroc, " (", low, " to ", high),
        "). The scores here are made so that it does not count; units of one size would leave no doubt.",
    )


def _auroc(task: TaskResult) -> tuple[Number, ...]:
    ends = (("auroc",), ("auroc_interval", 0), ("auroc_interval", 1))
    return tuple(audited(task, "unit", "metrics", *path, style="share") for path in ends)


def _tprs(task: TaskResult) -> list[tuple[Number, ...]]:
    """At 5 and 1 %: with fewer than a thousand units nothing is resolved below."""
    return [
        tuple(audited(task, "unit", "metrics", key, *path, style="share") for path in _INTERVAL) for key in _SHOWN_TPRS
    ]


_SHOWN_TPRS = ("tpr_at_5pct_fpr", "tpr_at_1pct_fpr")
_INTERVAL: tuple[tuple[str | int, ...], ...] = (("value",), ("interval", 0), ("interval", 1))


def _together(audit: Audit) -> dict[str, Any]:
    """What all attacks say together: the curve over the records given, with all at its end, and the most exposed
    units."""
    task, told = audit.tasks[0], audit.mia_audit.unit
    found = told.together if told is not None else None
    if found is None or found.attack is None:
        return {"attack": None, "given": [], "exposed": []}
    given = []
    for place, point in enumerate(found.given):
        path = ("unit", "together", "given", place)
        ends = (("auroc",), ("interval", 0), ("interval", 1))
        given.append(
            {
                "records": point.records,
                "auroc": tuple(audited(task, *path, *end, style="share") for end in ends),
                "units": [audited(task, *path, key, style="count") for key in ("members", "nonmembers")],
                "reason": None if point.reason is None else shown(point.reason),
            }
        )
    for whose in audit.model_attacks:
        if whose.attack == found.attack:
            counts = [audited(whose, "unit", key, style="count") for key in ("members", "nonmembers")]
            given.append({"records": "all", "auroc": _auroc(whose), "units": counts, "reason": None})
    exposed = []
    for place, unit in enumerate(found.exposed):
        path = ("unit", "together", "exposed", place)
        numbers = (("records", "count"), ("score", "score"), ("above", "percent"))
        exposed.append((shown(unit.unit), [audited(task, *path, key, style=style) for key, style in numbers]))
    return {"attack": title(found.attack), "given": given, "exposed": exposed}


def groups(audit: Audit) -> dict[str, Any] | None:
    """The section on groups; None where there are none."""
    told = audit.mia_audit.groups
    if told is None:
        return None
    first, rows = audit.tasks[0], []
    for place, group in enumerate(told.groups):
        path = ("groups", "groups", place)
        rows.append(
            {
                "name": shown(group.name),
                "sizes": [audited(first, *path, key, style="count") for key in ("members", "nonmembers")],
                "auroc": tuple(audited(first, *path, "auroc", end, style="share") for end in _ENDS),
                "attack": title(group.auroc.attack) if group.auroc.attack else "",
                "tpr": tuple(audited(first, *path, "most_exposed", end, style="share") for end in _ENDS),
                "low_end": METRICS_WITH_INTERVAL[group.low_end].label,
                "reason": None if group.reason is None else shown(group.reason),
            }
        )
    worst = None if told.worst is None else shown(told.worst)
    return {"rows": rows, "worst": worst, "several": len(rows) > 1}
