"""The TPR at a low FPR: the number, its interval, and its bootstrap. Members are positive, a higher score means member.

With n non-members the threshold stands at rank r = FPR * (n + 1) among them, highest score first, because the j-th
highest of n has an FPR of j / (n + 1) on average: that way an attack that guesses gets a TPR of FPR on average, at any
n. Between two ranks the TPRs at both are interpolated. Tied records move together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, Interval, check_scores
from spvmia_plugin.metrics.intervals import clopper_pearson, design_effect

_ROUNDING = 1e-9
"""n * fpr is compared with whole numbers up to this, because 0.01 is not exact in binary."""
RESAMPLES = 400
"""Bootstrap replicates for the standard error of a TPR: its own Monte-Carlo error is then 3.5 %."""
_CHUNK = 4_000_000
"""Most weights held at once in a bootstrap."""


@dataclass(frozen=True, slots=True)
class TprAtFpr:
    """TPR at an FPR.

    Attributes:
        tpr: read at rank FPR * (n + 1) of the non-members; NaN if not resolved.
        largest: the convention of the literature: the largest TPR among thresholds whose FPR on these non-members is at
            most the bound. An attack that guesses gets (k + 1) / (n + 1) there on average, k = floor(n * FPR): 2 % at
            "1 %" and n = 100.
        realised_fpr: the FPR at that threshold, never above the bound.
        threshold: smallest score that counts as "member" there, the lowest the bound allows; infinity if none may.
        reason: why there is no number, or None.
    """

    tpr: float
    largest: float
    realised_fpr: float
    threshold: float
    reason: str | None = None


def tpr_at_fpr(scores: ArrayLike, is_member: ArrayLike, fpr: float) -> TprAtFpr:
    """The TPR at an FPR, and what the literature's convention gives.

    With fewer than 1/fpr non-members not one of them may score above the threshold, so that the FPR is not
    resolved: NaN with a reason.

    Args:
        scores: (n,) finite scores, higher = member.
        is_member: (n,) bool.
        fpr: in (0, 1).

    Raises:
        SpvmiaError: shapes differ, or a score is not finite.
    """
    values, labels = check_scores(scores, is_member)
    members, others = values[labels], np.sort(values[~labels])[::-1]
    reason = unresolved(len(members), len(others), fpr)
    if reason:
        return TprAtFpr(math.nan, math.nan, math.nan, math.nan, reason)
    rank, share = _rank(len(others), fpr)
    tpr = (1 - share) * np.mean(members > others[rank - 1])
    if share:
        tpr += share * np.mean(members > others[rank]) if rank < len(others) else share
    first_excluded = others[math.floor(len(others) * fpr + _ROUNDING)]
    accepted = values[values > first_excluded]
    return TprAtFpr(
        tpr=float(tpr),
        largest=float(np.mean(members > first_excluded)),
        realised_fpr=float(np.mean(others > first_excluded)),
        threshold=float(accepted.min()) if len(accepted) else math.inf,
    )


def _rank(n_nonmembers: int, fpr: float) -> tuple[int, float]:
    """Rank of the threshold from 1, and how far it lies on the way to the next."""
    rank = fpr * (n_nonmembers + 1)
    whole = math.floor(rank + _ROUNDING)
    return whole, max(rank - whole, 0.0)


def _near_threshold(others: Floats, fpr: float) -> float:
    """The score of the non-member below the threshold; they are ordered, highest first."""
    return float(others[min(_rank(len(others), fpr)[0], len(others) - 1)])


def unresolved(n_members: int, n_nonmembers: int, fpr: float) -> str | None:
    """Why the TPR at `fpr` cannot be told from so many records, or None if it can."""
    if n_members == 0:
        return "no member has a score"
    if n_nonmembers == 0:
        return "no non-member has a score"
    if n_nonmembers * fpr < 1 - _ROUNDING:
        needed = math.ceil(1 / fpr - _ROUNDING)
        others = "1 non-member" if n_nonmembers == 1 else f"{n_nonmembers} non-members"
        return f"{others} cannot resolve an FPR of {100 * fpr:g} %: at least {needed} are needed"
    return None


def tpr_interval(scores: Floats, is_member: Bools, codes: Codes, fpr: float, confidence: float) -> Interval:
    """Interval of the TPR at FPR `fpr`, the threshold being estimated as well.

    Two sources of error are bounded and then combined. The share of members above the threshold: Clopper-Pearson.
    The threshold: order statistics of the non-members: the j-th largest of n has an exceedance share distributed as
    Beta(j, n - j + 1), so some order statistics lie above and below the true threshold with known probability. The
    members strictly above the first are at most as many as above the threshold, those at or above the second at least
    as many, however scores are tied. The distances from the estimate are added as the root of the sum of squares
    (MOVER: Zou and Donner 2008). Several records per document shrink both sample sizes by `design_effect`.

    Where no order statistic lies surely above the true threshold (n < 3.7/fpr at 95 %), the highest non-member stands
    in: its FPR is at most some u > fpr with that probability, and the TPR at fpr is then taken to be at least fpr / u
    of the TPR there. That holds for every ROC curve whose TPR/FPR does not fall towards 0, so for one that guesses.

    Of documents of several records some may be memorised whole, and none of these be among the few that were audited;
    of non-members a whole document may lie above the threshold likewise. The limit above and the threshold that lies
    surely above the true one count one document more of that kind (`design_effect`); where every document is one
    record nothing changes.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, members and at least 1/fpr non-members.
        codes: (n,) document of each record.
        fpr: of the threshold.
        confidence: two-sided.
    """
    members, others = scores[is_member], np.sort(scores[~is_member])[::-1]
    tpr = tpr_at_fpr(scores, is_member, fpr).tpr
    near = _near_threshold(others, fpr)
    hits, accused = members > near, scores[~is_member] > near
    trials = len(members) / design_effect(hits, codes[is_member])
    fewer_trials = min(trials, len(members) / design_effect(hits, codes[is_member], unseen=True))
    low_share, _ = clopper_pearson(tpr * trials, trials, confidence)
    _, high_share = clopper_pearson(tpr * fewer_trials, fewer_trials, confidence)

    tail = (1 - confidence) / 2
    n_effective = len(others) / design_effect(accused, codes[~is_member])
    _, exceedance_below_fpr = _exceedance(len(others), n_effective, fpr)
    surely_below = np.flatnonzero(exceedance_below_fpr <= tail)
    n_effective = min(n_effective, len(others) / design_effect(accused, codes[~is_member], unseen=True))
    ranks, exceedance_below_fpr = _exceedance(len(others), n_effective, fpr)
    surely_above = np.flatnonzero(exceedance_below_fpr >= 1 - tail)
    above = others[surely_above[-1]] if len(surely_above) else others[0]
    below = others[surely_below[0]] if len(surely_below) else -math.inf
    fewest, most = float(np.mean(members > above)), float(np.mean(members >= below))
    if not len(surely_above):
        fewest *= fpr / float(scipy.special.betaincinv(ranks[0], n_effective - ranks[0] + 1, 1 - tail))
    lower = tpr - math.hypot(tpr - min(low_share, tpr), tpr - min(fewest, tpr))
    upper = tpr + math.hypot(max(high_share, tpr) - tpr, max(most, tpr) - tpr)
    # Where many share one score the threshold jumps over all of them at once, and no longer rarely: from where it is
    # estimated up to a limit, or the other way.
    at = others[max(_rank(len(others), fpr)[0] - 1, 0)]
    if _are_tied(others, near, above):
        lower = min(lower, clopper_pearson(fewest * trials, trials, confidence)[0])
    if _are_tied(others, below, at):
        upper = max(upper, clopper_pearson(most * fewer_trials, fewer_trials, confidence)[1])
    return max(lower, 0.0), min(upper, 1.0)


def _exceedance(n: int, n_effective: float, fpr: float) -> tuple[Floats, Floats]:
    """(n,) effective ranks of n ordered non-members, and how surely the share above each is below `fpr`."""
    ranks = np.arange(1, n + 1, dtype=np.float64) * (n_effective / n)
    below: Floats = scipy.special.betainc(ranks, n_effective - ranks + 1, fpr)
    return ranks, below


def _are_tied(scores: Floats, low: float, high: float) -> bool:
    """Whether any scores from `low` to `high` are equal."""
    inside = scores[(scores >= low) & (scores <= high)]
    return len(np.unique(inside)) < len(inside)


def tpr_stderrs(scores: Floats, is_member: Bools, codes: Codes, fprs: Sequence[float], drawn: Floats) -> list[float]:
    """Standard error of the TPR at each FPR: the spread of its bootstrap.

    A TPR of 0 or 1 does not vary in the bootstrap; the error is at least the binomial one at a share half a record away
    from 0 and 1.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record.
        fprs: of the thresholds.
        drawn: (len(fprs), B) replicates, from `Bootstrap.tprs`.
    """
    members, others = scores[is_member], np.sort(scores[~is_member])[::-1]
    floors: list[float] = []
    for fpr in fprs:
        hits = members > _near_threshold(others, fpr)
        share, trials = smoothed_share(hits, codes[is_member])
        floors.append(math.sqrt(share * (1 - share) / (trials + 1)))
    return [max(float(sd), floor) for sd, floor in zip(np.std(drawn, axis=1, ddof=1), floors, strict=True)]


def smoothed_share(indicator: Bools, codes: Codes) -> tuple[float, float]:
    """The share of records an indicator holds for, half a record added to either side, and their effective number."""
    trials = len(indicator) / design_effect(indicator, codes)
    return (float(np.mean(indicator)) * trials + 0.5) / (trials + 1), trials


class Bootstrap:
    """Resamples of documents, the same for all attacks on the same records: their replicates belong together.

    Documents are drawn with replacement within strata (members only, non-members only, both), 400 times. Weights are
    drawn anew, from the seed, whenever they are asked for: they take 400 numbers a document.

    Args:
        is_member: (n,) bool.
        codes: (n,) document of each record, 0..C-1.
        seed: of the local generator.
    """

    def __init__(self, is_member: Bools, codes: Codes, seed: int) -> None:
        self._is_member, self._codes, self._seed = is_member, codes, seed
        size = int(codes.max(initial=-1)) + 1
        held = [np.bincount(codes[side], minlength=size) > 0 for side in (is_member, ~is_member)]
        kind = held[0] + 2 * held[1]
        self._strata = [np.flatnonzero(kind == value) for value in np.unique(kind)]
        self._size = size

    def _weights(self) -> Iterator[Floats]:
        """(b, C) how often each document is drawn, in so many chunks that all have 400 rows."""
        rng = np.random.default_rng(self._seed)
        batch = max(1, min(RESAMPLES, _CHUNK // len(self._codes)))
        for start in range(0, RESAMPLES, batch):
            times = min(batch, RESAMPLES - start)
            weights = np.zeros((times, self._size))
            for stratum in self._strata:
                k = len(stratum)
                picks = rng.integers(k, size=(times, k)) + k * np.arange(times)[:, None]
                weights[:, stratum] = np.bincount(picks.ravel(), minlength=times * k).reshape(times, k)
            yield weights

    def tprs(self, scores_of: Sequence[Floats], fprs: Sequence[float]) -> Floats:
        """(K, len(fprs), 400) TPRs of each attack in each resample, the threshold estimated anew.

        Args:
            scores_of: K times (n,) scores, NaN for records that have none; both classes have some.
            fprs: of the thresholds.
        """
        attacks = [_Ordered(scores, self._is_member, self._codes) for scores in scores_of]
        drawn = [[attack.tprs(weights, fprs) for attack in attacks] for weights in self._weights()]
        return np.concatenate(drawn, axis=2) if attacks else np.zeros((0, len(fprs), RESAMPLES))

    def sums(self, influences: Floats) -> Floats:
        """(K, 400) of each resample the sum of the drawn documents' influences (K, C)."""
        return np.concatenate([influences @ weights.T for weights in self._weights()], axis=1)


