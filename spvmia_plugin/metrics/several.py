"""Several attacks on the same records: the strongest, the mean of them, and what one has over another.

All know that the records are the same, and the errors of the attacks correlated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

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
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc, smoothed_share, tpr_replicates
from spvmia_plugin.metrics.names import AUROC, FPRS, TPRS
from spvmia_plugin.metrics.roc import tpr_at_fpr
from spvmia_plugin.util.schema import MaybeNumber

_DRAWS = 20_000
"""Draws of the max statistic; its 95 % quantile is then good to about 1 %."""


@dataclass(frozen=True, slots=True)
class Strongest:
    """The attack with the largest AUROC.

    Attributes:
        name: the attack, or None if no attack has an AUROC.
        auroc: its AUROC.
        interval: simultaneous over all attacks compared, hence valid for the one chosen.
        critical: standard errors (logit scale) the interval reaches to either side; about 1.96 for a single attack.
        n_attacks: attacks compared.
        confidence: of the interval.
        reason: why there is no number or no interval, or None.
    """

    name: str | None
    auroc: MaybeNumber
    interval: Interval
    critical: MaybeNumber
    n_attacks: int
    confidence: float
    reason: str | None = None


def strongest(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Strongest:
    """Find the attack with the largest AUROC and a simultaneous interval for it.

    The largest of several AUROCs is too large on average, and an ordinary interval around it covers too rarely.
    Here the reach is the quantile of the largest absolute studentised deviation over all attacks, whose joint
    distribution is Student's t with the correlation of DeLong's structural components by document (max statistic:
    Hothorn, Bretz and Westfall 2008). With probability `confidence` all intervals of that reach cover, so the
    chosen one's does. Leave out what is no attack on the model (the blind baseline), and nothing else.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the draws of the max statistic.
        confidence: of the interval.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    if not estimates:
        reason = "no attack has scores of both classes"
        return Strongest(None, math.nan, NAN_INTERVAL, math.nan, 0, confidence, reason)
    best = max(estimates, key=lambda name: estimates[name].auroc)
    unresolved = next((estimate.reason for estimate in estimates.values() if estimate.reason), None)
    if unresolved:
        auroc = estimates[best].auroc
        return Strongest(best, auroc, NAN_INTERVAL, math.nan, len(estimates), confidence, unresolved)
    df = min(estimate.df for estimate in estimates.values())
    critical = _max_quantile(influences, df, confidence, seed)
    interval = estimates[best].interval_at(critical)
    return Strongest(best, estimates[best].auroc, interval, critical, len(estimates), confidence)


def joint_estimates(
    scores_by_attack: Mapping[str, ArrayLike], labels: Bools, codes: Codes
) -> tuple[dict[str, AurocEstimate], Floats]:
    """AUROC estimates of the attacks that have scores of both classes, and their influences (K, C) by document.

    Raises:
        SpvmiaError: lengths differ.
    """
    estimates: dict[str, AurocEstimate] = {}
    influences = np.zeros((len(scores_by_attack), int(codes.max(initial=0)) + 1))
    for name, scores in scores_by_attack.items():
        values, _ = check_labels(scores, labels)
        scored = np.isfinite(values)
        if 0 < labels[scored].sum() < scored.sum():
            estimate = estimate_auroc(values[scored], labels[scored], codes[scored])
            influences[len(estimates), : len(estimate.influence)] = estimate.influence
            estimates[name] = estimate
    return estimates, influences[: len(estimates)]


def _max_quantile(influences: Floats, df: float, confidence: float, seed: int) -> float:
    """Quantile of max_k |T_k|, T multivariate t with the correlation of the rows of `influences` (K, C)."""
    single = float(stdtrit(df, 0.5 + confidence / 2))
    if len(influences) == 1:
        return single
    norms = np.linalg.norm(influences, axis=1)
    unit = influences / np.where(norms > 0, norms, 1.0)[:, None]
    correlation = unit @ unit.T
    np.fill_diagonal(correlation, 1.0)  # a constant score has no influence: treated as independent
    eigenvalues, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((_DRAWS, len(influences))) @ root.T
    scale = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    return max(single, float(np.quantile(np.abs(normal).max(axis=1) / scale, confidence)))


def error_correlations(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[tuple[str, str], float]]:
    """How the errors of attacks on the same records go together.

    Of AUROCs: the correlation of DeLong's structural components by document (DeLong, DeLong and Clarke-Pearson
    1988). Of TPRs: that of bootstrap replicates in which all attacks see the same documents drawn. Errors that do not
    vary in the sample (perfect separation) count as fully correlated: a mean's error is then too large rather than too
    small.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the bootstrap.

    Returns:
        By metric (auroc, tpr_at_1pct_fpr, tpr_at_0.1pct_fpr), by pair of attacks that have scores of both classes.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    names = list(estimates)
    found = {AUROC.key: _pairs(names, influences)}
    replicates = np.array(
        [
            tpr_replicates(np.asarray(scores_by_attack[name], dtype=np.float64), labels, codes, FPRS, seed)
            for name in names
        ]
    )
    for row, metric in enumerate(TPRS):
        draws: Floats = replicates[:, row] if names else influences
        centres: Floats = np.mean(draws, axis=1, keepdims=True)
        found[metric.key] = _pairs(names, draws - centres)
    return found


def _pairs(names: Sequence[str], errors: Floats) -> dict[tuple[str, str], float]:
    """Cosines between the rows of `errors` (K, anything); 1 where a row is 0 or NaN."""
    norms = np.linalg.norm(errors, axis=1)
    varies = norms > 0
    unit = np.where(varies[:, None], errors, 0.0) / np.where(varies, norms, 1.0)[:, None]
    cosines: Floats = unit @ unit.T
    cosines[~varies], cosines[:, ~varies] = 1.0, 1.0
    return {
        (one, other): float(cosines[i, j]) if i != j else 1.0
        for i, one in enumerate(names)
        for j, other in enumerate(names)
    }


def mean_stderr(stderrs: ArrayLike, weights: ArrayLike, correlations: ArrayLike) -> float:
    """Standard error of a weighted mean of estimates whose errors are correlated.

    Args:
        stderrs: (K,) of the estimates.
        weights: (K,) summing to 1.
        correlations: (K, K) of their errors; 0 for estimates from independent data.
    """
    parts: Floats = np.asarray(stderrs, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    variance = float(parts @ np.asarray(correlations, dtype=np.float64) @ parts)
    return math.sqrt(max(variance, 0.0))


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
    first, second = (np.unique(scores, return_inverse=True)[1] for scores in (ours, theirs))
    return bool(np.array_equal(first, second))


def _floor(apart: Bools, codes: Codes) -> float:
    """Standard error of a difference of two shares, at the share of members the attacks disagree on.

    Half a record is added to either side: two attacks that find all members, or none, differ in no resample, and might
    in the next audit.
    """
    share, trials = smoothed_share(apart, codes)
    return math.sqrt(share / (trials + 1))
