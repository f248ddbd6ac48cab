"""What right guesses of one run say if the training is Gaussian-differentially private, for some mu.

Mahloujifar, Melis and Chaudhuri 2025 (arXiv 2410.22235, Algorithm 3) audit a whole trade-off curve in one run. An
algorithm is mu-GDP (Dong, Roth and Su 2022) if for any two inputs that differ in one record and any event E,
P'[E] <= F(P[E]) with F(x) = Phi(Phi^-1(x) + mu): no easier to tell apart than N(0, 1) from N(mu, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import scipy

from spvmia_plugin.util.schema import MaybeNumber

ASSUMPTION = (
    "the training is mu-Gaussian differentially private for some mu, as added Gaussian noise makes it; of other "
    "training this says nothing"
)
_PRECISION = 1e-6
"""To which mu is resolved."""


@dataclass(frozen=True, slots=True)
class GaussianBound:
    """A bound within the family of Gaussian mechanisms.

    Attributes:
        mu_lb: with the confidence of the audit the training is not mu-GDP for any mu below this; NaN if the audit is
            not possible.
        epsilon_lb: what `mu_lb` is in epsilon, at the audit's delta.
        assumption: under which `epsilon_lb` is a bound on epsilon.
    """

    mu_lb: MaybeNumber
    epsilon_lb: MaybeNumber
    assumption: str = ASSUMPTION


def gaussian_bound(n_guesses: int, n_correct: int, n_total: int, delta: float, level: float) -> GaussianBound:
    """The largest mu that so many right guesses reject, and its epsilon.

    Args:
        n_guesses: r, fixed before the coins were seen.
        n_correct: v, how many were right.
        n_total: M, all records with a fair coin of their own, guessed or not.
        delta: in [0, 1]; at 0 no mu > 0 has a finite epsilon.
        level: 1 - confidence.
    """
    mu = _largest_rejected(n_guesses, n_correct, n_total, level)
    return GaussianBound(mu, gaussian_epsilon(mu, delta))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon at which every mu-GDP algorithm is (epsilon, delta)-DP (Dong, Roth and Su 2022, Corollary 1).

    delta(eps) = Phi(-eps / mu + mu / 2) - e^eps Phi(-eps / mu - mu / 2).
    """

    def surplus(epsilon: float) -> float:
        second = math.exp(epsilon + scipy.special.log_ndtr(-epsilon / mu - mu / 2))
        return float(scipy.special.ndtr(-epsilon / mu + mu / 2)) - second - delta

    if mu == 0 or surplus(0.0) <= 0:
        return 0.0
    if delta == 0:
        return math.inf
    high = 1.0
    while surplus(high) > 0:
        high *= 2
    return float(scipy.optimize.brentq(surplus, 0.0, high))


@lru_cache(maxsize=4096)
def _largest_rejected(n_guesses: int, n_correct: int, n_total: int, level: float) -> float:
    """Bisect: what is mu-GDP is so for every larger mu, so that a rejected mu rejects all below it."""
    if not rejects(n_guesses, n_correct, n_total, 0.0, level):
        return 0.0
    rejected, kept = 0.0, 1.0
    while rejects(n_guesses, n_correct, n_total, kept, level):
        rejected, kept = kept, 2 * kept
    while kept - rejected > _PRECISION:
        middle = (rejected + kept) / 2
        if rejects(n_guesses, n_correct, n_total, middle, level):
            rejected = middle
        else:
            kept = middle
    return rejected


def rejects(n_guesses: int, n_correct: int, n_total: int, mu: float, level: float) -> bool:
    """Whether mu-GDP gives v or more right guesses of r a probability below `level`.

    Let W be the number of right guesses, p_k = P[W = k], and for a canary j, W_j the right guesses but for its own.
    Swapping j's coin turns a wrong guess at it into a right one and leaves W_j, a function of the output and the other
    coins. So P[j right, W_j >= i] <= F(P[j wrong, W_j >= i]), and, F being concave, the same holds of the means over
    all M canaries. j right and W_j = k means W = k + 1; k + 1 canaries are right then, and r - k are wrong at W = k:

        sum_{k > i} k p_k / M  <=  F( sum_{k >= i} (r - k) p_k / M )   for every i.

    Solved for T_i = P[W >= i], with A_i = sum_{k > i} T_k, that is

        T_i >= max( T_{i+1}, (A_i + M F^-1((i T_{i+1} + A_i) / M)) / (r - i) ).

    The right side grows with T_{i+1} and A_i: with T_v = `level` and A_v = 0, the least they can be, equality from
    i = v - 1 down gives the least T_0 there can be. Where that exceeds 1 there is no such distribution, and none with
    a larger T_v.
    """
    if n_correct == 0:
        return False  # no fewer are possible: the probability is 1
    tail, above = level, 0.0
    for i in range(n_correct - 1, -1, -1):
        above += tail
        wrong = float(scipy.special.ndtr(scipy.special.ndtri(min(1.0, (i * tail + above) / n_total)) - mu))
        tail = max(tail, (above + n_total * wrong) / (n_guesses - i))
        if tail > 1:
            return True
    return False