class _Ordered:
    """One attack's scored records, highest first, and how many members lie above each non-member."""

    def __init__(self, scores: Floats, is_member: Bools, codes: Codes) -> None:
        scored = np.isfinite(scores)
        members, others = (_descending(scores, side & scored) for side in (is_member, ~is_member))
        self._members, self._others = codes[members], codes[others]
        self._above = len(members) - np.searchsorted(scores[members][::-1], scores[others], side="right")

    def tprs(self, weights: Floats, fprs: Sequence[float]) -> Floats:
        """(len(fprs), b) TPRs of weighted documents (b, C).

        Only what lies above the thresholds is gone through, a few per cent; weights are whole numbers, and their sums
        exact in any order.
        """
        size = weights.shape[1]
        every = np.maximum(weights @ np.bincount(self._members, minlength=size).astype(np.float64), 1.0)
        drawn = weights @ np.bincount(self._others, minlength=size).astype(np.float64)
        rank = np.multiply.outer(drawn + 1, np.asarray(fprs))  # (b, F)
        whole = np.floor(rank + _ROUNDING)
        share = np.maximum(rank - whole, 0.0)
        # The j-th highest of the drawn is the first at which j of them have come. A row at a time is a binary search.
        wanted = np.concatenate([whole, whole + 1], axis=1)
        others = self._down_to(weights, float(wanted.max()))
        places = np.array([np.searchsorted(row, ranks) for row, ranks in zip(others, wanted, strict=True)])
        # Members above the non-member at each place; past the last one every member is.
        counts = np.append(self._above, len(self._members))[places]
        members = np.cumsum(weights[:, self._members[: counts.max()]], axis=1)
        members = np.concatenate([np.zeros((len(weights), 1)), members], axis=1)
        above = np.take_along_axis(members, counts, axis=1) * (wanted > 0)
        at, after = np.split(above, 2, axis=1)
        found: Floats = (((1 - share) * at + share * after) / every[:, None]).T
        return found

    def _down_to(self, weights: Floats, rank: float) -> Floats:
        """(b, n) how many non-members are drawn down to each, as far down as `rank` or the last of them."""
        depth = int(rank)
        while True:
            depth = min(2 * depth + 1, len(self._others))
            others: Floats = np.cumsum(weights[:, self._others[:depth]], axis=1)
            if depth == len(self._others) or others[:, -1].min() >= rank:
                return others


def _descending(scores: Floats, chosen: Bools) -> Codes:
    """Indices of the chosen records, highest score first."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-scores[rows], kind="stable")]
