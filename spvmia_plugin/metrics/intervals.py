"""Standard errors and intervals of AUROC and of shares, with the document as the unit of resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, expit, logit, stdtrit

from spvmia_plugin.metrics.arrays import NAN_INTERVAL, Bools, Codes, Floats, Interval
from spvmia_plugin.metrics.roc import placements


@dataclass(frozen=True, slots=True, eq=False)
class AurocEstimate:
    """AUROC with what its uncertainty is computed from.

    Attributes:
        auroc: the estimate.
        stderr: its standard error.
        df: Satterthwaite's degrees of freedom of that error.
        n_effective: harmonic mean of the numbers of documents of the two classes.
        influence: (C,) contribution of each document to the estimate's deviation; stderr**2 is the sum of their
            squares, unless that is below the floor.
        reason: why stderr is NaN, or None.
    """

    auroc: float
    stderr: float
    df: float
    n_effective: float
    influence: Floats
    reason: str | None = None

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval at `confidence`, by Student's t on the logit scale."""
        return self.interval_at(float(stdtrit(self.df, 0.5 + confidence / 2)))

    def interval_at(self, critical: float) -> Interval:
        """The interval of `critical` standard errors on the logit scale.

        The centre is kept 1/(4 n_effective) away from 0 and 1, where the logit is not finite; the estimate itself
        always lies inside.
        """
        if self.reason:
            return NAN_INTERVAL
        margin = 1 / (4 * self.n_effective)
        centre = min(max(self.auroc, margin), 1 - margin)
        reach = critical * self.stderr / (centre * (1 - centre))
        lower, upper = expit(logit(centre) - reach), expit(logit(centre) + reach)
        return min(float(lower), self.auroc), max(float(upper), self.auroc)


def estimate_auroc(scores: Floats, is_member: Bools, codes: Codes) -> AurocEstimate:
    """AUROC and its standard error by DeLong's structural components, summed within documents.

    DeLong, DeLong and Clarke-Pearson (1988) in the O(n log n) form of Sun and Xu (2014); for several records per
    document Obuchowski (1997), where a document may hold one class or both. Where the components do not vary (perfect
    separation, a constant score) the error is not 0: it is floored at sqrt(1/32) / n_effective, so that perfect
    separation of n documents a class gives a lower limit near 1 - 1/n.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record, 0..C-1.
    """
    members, others = scores[is_member], scores[~is_member]
    of_members = placements(members, others)
    of_others = 1 - placements(others, members)
    auroc = float(np.mean(of_members))
    size = int(codes.max()) + 1
    sums_m, documents_m = _centred_sums(of_members - auroc, codes[is_member], size)
    sums_n, documents_n = _centred_sums(of_others - auroc, codes[~is_member], size)
    n_effective = 2 / (1 / documents_m + 1 / documents_n)
    if min(documents_m, documents_n) < 2:
        reason = "fewer than two documents in a class: no standard error"
        return AurocEstimate(auroc, math.nan, math.nan, n_effective, np.full(size, np.nan), reason)
    influence = sums_m + sums_n
    variance = float(np.sum(influence**2))
    floor = 1 / (32 * n_effective**2)
    df = _satterthwaite(float(np.sum(sums_m**2)), documents_m, float(np.sum(sums_n**2)), documents_n)
    return AurocEstimate(auroc, math.sqrt(max(variance, floor)), df, n_effective, influence)


def _centred_sums(deviations: Floats, codes: Codes, size: int) -> tuple[Floats, int]:
    """(size,) what each document adds to the mean's deviation, with the k/(k-1) correction; and k, its documents."""
    documents = len(np.unique(codes))
    correction = math.sqrt(documents / max(documents - 1, 1))
    return np.bincount(codes, weights=deviations, minlength=size) * correction / len(deviations), documents


def _satterthwaite(var_a: float, k_a: int, var_b: float, k_b: int) -> float:
    """Degrees of freedom of a sum of two variances of k_a and k_b units."""
    if var_a + var_b == 0:
        return float(k_a + k_b - 2)
    return (var_a + var_b) ** 2 / (var_a**2 / (k_a - 1) + var_b**2 / (k_b - 1))


def design_effect(indicator: Bools, codes: Codes) -> float:
    """How many times the variance of a share exceeds that of as many independent records; at least 1.

    Where the indicator does not vary there is nothing to estimate from: the number of records per document, which
    is right if the records of a document are copies.
    """
    n = len(indicator)
    deviations = indicator - np.mean(indicator)
    total = float(np.sum(deviations**2))
    documents, positions = np.unique(codes, return_inverse=True)
    k = len(documents)
    if total == 0 or k < 2:
        return n / k
    sums = np.bincount(positions, weights=deviations)
    return max(1.0, float(np.sum(sums**2)) * k / (k - 1) / (total * n / (n - 1)))


def clopper_pearson(successes: float, trials: float, confidence: float) -> Interval:
    """Clopper and Pearson's interval of a share; `trials` may be an effective size (Korn and Graubard 1998)."""
    tail = (1 - confidence) / 2
    failures = trials - successes
    lower = float(betaincinv(successes, failures + 1, tail)) if successes > 0 else 0.0
    upper = float(betaincinv(successes + 1, failures, 1 - tail)) if failures > 0 else 1.0
    return lower, upper
