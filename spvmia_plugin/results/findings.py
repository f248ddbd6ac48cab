"""Failed preconditions, as reports, leaderboards and exports read them: what each says about which number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spvmia_plugin.results.model import Audit, TaskResult

ONE_METRIC: Mapping[str, str] = {
    "too_few_nonmembers_1pct": "tpr_at_1pct_fpr",
    "too_few_nonmembers_0.1pct": "tpr_at_0.1pct_fpr",
}
"""Findings that leave one metric NaN and all others as they are."""
_ONE_ATTACK: Mapping[str, str] = {"candidate_overlaps_audited": "lira_candidate"}
"""Findings that touch one attack only."""


def failed(of: Audit | TaskResult) -> list[Mapping[str, Any]]:
    """The findings of severity "warning": preconditions that did not hold."""
    return [finding for finding in of.record["preconditions"] if finding["severity"] == "warning"]


def touches(finding: Mapping[str, Any], attack: str | None, metric: str) -> bool:
    """Whether a finding says something about a metric of an attack; those that this version does not know do.

    Args:
        finding: of `mia_audit`.
        attack: its name; None where no attack has a number.
        metric: the harness's name of the metric.
    """
    code = finding["code"]
    return ONE_METRIC.get(code, metric) == metric and _ONE_ATTACK.get(code, attack) == attack
