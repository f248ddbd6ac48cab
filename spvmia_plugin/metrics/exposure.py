"""How exposed each member is: how it ranks among the records, under each attack.

This is exposure, never proof. A high score says that the model treats a record the way it treats its training data more
than it does most held-out records. It does not prove that the record was trained on, and a low score does not prove
that it is safe: other attacks may do better, and the shares below carry the error of a finite sample of non-members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
    """

    score: float
    rank: int
    nonmember_share: float | None


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
            "attacks": {
                name: {"score": found.score, "rank": found.rank, "nonmember_share": found.nonmember_share}
                for name, found in self.attacks.items()
            },
        }


def exposure(
    ids: Sequence[str], is_member: ArrayLike, scores_by_attack: Mapping[str, ArrayLike]
) -> list[MemberExposure]:
    """Exposure of every member over all attacks, the most exposed first (exposure, never proof).

    Args:
        ids: (n,) record ids.
        is_member: (n,) bool.
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.

    Returns:
        One entry for each member, by ascending `lowest_share`, then in the order given.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(len(ids)), is_member)
    per_attack = {name: _stand(name, scores, labels) for name, scores in scores_by_attack.items()}
    found = [
        _member(ids[row], {name: stand[row] for name, stand in per_attack.items() if row in stand})
        for row in np.flatnonzero(labels).tolist()
    ]
    return sorted(found, key=lambda member: 2.0 if member.lowest_share is None else member.lowest_share)


def _stand(name: str, scores: ArrayLike, labels: np.ndarray) -> dict[int, AttackExposure]:
    """Exposure under one attack by row, for the members it scored."""
    values: Floats = np.asarray(scores, dtype=np.float64)
    if values.shape != labels.shape:
        raise SpvmiaError(f"scores of {name}: expected {len(labels)} scores, got shape {values.shape}; NaN marks a gap")
    scored = np.isfinite(values)
    everyone, others = np.sort(values[scored]), np.sort(values[scored & ~labels])
    rows = np.flatnonzero(scored & labels)
    ranks = len(everyone) - np.searchsorted(everyone, values[rows], side="left")
    at_least = len(others) - np.searchsorted(others, values[rows], side="left")
    return {
        row: AttackExposure(float(values[row]), int(rank), int(count) / len(others) if len(others) else None)
        for row, rank, count in zip(rows.tolist(), ranks, at_least, strict=True)
    }


def _member(record_id: str, attacks: Mapping[str, AttackExposure]) -> MemberExposure:
    shares = {name: found.nonmember_share for name, found in attacks.items() if found.nonmember_share is not None}
    best = min(shares, key=lambda name: shares[name], default=None)
    return MemberExposure(record_id, attacks, shares[best] if best is not None else None, best)
