"""How exposed each member is: how it ranks among the records, under each attack.

This is exposure, never proof. A high score says that the model treats a record the way it treats its training data more
than it does most held-out records. It does not prove that the record was trained on, and a low score does not prove
that it is safe: other attacks may do better, and the shares below carry the error of a finite sample of non-members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Floats, check_labels


@dataclass(frozen=True, slots=True)
class AttackExposure:
    """Where one member stands under one attack.

    Attributes:
        score: its score, higher = more like training data.
        rank: 1 = highest among all scored records, members and non-members; equal scores share the lower place.
        nonmember_share: share of scored non-members that score at least as high, None if no non-member has a score.
            A share of 0 among n non-members means "fewer than about 3/n" at 95 %.
        p_value: of attacks that give one: how probable the score were if the record had not been seen.
    """

    score: float
    rank: int
    nonmember_share: float | None
    p_value: float | None = None

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        told: dict[str, object] = {"score": self.score, "rank": self.rank, "nonmember_share": self.nonmember_share}
        return told if self.p_value is None else {**told, "p_value": self.p_value}


@dataclass(frozen=True, slots=True)
class MemberExposure:
    """Exposure of one member; evidence of how visible it is, never proof that it was trained on.

    Attributes:
        id: the record's id.
        attacks: exposure by attack, for those that scored it.
        lowest_share: smallest `nonmember_share` over the attacks, None if there is none. It was chosen among several
            attacks and is too small by that; it orders the members, it is no error rate.
        lowest_share_attack: the attack it belongs to.
    """

    id: str
    attacks: Mapping[str, AttackExposure]
    lowest_share: float | None
    lowest_share_attack: str | None

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "id": self.id,
            "lowest_share": self.lowest_share,
            "lowest_share_attack": self.lowest_share_attack,
            "attacks": {name: found.to_json() for name, found in self.attacks.items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Exposures(Sequence[MemberExposure]):
    """Exposure of m members under k attacks, as columns: 100,000 members under 18 attacks take 40 MB.

    Attributes:
        ids: (m,) record ids.
        rows: (m,) their places among the records that were given.
        names: (k,) the attacks.
        scored: (k,) records that each attack scored.
        others: (k,) non-members among them.
        score: (k, m) scores, NaN where there is none.
        rank: (k, m) ranks among all scored records, 0 where there is none.
        at_least: (k, m) scored non-members that score at least as high, -1 where that is not known.
        p_value: (m,) by attack, of those that give p-values, NaN where a record has none.
    """

    ids: Sequence[str]
    rows: NDArray[np.int64]
    names: Sequence[str]
    scored: Sequence[int]
    others: Sequence[int]
    score: Floats
    rank: NDArray[np.int32]
    at_least: NDArray[np.int32]
    p_value: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of members."""
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> MemberExposure: ...
    @overload
    def __getitem__(self, place: slice) -> Exposures: ...
    def __getitem__(self, place: int | slice) -> MemberExposure | Exposures:
        """One member, made from the columns."""
        if isinstance(place, slice):
            return self.chosen(np.arange(len(self))[place])
        attacks: dict[str, AttackExposure] = {}
        shares: dict[str, float] = {}
        for number, name in enumerate(self.names):
            if self.rank[number, place]:
                if (count := int(self.at_least[number, place])) >= 0:
                    shares[name] = count / self.others[number]
                score, rank = float(self.score[number, place]), int(self.rank[number, place])
                p_value = float(self.p_value[name][place]) if name in self.p_value else np.nan
                attacks[name] = AttackExposure(score, rank, shares.get(name), None if np.isnan(p_value) else p_value)
        best = min(shares, key=lambda name: shares[name], default=None)
        return MemberExposure(self.ids[place], attacks, None if best is None else shares[best], best)

    def lowest_shares(self) -> Floats:
        """(m,) smallest `nonmember_share` over the attacks, infinity where there is none."""
        lowest = np.full(len(self), np.inf)
        for number, others in enumerate(self.others):
            known = self.at_least[number] >= 0
            lowest[known] = np.minimum(lowest[known], self.at_least[number, known] / max(others, 1))
        return lowest

    def chosen(self, places: NDArray[np.int64]) -> Exposures:
        """Some members, in the order of `places`."""
        return replace(
            self,
            ids=[self.ids[place] for place in places.tolist()],
            rows=self.rows[places],
            score=self.score[:, places],
            rank=self.rank[:, places],
            at_least=self.at_least[:, places],
            p_value={name: values[places] for name, values in self.p_value.items()},
        )


