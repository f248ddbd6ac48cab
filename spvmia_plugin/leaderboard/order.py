"""Which of several models is surely ahead of which: all pairs of a board looked at together.

Of 20 equal models there are 190 pairs. With intervals that each hold for one model alone, two of these lie apart on a
third of all boards. Here the chance that a board of equal models calls any order sure is at most `CHANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, studentized_range

PRIVACY_CHANCE, CAPABILITY_CHANCE = 0.04, 0.01
CHANCE = PRIVACY_CHANCE + CAPABILITY_CHANCE
"""Of how many boards of equal models it is accepted that they call some order sure; four fifths of it for privacy."""


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
    value, low, high, confidence = np.array(
        [(each.value, each.low, each.high, each.confidence) for each in numbers], dtype=float
    ).T
    z = norm.ppf((1 + confidence) / 2)
    below, above = (value - low) / z, (high - value) / z  # (K,) errors towards smaller and towards larger numbers
    critical = studentized_range.ppf(1 - chance, among, math.inf) / math.sqrt(2)
    apart = value[None, :] - value[:, None]  # [i, j]: by how much j is larger
    sure: NDArray[np.bool_] = apart > critical * np.hypot(above[:, None], below[None, :])
    return sure


def surely_less(number: Bounds, than: float, among: int) -> bool:
    """Whether a number lies below a fixed one, at the confidence of its interval for `among` numbers together.

    Bonferroni's bound. Of one number alone: whether its whole interval does. A number without an interval does not.
    """
    z = norm.ppf((1 + number.confidence) / 2)
    alone = (1 - number.confidence) / 2
    return bool(number.value + norm.isf(alone / among) / z * (number.high - number.value) < than)
