"""Which of several models is surely ahead of which: all pairs of a board looked at together.

Of 20 equal models there are 190 pairs. With intervals that each hold for one model alone, two of these lie apart on a
third of all boards. Here the chance that a board of equal models calls any order sure is at most `CHANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

PRIVACY_CHANCE, CAPABILITY_CHANCE = 0.04, 0.01
CHANCE = PRIVACY_CHANCE + CAPABILITY_CHANCE
"""Of how many boards of equal models it is accepted that they call some order sure; four fifths of it for privacy."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number with its interval: NaN for both ends where its error is not known."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


def surely_below(numbers: Sequence[Bounds], chance: float, among: int | None = None) -> NDArray[np.bool_]:
    """Which numbers are surely smaller than which.

    Tukey's comparison of all pairs (Kramer 1956 for unequal errors): i is below j if

        x_j - x_i > q / sqrt 2 * sqrt(s_i^2 + s_j^2)

    with q the quantile of the studentised range of `among` numbers. s_i is the distance from x_i to the end of its
    interval that faces x_j, over the normal quantile of the interval's confidence: skewed intervals keep their skew
    (Zou and Donner 2008, Statistics in Medicine 27:1693). The errors count as independent. Those of models that were
    audited on the same records agree in part, which makes a claim rarer.

    Args:
        numbers: K of them.
        chance: that any of the claims is wrong where all numbers are equal.
        among: how many numbers the pairs are chosen from; K by default.

    Returns:
        (K, K), true at [i, j] where i is below j. Nothing is said of a number whose error is not known.
    """
    among = len(numbers) if among is None else among
    if min(among, len(numbers)) < 2:
        return np.zeros((len(numbers), len(numbers)), dtype=bool)
    value, low, high, z = np.array(
        [(each.value, each.low, each.high, _reach(each.confidence)) for each in numbers], dtype=float
    ).T
    below, above = (value - low) / z, (high - value) / z  # (K,) errors towards smaller and towards larger numbers
    critical = range_quantile(1 - chance, among) / math.sqrt(2)
    apart = value[None, :] - value[:, None]  # [i, j]: by how much j is larger
    sure: NDArray[np.bool_] = apart > critical * np.hypot(above[:, None], below[None, :])
    return sure


def surely_less(number: Bounds, than: float, among: int) -> bool:
    """Whether a number lies below a fixed one, at the confidence of its interval for `among` numbers together.

    Bonferroni's bound. Of one number alone: whether its whole interval does. A number without an interval does not.
    """
    alone = (1 - number.confidence) / 2
    further = -_NORMAL.inv_cdf(alone / among) / _reach(number.confidence)
    return bool(number.value + further * (number.high - number.value) < than)


def range_quantile(probability: float, among: int) -> float:
    """Quantile of the range of `among` standard normal numbers: that of the studentised range whose errors are known.

    With P(range <= q) = k * integral of phi(z) (Phi(z) - Phi(z - q))^(k - 1) dz, where z is the largest of the k
    (Tukey 1953). `scipy.stats.studentized_range` gives the same to nine digits, but importing it takes half a
    second, of which a board takes two.

    Args:
        probability: inside 0 to 1.
        among: k, at least 2.
    """
    # The integrand is smooth and dies off on either side, where equal steps are as exact as floats.
    step = 0.04
    largest = np.arange(-9.0, 9.0, step)
    density = among * step * np.exp(-(largest**2) / 2) / math.sqrt(2 * math.pi)
    below_largest = _normal_cdf(largest)
    low, high = 0.0, 18.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        within = np.sum(density * (below_largest - _normal_cdf(largest - middle)) ** (among - 1))
        low, high = (middle, high) if within < probability else (low, middle)
    return (low + high) / 2


def _normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values.tolist()])


def _reach(confidence: float) -> float:
    """How many standard errors an interval of that confidence reaches to either side."""
    return _NORMAL.inv_cdf((1 + confidence) / 2)
