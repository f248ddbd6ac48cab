"""Whom the records belong to, what is told with these as observations, and what of groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL
from spvmia_plugin.report.numbers import ranked, title
from spvmia_plugin.results import Audit
from spvmia_plugin.results.bound import units_incomplete
from spvmia_plugin.util.schema import as_json


def unit_facts(audit: Audit) -> dict[str, Any]:
    """The unit of the audit: what counts as one, how many there are, and how many records each has."""
    told = audit.mia_audit
    if told.unit is not None:
        sizes = {"median_records": told.unit.median_records, "most_records": told.unit.most_records}
        counts = {"members": told.unit.members, "nonmembers": told.unit.nonmembers}
        return {"unit": f"unit of column {told.unit.column!r}", "column": told.unit.column, **counts, **sizes}
    found = Counter(zip(audit.clusters(), audit.labels().tolist(), strict=True))
    each = sorted(found.values())
    return {
        "unit": "document" if told.data.block_size else "row",
        "column": None,
        "members": sum(is_member for _, is_member in found),
        "nonmembers": sum(not is_member for _, is_member in found),
        "median_records": each[(len(each) - 1) // 2] if each else None,
        "most_records": each[-1] if each else None,
        "why_no_other": units_incomplete(audit),
    }


def by_unit_facts(audit: Audit) -> dict[str, Any] | None:
    """What attacks tell with units as observations; None where nobody said whom records belong to."""
    told = audit.mia_audit.unit
    if told is None:
        return None
    together = told.together
    return {
        "aggregate": told.aggregate,
        "records_of_a_unit_alone": {
            AUROC.key: told.by_number,
            "low": told.by_number_interval[0],
            "high": told.by_number_interval[1],
        },
        "attackers": [
            {
                "attack": task.attack,
                "title": title(task.attack),
                "scored": unit.metrics.n_members + unit.metrics.n_nonmembers,
                AUROC.key: {
                    "value": unit.metrics.auroc,
                    "low": unit.metrics.auroc_interval[0],
                    "high": unit.metrics.auroc_interval[1],
                    "reason": unit.metrics.reason,
                },
                **{
                    metric.key: {
                        "value": tpr.value,
                        "low": tpr.interval[0],
                        "high": tpr.interval[1],
                        "reason": tpr.reason,
                    }
                    for metric, tpr in unit.metrics.tprs.items()
                },
            }
            for task in ranked(audit)
            if (unit := task.mia_audit.unit) is not None
        ],
        "confidence": told.metrics.confidence,
        "strongest": None if together is None else as_json(together.strongest),
        "given_records": [] if together is None else [as_json(point) for point in together.given],
    }


def group_facts(audit: Audit) -> dict[str, Any] | None:
    """What attacks tell of each group; None where there are none."""
    told = audit.mia_audit.groups
    if told is None:
        return None
    return {
        "confidence": told.confidence,
        "worst": told.worst,
        "groups": [
            {
                "group": group.name,
                "members": group.members,
                "nonmembers": group.nonmembers,
                AUROC.key: _leader(as_json(group.auroc)),
                "low_end": METRICS_WITH_INTERVAL[group.low_end].label,
                "most_exposed": _leader(as_json(group.most_exposed)),
                "reason": group.reason,
            }
            for group in told.groups
        ],
    }


def _leader(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("attack", "value", "low", "high", "reason")}
