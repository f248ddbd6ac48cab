"""The metrics of every task, known to lm-eval by name as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.registry import register_aggregation, register_metric

from spvmia_plugin.harness.installed import known_metrics
from spvmia_plugin.metrics.roc import attack_success_rate, auroc, privacy_score, tpr_at_fpr

HIGHER_IS_BETTER: dict[str, bool] = {
    "auroc": False,
    "tpr_at_1pct_fpr": False,
    "tpr_at_0.1pct_fpr": False,
    "asr": False,
    "blind_auroc": False,
    "epsilon_lb": False,
    "privacy_score": True,
}
"""Metric -> whether higher is better (more private)."""

STDERRS = ("auroc_stderr", "tpr_at_1pct_fpr_stderr", "tpr_at_0.1pct_fpr_stderr")
"""Emitted after their metrics, these fill the harness's own Stderr column."""

Pairs = Sequence[tuple[bool, float]]


def _over_pairs(compute: Callable[[Any, Any], float]) -> Callable[[Pairs], float]:
    def aggregate(pairs: Pairs) -> float:
        is_member = np.array([pair[0] for pair in pairs], dtype=bool)
        return float(compute(np.array([pair[1] for pair in pairs], dtype=float), is_member))

    return aggregate


# Names of this module, because lm_eval's entry points (harness/entry_points.py) name each of them.
aggregate_auroc = _over_pairs(auroc)
aggregate_tpr_at_1pct_fpr = _over_pairs(lambda scores, is_member: tpr_at_fpr(scores, is_member, 0.01).tpr)
aggregate_tpr_at_0_1pct_fpr = _over_pairs(lambda scores, is_member: tpr_at_fpr(scores, is_member, 0.001).tpr)
aggregate_asr = _over_pairs(attack_success_rate)
aggregate_privacy_score = _over_pairs(lambda scores, is_member: privacy_score(auroc(scores, is_member)))

AGGREGATIONS: dict[str, Callable[[Pairs], float]] = {
    "auroc": aggregate_auroc,
    "tpr_at_1pct_fpr": aggregate_tpr_at_1pct_fpr,
    "tpr_at_0.1pct_fpr": aggregate_tpr_at_0_1pct_fpr,
    "asr": aggregate_asr,
    "privacy_score": aggregate_privacy_score,
}
"""What any task can aggregate from (is_member, score) pairs alone."""


def record_pair(items: Any) -> Any:
    """A metric of one record: its (is_member, score) pair, passed on to the aggregation."""
    return items


def register_metrics() -> None:
    """Register the metrics and aggregations with lm-eval, once; a task of one's own can then name them in YAML."""
    metrics, aggregations = known_metrics()
    for name, aggregate in AGGREGATIONS.items():
        if name not in aggregations:
            register_aggregation(name)(aggregate)
        if name not in metrics:
            register_metric(metric=name, higher_is_better=HIGHER_IS_BETTER[name], aggregation=name)(record_pair)
