"""Several attacks on the same records: intervals that hold for all of them at once.

The records are the same, and the errors of the attacks correlated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    check_labels,
    cluster_codes,
)
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc
from spvmia_plugin.metrics.leaders import Compared, Leader, Strongest, best
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT, TPR_5PCT, TPRS, Metric, low_end
from spvmia_plugin.metrics.tpr import Bootstrap, tpr_at_fpr, tpr_interval

TOO_FEW_BESIDE = "too few documents with a score to be compared with the other attacks"
_FEW_DOCUMENTS, _FEW_SHARE = 10, 0.25
"""An attack that scored fewer effective documents of a class than both this and this share of the most is left out."""
_DRAWS = 20_000
"""Draws of the max statistic; its 95 % quantile is then good to about 1 %."""


def compare(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Compared:
    """Simultaneous intervals of the AUROC and the TPRs of several attacks on the same records.

    The largest of several numbers is too large on average, and an ordinary interval around it covers too rarely.
    Here the reach is the quantile of the largest absolute studentised deviation over all attacks and metrics (max
    statistic: Hothorn, Bretz and Westfall 2008), Student's t with the correlation of their errors over resampled
    documents: DeLong's structural components summed over the documents drawn, and TPRs whose threshold is estimated
    anew. The interval of an AUROC reaches so many standard errors, that of a TPR has the confidence that so many stand
    for. With probability `confidence` all of them cover, so whichever attack and metric is chosen for being large.
    Leave out what is no attack on the model (the blind baseline), and nothing else.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the resamples and the draws of the max statistic.
        confidence: that all the intervals hold.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    scores = {name: check_labels(scores_by_attack[name], labels)[0] for name in estimates}
    missing = without_interval(estimates)
    known = {name: estimate for name, estimate in estimates.items() if not missing[name]}
    scored = {name: np.isfinite(values) for name, values in scores.items()}
    points = {
        metric: {name: tpr_at_fpr(scores[name][rows], labels[rows], metric.fpr) for name, rows in scored.items()}
        for metric in TPRS
    }
    resolved = [metric for metric, found in points.items() if any(not found[name].reason for name in known)]
    critical = df = math.nan
    if known:
        rows_of_known = influences[[name in known for name in estimates]]
        errors = joint_errors([scores[name] for name in known], rows_of_known, labels, codes, resolved, seed)
        df = min(estimate.df for estimate in known.values())
        critical = max_quantile(errors, df, confidence, seed)
    pointwise = 2 * float(scipy.special.stdtr(df, critical)) - 1

    leaders: dict[str, dict[str, Leader]] = {metric.key: {} for metric in (AUROC, *TPRS)}
    for name, estimate in estimates.items():
        ends = estimate.interval_at(critical) if name in known else NAN_INTERVAL
        leaders[AUROC.key][name] = Leader(name, estimate.auroc, *ends, missing[name])
        rows = scored[name]
        for metric in TPRS:
            point, ends = points[metric][name], NAN_INTERVAL
            if not (reason := point.reason or missing[name]):
                ends = tpr_interval(scores[name][rows], labels[rows], codes[rows], metric.fpr, pointwise)
            leaders[metric.key][name] = Leader(name, point.tpr, *ends, reason)
    others = {name: int(np.sum(~labels & rows)) for name, rows in scored.items()}
    return Compared(leaders, _spoken_of(leaders, others).key, critical, len(estimates), confidence)


def _spoken_of(leaders: Mapping[str, Mapping[str, Leader]], others: Mapping[str, int]) -> Metric:
    """The TPR that speaks for the most exposed few.

    By the non-members that stand behind the attack which leads at 1 %. Where that TPR shows nothing and the other one
    does, the other: the intervals hold for both at once, so that the choice is free.

    Args:
        leaders: as in `Compared`, an attack's key being its name.
        others: non-members with a score, by attack.
    """
    first = {metric: best(metric.key, leaders[metric.key].values()) for metric in (TPR_1PCT, TPR_5PCT)}
    usual = low_end(others.get(str(first[TPR_1PCT].attack), 0))
    other = TPR_5PCT if usual is TPR_1PCT else TPR_1PCT
    shows = {metric: leader.excludes(metric.guess) for metric, leader in first.items()}
    return other if shows[other] and not shows[usual] else usual


def strongest(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Strongest:
    """The attack with most of each metric and its simultaneous interval: `compare`, which says what the arguments are.

    Raises:
        SpvmiaError: lengths differ.
    """
    return compare(scores_by_attack, is_member, clusters, seed=seed, confidence=confidence).strongest()


def without_interval(estimates: Mapping[str, AurocEstimate]) -> dict[str, str | None]:
    """Why an attack has no interval beside the others', by name; None where it has one.

    One that scored hardly anything has an error of few degrees of freedom, and the intervals of all reach as far as the
    least of these: it would take the others' from them. How many documents it scored says nothing of how well it did.
    """
    most = max((estimate.n_effective for estimate in estimates.values() if not estimate.reason), default=math.nan)
    return {
        name: estimate.reason
        or (TOO_FEW_BESIDE if estimate.n_effective < min(_FEW_DOCUMENTS, _FEW_SHARE * most) else None)
        for name, estimate in estimates.items()
    }


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


def joint_errors(
    scores: Sequence[Floats], influences: Floats, labels: Bools, codes: Codes, tprs: Sequence[Metric], seed: int
) -> Floats:
    """(K * (1 + len(tprs)), B) errors of the AUROC and the TPRs of K attacks, each in the same B resamples."""
    bootstrap = Bootstrap(labels, codes, seed)
    drawn = [bootstrap.sums(influences)]
    if tprs:
        drawn += list(np.moveaxis(bootstrap.tprs(scores, [metric.fpr for metric in tprs]), 1, 0))
    errors = np.concatenate(drawn)
    centred: Floats = errors - errors.mean(axis=1, keepdims=True)
    return centred


def max_quantile(errors: Floats, df: float, confidence: float, seed: int) -> float:
    """Quantile of max_k |T_k|, T multivariate t with the correlation of the rows of `errors` (K, B)."""
    return max_quantile_over([errors], df, confidence, seed)


def max_quantile_over(parts: Sequence[Floats], df: float, confidence: float, seed: int) -> float:
    """The same over several parts of errors (K, B), those of one independent of those of the others."""
    single = float(scipy.special.stdtrit(df, 0.5 + confidence / 2))
    rng = np.random.default_rng(seed)
    largest = np.zeros(_DRAWS)
    for errors in parts:
        norms = np.linalg.norm(errors, axis=1)
        unit = errors / np.where(norms > 0, norms, 1.0)[:, None]
        correlation = unit @ unit.T
        np.fill_diagonal(correlation, 1.0)  # what does not vary has no correlation: treated as independent
        eigenvalues, vectors = np.linalg.eigh(correlation)
        root = vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))
        normal = rng.standard_normal((_DRAWS, len(errors))) @ root.T
        largest = np.maximum(largest, np.abs(normal).max(axis=1))
    scale = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    return max(single, float(np.quantile(largest / scale, confidence)))
