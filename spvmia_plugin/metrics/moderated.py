"""Variances of many records, each from few values, that lend each other strength.

A variance of four values is itself uncertain by a factor of two, and a test with it is one of luck. Where many records
are measured alike, their variances tell how much variances differ at all: each is drawn towards the common one, by as
much as the spread of all leaves to chance. Smyth 2004 (doi 10.2202/1544-6115.1027, section 6.2; `fitFDist` and
`squeezeVar` of limma): 1 / sigma^2 is distributed as chi^2 with d0 degrees of freedom over d0 s0^2. Both are estimated
from mean and variance of the logs of the observed variances, and the posterior mean of 1 / sigma^2 gives

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d),     (x - mean) / (s~ sqrt(1 + 1/k)) ~ t with d0 + d degrees of freedom

for a further value x beside k. For attacks by shadow models the same prior, normal-inverse-gamma, stands in BaVarIA
(Brännvall 2026, arXiv 2603.11799), whose abstract is all that could be read of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from spvmia_plugin.metrics.arrays import Floats

_LEAST = 1e-5
"""A variance is at least this share of the median one: the log of 0, which equal models give, is no number."""
_QUANTILES = 16
"""Of the spread, under which p-values are averaged."""


@dataclass(frozen=True)
class Moderated:
    """Variances of n records, shrunken.

    Attributes:
        variance: (n,) s~^2.
        freedom: (n,) d0 + d, infinity where all variances are one.
        prior: s0^2.
        prior_freedom: d0: how many values the common variance is worth; infinity where the variances differ by no more
            than chance.
    """

    variance: Floats
    freedom: Floats
    prior: float
    prior_freedom: float


def moderated(variance: Floats, freedom: NDArray[np.int64]) -> Moderated | None:
    """Shrink the variances of n records towards each other.

    Args:
        variance: (n,) of each record, unbiased; read where `freedom` is above 0.
        freedom: (n,) its degrees of freedom; a record with none gets the common variance.

    Returns:
        None where no record has a variance, or all are 0: nothing is known then.
    """
    found = _spread(variance, freedom)
    return None if found is None else _shrunken(variance, freedom, found, found.spread)


def plausible(variance: Floats, freedom: NDArray[np.int64]) -> list[Moderated]:
    """The same under each of the spreads that the records leave open, all equally probable.

    Of a hundred records with one degree of freedom each nobody can tell whether their variances differ: taken as equal,
    as estimated, they make a test that is three times too sure at .001. What is computed under each of these and
    averaged allows for that: the estimate's sampling distribution, normal about it and cut at 0, by its quantiles.

    Args:
        variance: as of `moderated`.
        freedom: likewise.

    Returns:
        One where the records leave nothing open; none where `moderated` has none.
    """
    found = _spread(variance, freedom)
    if found is None:
        return []
    if not found.error:
        return [_shrunken(variance, freedom, found, found.spread)]
    below = float(scipy.special.ndtr(-found.spread / found.error))
    quantiles = below + (1 - below) * (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    spreads = found.spread + found.error * scipy.special.ndtri(quantiles)
    return [_shrunken(variance, freedom, found, spread) for spread in spreads.tolist()]


@dataclass(frozen=True)
class _Spread:
    """How much variances differ.

    Attributes:
        known: the records that have one, in an order of their own.
        mean: of the logs of their variances, freed of the bias of few degrees of freedom.
        spread: variance of the logs beyond chance: trigamma(d0 / 2); 0 or less where chance explains all.
        error: standard error of that.
    """

    known: NDArray[np.intp]
    mean: float
    spread: float
    error: float


def _spread(variance: Floats, freedom: NDArray[np.int64]) -> _Spread | None:
    known = np.flatnonzero(freedom > 0)
    known = known[np.lexsort((freedom[known], variance[known]))]  # in whatever order they come: sums to the same bit
    if not variance[known].any():
        return None
    half = freedom[known] / 2
    # The median is 0 where most models are one and the same: then the mean.
    typical = float(np.median(variance[known])) or float(np.mean(variance[known]))
    logs = np.log(np.maximum(variance[known], _LEAST * typical)) - scipy.special.digamma(half) + np.log(half)
    mean = float(logs.mean())
    if len(logs) < 2:
        return _Spread(known, mean, 0.0, 0.0)
    observed = float(logs.var(ddof=1))
    error = math.sqrt(max(float(np.mean((logs - mean) ** 4)) - observed**2, 0.0) / len(logs))
    return _Spread(known, mean, observed - float(scipy.special.polygamma(1, half).mean()), error)


def _shrunken(variance: Floats, freedom: NDArray[np.int64], found: _Spread, spread: float) -> Moderated:
    """Under one spread of the logs."""
    if spread > 0:
        prior_freedom = 2 * _inverse_trigamma(spread)
        prior = math.exp(found.mean + float(scipy.special.digamma(prior_freedom / 2)) - math.log(prior_freedom / 2))
        total = np.asarray(prior_freedom + freedom, dtype=np.float64)
        shrunken: Floats = (prior_freedom * prior + np.where(freedom > 0, freedom * variance, 0.0)) / total
        return Moderated(shrunken, total, prior, prior_freedom)
    prior = float(np.average(variance[found.known], weights=freedom[found.known]))
    return Moderated(np.full_like(variance, prior), np.full_like(variance, math.inf), prior, math.inf)


def _inverse_trigamma(value: float) -> float:
    """y with trigamma(y) = `value` > 0, by Newton's method on 1 / trigamma, which is convex: Smyth 2004, appendix."""
    y, step = 0.5 + 1 / value, math.inf
    while abs(step) > 1e-8 * y:  # from below, in a handful of steps
        trigamma = float(scipy.special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(scipy.special.polygamma(2, y))
        y += step
    return y


EMPIRICAL = 0.16
"""The quantile below the median from which the spread of the null is read: the members are above, not below."""


def upper_p_values(t: Floats, freedom: Floats) -> Floats:
    """P values of n test statistics whose median is 0, one-sided upwards, that allow for a wider null.

    A statistic's own distribution is Student's. Where the statistics below their median are spread wider than that, the
    null is wider too: what is tested differs from what it is compared with by more than these differ among themselves.
    All are then divided by the ratio (Efron 2004, doi 10.1198/016214504000000089, whose empirical null is fitted to the
    centre; here to the lower side alone). They are never multiplied.

    Args:
        t: (n,) statistics.
        freedom: (n,) degrees of freedom, infinity for normal ones.
    """

    def below(quantile: float, of: float) -> float:
        return float(scipy.special.ndtri(quantile) if np.isinf(of) else scipy.special.stdtrit(of, quantile))

    # On the statistics' own scale: made normal first, heavy tails are drawn in, and the ratio is too large for them.
    widened = max(1.0, float(np.quantile(t, EMPIRICAL)) / below(EMPIRICAL, float(np.median(freedom))))
    normal = np.isinf(freedom)
    p_values: Floats = np.where(
        normal, scipy.special.ndtr(-t / widened), scipy.special.stdtr(np.where(normal, 1.0, freedom), -t / widened)
    )
    return p_values
