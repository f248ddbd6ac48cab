"""What one attack has over another on the same records, with intervals that know the records are the same."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    Interval,
    check_scores,
    cluster_codes,
    json_interval,
    json_number,
)
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc, smoothed_share, tpr_replicates
from spvmia_plugin.metrics.roc import tpr_at_fpr


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of one metric, ours less theirs.

    Attributes:
        value: NaN if one of the two is not resolved.
        interval: two-sided, paired.
        reason: why there is no number or no interval, or None.
    """

    value: float
    interval: Interval
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        """JSON-ready, None for NaN."""
        return {"value": json_number(self.value), "interval": json_interval(self.interval), "reason": self.reason}


def gains(
    ours: ArrayLike,
    theirs: ArrayLike,
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    fpr: float = 0.01,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Gain, Gain]:
    """How much the first of two attacks gains over the second, in AUROC and in TPR at an FPR.

    AUROC: from the two intervals and the correlation of DeLong's structural components by document (DeLong, DeLong and
    Clarke-Pearson 1988, Obuchowski 1997; MOVER for dependent estimates, Zou 2007). TPR: percentiles of a bootstrap over
    documents in which both attacks see the same documents drawn, each threshold estimated anew, and no narrower than
    half a record's worth. Where the two rank all records alike, both intervals are a point. Coverage by simulation:
    docs/statistics.md.

    Args:
        ours: (n,) finite scores.
        theirs: (n,) finite scores of the same records.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        fpr: of the TPR.
        seed: of the bootstrap.
        confidence: of the intervals.

    Raises:
        SpvmiaError: lengths differ, or a score is not finite.
    """
    first, labels = check_scores(ours, is_member)
    second, _ = check_scores(theirs, is_member)
    codes = cluster_codes(clusters, len(labels))
    if not 0 < labels.sum() < len(labels):
        nothing = Gain(math.nan, NAN_INTERVAL, "a class has no record")
        return nothing, nothing
    of_tpr = _tpr_gain(first, second, labels, codes, fpr, seed, confidence)
    return _auroc_gain(first, second, labels, codes, confidence), of_tpr


def _auroc_gain(ours: Floats, theirs: Floats, labels: Bools, codes: Codes, confidence: float) -> Gain:
    first, second = estimate_auroc(ours, labels, codes), estimate_auroc(theirs, labels, codes)
    value = first.auroc - second.auroc
    if first.reason:
        return Gain(value, NAN_INTERVAL, first.reason)
    if _same_order(ours, theirs):
        return Gain(value, (value, value))
    return Gain(value, _mover(first, second, confidence))


def _mover(first: AurocEstimate, second: AurocEstimate, confidence: float) -> Interval:
    """The interval of a difference from those of its parts and the correlation of their errors (MOVER).

    It is as lopsided as they are near 0 and 1, where a symmetric one covers too rarely.
    """
    norms = float(np.linalg.norm(first.influence) * np.linalg.norm(second.influence))
    correlation = float(first.influence @ second.influence) / norms if norms > 0 else 0.0
    (low_a, high_a), (low_b, high_b) = first.interval(confidence), second.interval(confidence)

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x**2 + y**2 - 2 * correlation * x * y))

    value = first.auroc - second.auroc
    below = reach(first.auroc - low_a, high_b - second.auroc)
    return value - below, value + reach(high_a - first.auroc, second.auroc - low_b)


def _tpr_gain(
    ours: Floats, theirs: Floats, labels: Bools, codes: Codes, fpr: float, seed: int, confidence: float
) -> Gain:
    first, second = tpr_at_fpr(ours, labels, fpr), tpr_at_fpr(theirs, labels, fpr)
    if first.reason:
        return Gain(math.nan, NAN_INTERVAL, first.reason)
    value = first.tpr - second.tpr
    if _same_order(ours, theirs):
        return Gain(value, (value, value))
    drawn = tpr_replicates(ours, labels, codes, (fpr,), seed) - tpr_replicates(theirs, labels, codes, (fpr,), seed)
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
    apart = (ours >= first.threshold)[labels] != (theirs >= second.threshold)[labels]
    reach = float(ndtri(1 - tail)) * _floor(apart, codes[labels])
    return Gain(value, (max(-1.0, min(low, value - reach)), min(1.0, max(high, value + reach))))


def _same_order(ours: Floats, theirs: Floats) -> bool:
    """Whether two attacks rank all records alike: then they cannot differ in any sample."""
    return bool(np.array_equal(rankdata(ours), rankdata(theirs)))


def _floor(apart: Bools, codes: Codes) -> float:
    """Standard error of a difference of two shares, at the share of members the attacks disagree on.

    Half a record is added to either side: two attacks that find all members, or none, differ in no resample, and might
    in the next audit.
    """
    share, trials = smoothed_share(apart, codes)
    return math.sqrt(share / (trials + 1))
