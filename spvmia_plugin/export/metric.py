"""The metrics of an audit as exports name them: ids, direction, bounds, and each number with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.results.model import TaskResult


@dataclass(frozen=True, slots=True)
class Metric:
    """One of the harness's metrics.

    Attributes:
        key: the harness's name.
        id: a canonical id where there is one, else one in our namespace.
        name: for people.
        kind: family of metrics it may be averaged with.
        description: what it says.
        lower_is_better: its direction.
        maximum: the largest value it can have; all start at 0.
        parameters: of the metric.
        interval: how its interval was computed, None where it has none.
    """

    key: str
    id: str
    name: str
    kind: str
    description: str
    lower_is_better: bool
    maximum: float = 1.0
    parameters: Mapping[str, float] | None = None
    interval: str | None = None


_TPR = "largest share of members above a threshold that at most {share} of the non-members exceed"
_TPR_INTERVAL = "two-sided, the threshold being estimated as well"

AUROC = Metric(
    "auroc",
    "auroc",
    "AUROC",
    "auroc",
    "probability that the attack scores a training record above a held-out one; 0.5 is what guessing reaches",
    lower_is_better=True,
    interval="DeLong, summed within documents, logit-transformed",
)

METRICS = (
    AUROC,
    Metric(
        "tpr_at_1pct_fpr",
        "spvmia.tpr_at_1pct_fpr",
        "TPR at 1% FPR",
        "tpr_at_fpr",
        _TPR.format(share="1 %"),
        lower_is_better=True,
        parameters={"fpr": 0.01},
        interval=_TPR_INTERVAL,
    ),
    Metric(
        "tpr_at_0.1pct_fpr",
        "spvmia.tpr_at_0.1pct_fpr",
        "TPR at 0.1% FPR",
        "tpr_at_fpr",
        _TPR.format(share="0.1 %"),
        lower_is_better=True,
        parameters={"fpr": 0.001},
        interval=_TPR_INTERVAL,
    ),
    Metric(
        "asr",
        "spvmia.attack_success_rate",
        "attack success rate",
        "accuracy",
        "1 - equal error rate of the attack",
        lower_is_better=True,
    ),
    Metric(
        "blind_auroc",
        "spvmia.blind_auroc",
        "AUROC of the blind baseline",
        "auroc",
        "AUROC of a classifier that sees words and length but no model; above 0.5 the data give membership away",
        lower_is_better=True,
    ),
    Metric(
        "epsilon_lb",
        "spvmia.epsilon_lower_bound",
        "lower bound on epsilon",
        "epsilon",
        "lower bound on the epsilon of differential privacy, from canaries included by coin flips",
        lower_is_better=True,
        maximum=math.inf,
    ),
    Metric(
        "privacy_score",
        "spvmia.privacy_score",
        "privacy score",
        "privacy_score",
        "1 - 2 |AUROC - 0.5|: 1 if the attack does no better than guessing",
        lower_is_better=False,
    ),
)
"""In the order in which the harness prints them."""


@dataclass(frozen=True, slots=True)
class Value:
    """A number of one task; NaN where there is none."""

    metric: Metric
    value: float
    stderr: float
    low: float
    high: float
    confidence: float
    details: Mapping[str, Any]


def values(task: TaskResult) -> Iterator[Value]:
    """All numbers of a task, exactly as the harness printed them, those that cannot be resolved as NaN."""
    record = task.record["metrics"]
    blind = task.record.get("blind") or {}
    for metric in METRICS:
        details = record.get(metric.key) if isinstance(record.get(metric.key), Mapping) else {}
        interval, confidence = details.get("interval") or record.get(f"{metric.key}_interval"), record["confidence"]
        if metric.key == "blind_auroc" and blind.get("auroc") is not None:
            interval, confidence = (blind["low"], blind["high"]), blind["confidence"]
        low, high = (math.nan if end is None else float(end) for end in interval or (None, None))
        stderr = task.metrics.get(f"{metric.key}_stderr", math.nan)
        yield Value(metric, task.metrics.get(metric.key, math.nan), stderr, low, high, confidence, details)


def left_out(task: TaskResult) -> dict[str, str]:
    """Why a metric has no number, by its key."""
    record = task.record["metrics"]
    reasons = {}
    for value in values(task):
        if math.isnan(value.value):
            if value.metric.key == "epsilon_lb":
                told = task.record["epsilon_lb"]
            elif value.metric.key == "blind_auroc":
                told = task.record["blind"]
            else:
                told = value.details
            reasons[value.metric.key] = str(told.get("reason") or record.get("reason") or "not resolved")
    return reasons
