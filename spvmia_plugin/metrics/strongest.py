"""The strongest of several attacks, with an interval that allows for having chosen it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    Interval,
    check_labels,
    cluster_codes,
    json_interval,
    json_number,
)
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc

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
    auroc: float
    interval: Interval
    critical: float
    n_attacks: int
    confidence: float
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        """JSON-ready, None for NaN."""
        return {
            "name": self.name,
            "auroc": json_number(self.auroc),
            "interval": json_interval(self.interval),
            "critical": json_number(self.critical),
            "n_attacks": self.n_attacks,
            "confidence": self.confidence,
            "reason": self.reason,
        }


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
