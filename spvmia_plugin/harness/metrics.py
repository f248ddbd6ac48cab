"""The metrics of every task: known to lm-eval by name, and what it gathers of each record for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.registry import register_aggregation, register_metric

from spvmia_plugin.harness.installed import known_metrics
from spvmia_plugin.metrics.names import ASR, AUROC, METRICS, PRIVACY, TPR_01PCT, TPR_1PCT
from spvmia_plugin.metrics.roc import attack_success_rate, auroc, privacy_score
from spvmia_plugin.metrics.tpr import tpr_at_fpr

FILTER = "none"
"""The one pipeline of our tasks: metrics appear as `auroc,none`."""

Pairs = Sequence[tuple[bool, float]]


def _over_pairs(compute: Callable[[Any, Any], float]) -> Callable[[Pairs], float]:
    def aggregate(pairs: Pairs) -> float:
        is_member = np.array([pair[0] for pair in pairs], dtype=bool)
        return float(compute(np.array([pair[1] for pair in pairs], dtype=float), is_member))

    return aggregate


# Names of this module, because lm_eval's entry points (harness/entry_points.py) name each of them.
aggregate_auroc = _over_pairs(auroc)
aggregate_tpr_at_1pct_fpr = _over_pairs(lambda scores, labels: tpr_at_fpr(scores, labels, TPR_1PCT.fpr).tpr)
aggregate_tpr_at_0_1pct_fpr = _over_pairs(lambda scores, labels: tpr_at_fpr(scores, labels, TPR_01PCT.fpr).tpr)
aggregate_asr = _over_pairs(attack_success_rate)
aggregate_privacy_score = _over_pairs(lambda scores, labels: privacy_score(auroc(scores, labels)))

AGGREGATIONS: dict[str, Callable[[Pairs], float]] = {
    AUROC.key: aggregate_auroc,
    TPR_1PCT.key: aggregate_tpr_at_1pct_fpr,
    TPR_01PCT.key: aggregate_tpr_at_0_1pct_fpr,
    ASR.key: aggregate_asr,
    PRIVACY.key: aggregate_privacy_score,
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
            better = METRICS[name].higher_is_better
            register_metric(metric=name, higher_is_better=better, aggregation=name)(record_pair)


class Item(float):
    """A record's score, a number so that every logger can put it into a table; it knows which record it is of.

    The harness hands the items of all records to a metric's aggregation, which needs labels and ids, and hands the same
    items to its loggers: Weights & Biases refuses a column that is not of one simple type.

    Attributes:
        record_id: the record.
        is_member: its class.
        reason: why there is no score, or what limits it.
    """

    __slots__ = ("is_member", "reason", "record_id")

    record_id: str
    is_member: bool
    reason: str | None

    def __new__(cls, record_id: str, is_member: bool, score: float | None, reason: str | None) -> Item:
        """Make the item of a record; `score` None for one without a score."""
        item = super().__new__(cls, math.nan if score is None else score)
        item.record_id = record_id
        item.is_member = is_member
        item.reason = reason
        return item

    def __reduce__(self) -> tuple[type[Item], tuple[str, bool, float | None, str | None]]:
        """Between ranks it travels by pickle."""
        return Item, (self.record_id, self.is_member, self.score, self.reason)

    @property
    def score(self) -> float | None:
        """The score as an ordinary number, None where there is none."""
        return None if math.isnan(self) else float(self)
