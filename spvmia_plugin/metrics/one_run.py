"""A lower bound on epsilon from one training run whose members were chosen by coins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import ArrayLike

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Bools, Floats, check_labels
from spvmia_plugin.metrics.gaussian_dp import GaussianBound, gaussian_bound
from spvmia_plugin.util.schema import MaybeNumber

_FAIR_COIN_P = 1e-6
"""Counts of included canaries that fair coins give more rarely than this are refused."""
_PRECISION = 1e-6
"""To which epsilon is resolved."""


@dataclass(frozen=True, slots=True)
class CanaryAudit:
    """Result of the one-run audit.

    Attributes:
        epsilon_lb: with probability `confidence` the training is not (epsilon, delta)-differentially private for any
            epsilon below this; NaN if the audit is not possible.
        n_canaries: M, records included by a coin each.
        n_included: how many coins said yes.
        guesses_in: highest scores guessed "included".
        guesses_out: lowest scores guessed "not included".
        n_correct: guesses that were right.
        delta: of differential privacy.
        confidence: one-sided.
        gaussian_dp: a tighter bound from the same guesses, which rests on an assumption; None where earlier versions
            made none.
        reason: why epsilon_lb is NaN, or None.
    """

    epsilon_lb: MaybeNumber
    n_canaries: int
    n_included: int
    guesses_in: int
    guesses_out: int
    n_correct: int
    delta: float
    confidence: float
    gaussian_dp: GaussianBound | None = None
    reason: str | None = None


def default_guesses(n_canaries: int) -> tuple[int, int]:
    """How many of the highest and of the lowest scores are guessed: 2 sqrt(M) each, at least 10, at most half.

    A function of M alone, never of scores or coins. Few guesses cap what can be shown (r that are all right bound
    epsilon by about log(r / 3)), many are wrong where scores are close. In simulations of three kinds of mechanisms, M
    from 50 to 2000, it reaches nine tenths of what the best of six rules does on average, and two thirds at least.
    """
    each = min(n_canaries // 2, max(10, int(2 * math.sqrt(n_canaries))))
    return each, each


def epsilon_lower_bound(n_guesses: int, n_correct: int, n_total: int, delta: float, confidence: float) -> float:
    """Lower bound on epsilon from the number of correct guesses (Steinke, Nasr and Jagielski 2023, Theorem 5.2).

    Let M records be included by independent fair coins, r of them be guessed from the output of an
    (epsilon, delta)-DP algorithm, W guesses be right, and B ~ Binomial(r, e^eps / (1 + e^eps)). Then
    P[W >= v] <= P[B >= v] + 2 M delta max_i P[v - i <= B < v] / i, however dependent the outputs are. The bound is
    the largest epsilon that this rejects at level 1 - confidence, given r was fixed before the coins were seen.

    Args:
        n_guesses: r, fixed ahead.
        n_correct: v, how many were right.
        n_total: M, all records with a coin, guessed or not.
        delta: in [0, 1].
        confidence: one-sided, in (0, 1).

    Returns:
        epsilon >= 0; 0 where nothing is rejected.

    Raises:
        SpvmiaError: not 0 <= n_correct <= n_guesses <= n_total, or delta or confidence out of range.
    """
    if not 0 <= n_correct <= n_guesses <= n_total:
        raise SpvmiaError(
            "one-run audit: expected 0 <= correct <= guesses <= canaries, "
            f"got {n_correct}, {n_guesses}, {n_total}; count guesses among the canaries only"
        )
    if not (0 <= delta <= 1 and 0 < confidence < 1):
        raise SpvmiaError(
            "one-run audit: expected delta in [0, 1] and confidence in (0, 1), "
            f"got {delta} and {confidence}; pass for example 1e-5 and 0.95"
        )
    return _largest_rejected(n_guesses, n_correct, n_total, delta, 1 - confidence)


@lru_cache(maxsize=4096)
def _largest_rejected(n_guesses: int, n_correct: int, n_total: int, delta: float, level: float) -> float:
    """Bisect for the largest rejected epsilon.

    An (eps, delta)-DP algorithm is (eps', delta)-DP for every eps' > eps, so a rejection at eps' is one at eps, and any
    rejected epsilon found is a valid bound.
    """
    if p_value(n_guesses, n_correct, n_total, 0.0, delta) >= level:
        return 0.0
    rejected, kept = 0.0, 1.0
    while p_value(n_guesses, n_correct, n_total, kept, delta) < level:
        rejected, kept = kept, 2 * kept
    while kept - rejected > _PRECISION:
        middle = (rejected + kept) / 2
        if p_value(n_guesses, n_correct, n_total, middle, delta) < level:
            rejected = middle
        else:
            kept = middle
    return rejected


def p_value(n_guesses: int, n_correct: int, n_total: int, epsilon: float, delta: float) -> float:
    """Largest probability of so many correct guesses under (epsilon, delta)-DP, by the theorem; in [0, 1]."""
    if n_correct == 0:
        return 1.0
    exactly = np.exp(_log_binomial(np.arange(n_guesses + 1, dtype=np.float64), n_guesses, epsilon))
    at_least = float(np.sum(exactly[n_correct:]))
    just_below = np.cumsum(exactly[:n_correct][::-1])  # entry i - 1: P[v - i <= B < v]
    steepest = float(np.max(just_below / np.arange(1, n_correct + 1)))
    return min(1.0, at_least + 2 * n_total * delta * steepest)


def _log_binomial(successes: Floats, trials: int, epsilon: float) -> Floats:
    """Log-probabilities of Binomial(trials, e^eps / (1 + e^eps))."""
    failures = trials - successes
    ways = (
        scipy.special.gammaln(trials + 1) - scipy.special.gammaln(successes + 1) - scipy.special.gammaln(failures + 1)
    )
    log_probs: Floats = (
        ways + successes * scipy.special.log_expit(epsilon) + failures * scipy.special.log_expit(-epsilon)
    )
    return log_probs


def canary_audit(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    guesses: tuple[int, int] | None = None,
    delta: float = 1e-5,
    confidence: float = 0.95,
    seed: int = 0,
) -> CanaryAudit:
    """Guess the coins of the canaries with the most extreme scores, and bound epsilon by how many are right.

    Equal scores are put in a random order that knows nothing of the coins. A canary without a score is not guessed;
    if fewer than the guesses have one, the missing guesses count as wrong.

    Args:
        scores: (M,) score of each canary, higher = included, NaN where there is none.
        included: (M,) bool, its coin; fair and independent, or the bound means nothing.
        guesses: how many of the highest to guess "included" and of the lowest "not included", fixed before anything
            is seen; `default_guesses(M)` if None.
        delta: of differential privacy, in [0, 1].
        confidence: one-sided.
        seed: of the order of equal scores.

    Raises:
        SpvmiaError: lengths differ, more guesses than canaries, delta or confidence out of range.
    """
    values, coins = check_labels(scores, included)
    total, heads = len(values), int(coins.sum())
    n_in, n_out = guesses if guesses is not None else default_guesses(total)
    reason = _unusable(values, heads)
    correct = 0 if reason else _count_correct(values, coins, n_in, n_out, seed)
    bound = epsilon_lower_bound(n_in + n_out, correct, total, delta, confidence)
    if reason:
        none = GaussianBound(math.nan, math.nan)
        return CanaryAudit(math.nan, total, heads, n_in, n_out, correct, delta, confidence, none, reason)
    gaussian = gaussian_bound(n_in + n_out, correct, total, delta, 1 - confidence)
    return CanaryAudit(bound, total, heads, n_in, n_out, correct, delta, confidence, gaussian)


def _unusable(values: Floats, heads: int) -> str | None:
    """Why no bound can be given, or None."""
    if not np.isfinite(values).any():
        return "no canary has a score"
    tail = 2 * float(scipy.special.bdtr(min(heads, len(values) - heads), len(values), 0.5))
    if tail < _FAIR_COIN_P:
        return (
            f"{heads} of {len(values)} canaries are included: fair coins do not give this, so the bound would not hold"
        )
    return None


def _count_correct(values: Floats, coins: Bools, n_in: int, n_out: int, seed: int) -> int:
    """Right guesses among the n_in highest and n_out lowest scores."""
    shuffled = np.random.default_rng(seed).permutation(len(values))
    shuffled = shuffled[np.isfinite(values[shuffled])]
    ascending = shuffled[np.argsort(values[shuffled], kind="stable")]
    guessed_in = ascending[max(len(ascending) - n_in, 0) :]
    guessed_out = ascending[: min(n_out, len(ascending) - len(guessed_in))]
    return int(coins[guessed_in].sum()) + int((~coins[guessed_out]).sum())
