"""Which audits may be ranked, and in words why one may not."""

from __future__ import annotations

import math

from spvmia_plugin.leaderboard.estimate import METRICS, Estimate, task_of
from spvmia_plugin.results.findings import failed, touches
from spvmia_plugin.results.model import Audit

UNSCORED_LIMIT = 0.05
"""An attack that leaves more of the records without a score than this is not ranked: those left out are a choice."""


def reasons_not_ranked(audit: Audit, number: Estimate, metric: str) -> list[str]:
    """Why the audit is not ranked by this number; empty if it is.

    Every finding of severity "warning" disqualifies, those of later versions and of plugins too, but for findings
    that touch another metric or another attack than the one that counts.
    """
    found = [str(finding["message"]) for finding in failed(audit) if touches(finding, number.attack, metric)]
    if math.isnan(number.value):
        found.append(f"{METRICS[metric]}: {number.reason}")
    elif math.isnan(number.low):
        found.append(f"{METRICS[metric]} has no interval")
    if metric == "auroc" and number.high < 0.5:
        found.append(
            "members score lower than non-members: that points at how the classes were chosen, or at swapped labels"
        )
    return [*found, *_unscored(audit, number)]


def remarks(audit: Audit, number: Estimate, metric: str) -> list[str]:
    """What limits the row's numbers without keeping it from being ranked."""
    findings = audit.record.get("preconditions", [])
    others = [finding for finding in findings if finding["severity"] != "warning"]
    elsewhere = [finding for finding in failed(audit) if not touches(finding, number.attack, metric)]
    return [str(finding["message"]) for finding in (*elsewhere, *others)]


def _unscored(audit: Audit, number: Estimate) -> list[str]:
    task = task_of(audit, number.attack) if number.attack else None
    if task is None:
        return []
    total, scored = task.record["n"]["records"], task.record["n"]["scored"]
    if total - scored <= UNSCORED_LIMIT * total:
        return []
    return [f"{number.attack} has no score for {total - scored} of {total} records"]
