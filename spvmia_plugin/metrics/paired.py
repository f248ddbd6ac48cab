"""Two ways to score the same records: what one has over the other.

Two attacks on one model, or one attack on two models that were audited with the same records: both errors are those of
the same draw of documents, and most of them cancels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    Interval,
    check_labels,
    check_scores,
    cluster_codes,
)
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc
from spvmia_plugin.metrics.names import AUROC, TPRS
from spvmia_plugin.metrics.several import max_quantile
from spvmia_plugin.metrics.tpr import Bootstrap, smoothed_share, tpr_at_fpr
from spvmia_plugin.util.schema import MaybeNumber


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of one metric, ours less theirs.

    Attributes:
        value: NaN if one of the two is not resolved.
        interval: two-sided, paired.
        reason: why there is no number or no interval, or None.
    """

    value: MaybeNumber
    interval: Interval
    reason: str | None = None


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
    documents in which both attacks see the same documents drawn, each threshold estimated anew, stretched where more
    than 95 % is asked for, and no narrower than half a record's worth. Where the two rank all records alike, both
    intervals are a point. Coverage by simulation: docs/statistics.md.

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
    replicates = Bootstrap(labels, codes, seed).tprs((ours, theirs), (fpr,))
    drawn = replicates[0, 0] - replicates[1, 0]
    tail = (1 - confidence) / 2
    low, high = _drawn_ends(drawn, value, tail, fpr * len(np.unique(codes[~labels])))
    apart = (ours >= first.threshold)[labels] != (theirs >= second.threshold)[labels]
    reach = float(scipy.special.ndtri(1 - tail)) * _floor(apart, codes[labels])
    return Gain(value, (max(-1.0, min(low, value - reach)), min(1.0, max(high, value + reach))))


_TAIL = 0.025
"""Share of the replicates beyond a percentile, at least: of 400 these are ten."""
_DF_EACH = 10
"""Degrees of freedom for each non-member document above the threshold, found by simulation (docs/statistics.md)."""


def _drawn_ends(drawn: Floats, value: float, tail: float, above: float) -> Interval:
    """Where a bootstrap's percentiles lie, also so far out that no replicate does, as many differences at once ask for.

    The percentiles of 400 replicates beyond 1 / 400 are the largest of them. Further out than `_TAIL` it is that
    percentile's distance from the value, stretched, or the replicates' standard deviation if that reaches further, by
    Student's t: how far the replicates spread is itself an estimate, from the few scores around the threshold.

    Args:
        drawn: (B,) replicates.
        value: the estimate.
        tail: what the interval leaves out on either side.
        above: how many non-member documents lie above the threshold.
    """
    low, high = (float(end) for end in np.quantile(drawn, (max(tail, _TAIL), 1 - max(tail, _TAIL))))
    if tail >= _TAIL:
        return low, high
    errors = float(scipy.special.stdtrit(_DF_EACH * max(above, 1.0), 1 - tail))
    stretched = errors / float(scipy.special.ndtri(1 - _TAIL))
    spread = errors * float(np.std(drawn, ddof=1))
    return min(value - spread, value + stretched * (low - value)), max(
        value + spread, value + stretched * (high - value)
    )


def _same_order(ours: Floats, theirs: Floats) -> bool:
    """Whether two attacks rank all records alike: then they cannot differ in any sample."""
    first, second = (np.unique(scores, return_inverse=True)[1] for scores in (ours, theirs))
    return bool(np.array_equal(first, second))


def _floor(apart: Bools, codes: Codes) -> float:
    """Standard error of a difference of two shares, at the share of members the attacks disagree on.

    Half a record is added to either side: two attacks that find all members, or none, differ in no resample, and might
    in the next audit.
    """
    share, trials = smoothed_share(apart, codes)
    return math.sqrt(share / (trials + 1))


def differences(
    ours: Mapping[str, ArrayLike],
    theirs: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, dict[str, Gain]]:
    """How far two models' audits on the same records differ, attack by attack, with intervals that hold all at once.

    The reach is that of the max statistic over all attacks and metrics (as in `several.compare`), of the differences'
    own errors: both models see the documents drawn. Each interval is that of `gains` at the confidence which so many
    standard errors stand for. Records that either has no score for are left out of an attack's difference.

    Args:
        ours: (n,) scores of each attack under one model, NaN where a record has none.
        theirs: the same under the other; attacks that only one of them has are left out.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the resamples and the draws of the max statistic.
        confidence: that all the intervals hold.

    Returns:
        By key of the metric (AUROC and the TPRs), by attack: ours less theirs.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    pairs: dict[str, tuple[Floats, Floats]] = {}
    for name in ours:
        if name in theirs:
            first, second = (check_labels(scores, labels)[0] for scores in (ours[name], theirs[name]))
            both = np.isfinite(first) & np.isfinite(second)
            pairs[name] = np.where(both, first, np.nan), np.where(both, second, np.nan)
    pointwise = _pointwise(list(pairs.values()), labels, codes, seed, confidence)
    found: dict[str, dict[str, Gain]] = {metric.key: {} for metric in (AUROC, *TPRS)}
    for name, (first, second) in pairs.items():
        rows = np.isfinite(first)
        kept = first[rows], second[rows], labels[rows], codes[rows]
        for metric in TPRS:
            of_auroc, of_tpr = gains(*kept, fpr=metric.fpr, seed=seed, confidence=pointwise)
            found[metric.key][name] = of_tpr
            found[AUROC.key][name] = of_auroc
    return found


def _pointwise(
    pairs: Sequence[tuple[Floats, Floats]], labels: Bools, codes: Codes, seed: int, confidence: float
) -> float:
    """The confidence that each of several differences needs for all of them to hold with `confidence`."""
    influences: list[Floats] = []
    resolved: list[tuple[Floats, Floats]] = []
    fprs: set[float] = set()
    df = math.inf
    for pair in pairs:
        rows = np.isfinite(pair[0])
        if not 0 < labels[rows].sum() < rows.sum():
            continue
        estimates = [estimate_auroc(of[rows], labels[rows], codes[rows]) for of in pair]
        if estimates[0].reason:
            continue
        of_documents = np.zeros((2, int(codes.max()) + 1))
        for row, estimate in enumerate(estimates):
            of_documents[row, : len(estimate.influence)] = estimate.influence
            df = min(df, estimate.df)
        influences.append(of_documents[0] - of_documents[1])
        resolved.append(pair)
        fprs |= {each.fpr for each in TPRS if not tpr_at_fpr(pair[0][rows], labels[rows], each.fpr).reason}
    if not resolved:
        return confidence  # no difference has an interval
    bootstrap = Bootstrap(labels, codes, seed)
    drawn = [bootstrap.sums(np.array(influences))]
    if fprs:
        tprs = bootstrap.tprs([scores for pair in resolved for scores in pair], sorted(fprs))  # ours, theirs in turn
        drawn += list(np.moveaxis(tprs[::2] - tprs[1::2], 1, 0))
    errors = np.concatenate(drawn)
    critical = max_quantile(errors - errors.mean(axis=1, keepdims=True), df, confidence, seed)
    return 2 * float(scipy.special.stdtr(df, critical)) - 1
