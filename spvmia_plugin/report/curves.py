"""ROC curves with pointwise confidence bands, as arrays to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.metrics.arrays import Floats, cluster_codes
from spvmia_plugin.metrics.intervals import tpr_interval
from spvmia_plugin.metrics.roc import roc_curve, unresolved
from spvmia_plugin.metrics.summary import FPRS
from spvmia_plugin.results import Audit, TaskResult

BAND_POINTS = 28
"""False-positive rates at which a band is computed, on a geometric grid."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One attack's ROC curve, K points, and its band at M false-positive rates.

    Attributes:
        fpr: (K,) ascending, 0 to 1.
        tpr: (K,) ascending, 0 to 1.
        band_fpr: (M,) where the band is known, from 1/n non-members on; empty if that is too few.
        low: (M,) lower ends.
        high: (M,) upper ends.
        n_members: scored members.
        n_nonmembers: scored non-members.
    """

    fpr: Floats
    tpr: Floats
    band_fpr: Floats
    low: Floats
    high: Floats
    n_members: int
    n_nonmembers: int


def curve(audit: Audit, task: TaskResult, confidence: float = 0.95) -> Curve | None:
    """The ROC curve of one attack with its band; None if a class has no score.

    At each false-positive rate the band is the interval of `metrics.intervals.tpr_interval`: order statistics of the
    non-members bound the threshold, Clopper-Pearson the members' share above it, both with documents as the unit, and
    the two are combined by MOVER (docs/statistics.md). At 1 % it is therefore exactly the interval that the results
    file has. The band is pointwise: 95 % at each rate, less for the whole curve at once. Nothing in it is random.
    """
    scores, labels = audit.scores(task), audit.labels()
    scored = np.isfinite(scores)
    values, members = scores[scored], labels[scored]
    n_members, n_nonmembers = int(members.sum()), int((~members).sum())
    if not n_members or not n_nonmembers:
        return None
    codes = cluster_codes(
        [cluster for cluster, known in zip(audit.clusters(), scored, strict=True) if known], len(values)
    )
    roc = roc_curve(values, members)
    rates = [rate for rate in band_rates(n_nonmembers) if unresolved(n_members, n_nonmembers, rate) is None]
    ends = [tpr_interval(values, members, codes, rate, confidence) for rate in rates]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return Curve(roc.fpr, roc.tpr, np.array(rates), low, high, n_members, n_nonmembers)


def band_rates(n_nonmembers: int) -> list[float]:
    """Rates from 1/n to just below 1: attainable ones (k/n) on a geometric grid, and those the results name."""
    counts = np.unique(np.round(np.geomspace(1, max(n_nonmembers - 1, 1), BAND_POINTS)))
    return sorted({*(counts / n_nonmembers).tolist(), *(rate for rate in FPRS if rate * n_nonmembers >= 1)})