def exposure(
    ids: Sequence[str],
    is_member: ArrayLike,
    scores_by_attack: Mapping[str, ArrayLike],
    p_values_by_attack: Mapping[str, ArrayLike] | None = None,
) -> Exposures:
    """Exposure of every member over all attacks, the most exposed first (exposure, never proof).

    Args:
        ids: (n,) record ids.
        is_member: (n,) bool.
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        p_values_by_attack: (n,) p-values of the attacks that give them, NaN likewise.

    Returns:
        One entry for each member, by ascending `lowest_share`, then in the order given.

    Raises:
        SpvmiaError: lengths differ.
    """
    p_values = {name: np.asarray(given, dtype=np.float64) for name, given in (p_values_by_attack or {}).items()}
    _, labels = check_labels(np.zeros(len(ids)), is_member)
    rows = np.flatnonzero(labels)
    shape = len(scores_by_attack), len(rows)
    score, rank = np.full(shape, np.nan), np.zeros(shape, dtype=np.int32)
    at_least = np.full(shape, -1, dtype=np.int32)
    scored, others = [], []
    for number, (name, given) in enumerate(scores_by_attack.items()):
        values: Floats = np.asarray(given, dtype=np.float64)
        if values.shape != labels.shape or p_values.get(name, values).shape != labels.shape:
            raise SpvmiaError(
                f"scores of {name}: expected {len(labels)} scores, got shape {values.shape}; NaN marks a gap"
            )
        known = np.isfinite(values)
        everyone, without = np.sort(values[known]), np.sort(values[known & ~labels])
        ours = known[rows]
        mine = values[rows[ours]]
        score[number, ours] = mine
        rank[number, ours] = len(everyone) - np.searchsorted(everyone, mine, side="left")
        if len(without):
            at_least[number, ours] = len(without) - np.searchsorted(without, mine, side="left")
        scored.append(len(everyone))
        others.append(len(without))
    found = Exposures(
        [ids[row] for row in rows.tolist()],
        rows,
        list(scores_by_attack),
        scored,
        others,
        score,
        rank,
        at_least,
        {name: values[rows] for name, values in p_values.items()},
    )
    return found.chosen(np.argsort(found.lowest_shares(), kind="stable"))


def agreement(first: ArrayLike, second: ArrayLike, share: float) -> float:
    """Share that two lists of the same members, each the most exposed first, have in common at their tops.

    Two random orders have `share` of it in common on average. Members with equal scores at the end of a top share the
    places that are left there: what comes out is the mean over all orders of them, independent in the two lists.

    Args:
        first: (m,) scores of members, higher is more exposed.
        second: (m,) other scores of the same members, in the same order.
        share: how much of a list counts as its top, above 0 and at most 1; at least one member does.

    Raises:
        SpvmiaError: there are no members, or not as many of both, or a score is NaN.
    """
    one, other = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    missing = int(np.isnan(one).sum() + np.isnan(other).sum())
    if one.ndim != 1 or one.shape != other.shape or not len(one) or missing:
        raise SpvmiaError(
            f"lists of members: expected scores of the same members in both, got shapes {one.shape} and {other.shape}"
            f" with {missing} NaN; compare audits of the same records"
        )
    top = max(1, round(share * len(one)))
    return float(_places(one, top) @ _places(other, top)) / top


def _places(scores: Floats, top: int) -> Floats:
    """(m,) share of a place among the first `top` that each member has: 1, 0, or in between among equal ones."""
    last = np.partition(scores, -top)[-top]  # the lowest score that is among them
    above, tied = scores > last, scores == last
    left = top - int(above.sum())
    return np.where(tied, left / int(tied.sum()), above)
