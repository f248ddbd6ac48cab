"""The front of capability against privacy: who is on it, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spvmia_plugin.leaderboard.order import CAPABILITY_CHANCE, PRIVACY_CHANCE, Bounds, surely_below
from spvmia_plugin.web.text import listed

Place = Literal["front", "close", "behind"]

NAMED = 12
"""Models behind the front that the words name; of more they say how many there are."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model. On both axes larger is better, whatever the metrics' own directions.

    Attributes:
        name: the model.
        capability: its score.
        privacy: the negative of what it gives away.
        rank: stands for the name where that has no room.
        base: name of the model that it was fine-tuned from; None of such a model, and where nobody said.
    """

    name: str
    capability: Bounds
    privacy: Bounds
    rank: int | None = None
    base: str | None = None


def places(points: Sequence[Point], among: int | None = None, tables: int = 1) -> list[Place]:
    """Place of each point.

    Args:
        points: the models.
        among: how many models are ranked beside each other, those without this capability too; all of them by default.
        tables: of the board.

    Returns:
        "front": no other model is at least as good on both axes and better on one. "close": some are, but none of them
        is surely better on either axis. "behind": one of them surely is; see `order.surely_below`.
    """
    capable = surely_below([point.capability for point in points], CAPABILITY_CHANCE / tables, among)
    private = surely_below([point.privacy for point in points], PRIVACY_CHANCE / tables, among)

    def place(i: int) -> Place:
        ours, beaten_by = points[i], []
        for j, other in enumerate(points):
            ahead = other.capability.value - ours.capability.value, other.privacy.value - ours.privacy.value
            if min(ahead) >= 0 and max(ahead) > 0:
                beaten_by.append(j)
        if not beaten_by:
            return "front"
        return "behind" if any(capable[i, j] or private[i, j] for j in beaten_by) else "close"

    return [place(i) for i in range(len(points))]


def in_words(points: Sequence[Point], found: Sequence[Place]) -> str:
    """The picture for those who do not see it, by the `places` of its points."""
    by_place: dict[Place, list[str]] = {"front": [], "close": [], "behind": []}
    for point, place in zip(points, found, strict=True):
        by_place[place].append(point.name)
    sentences = [
        "On the front (no other model has numbers that are better on one axis and as good on the other): "
        f"{listed(by_place['front'])}."
    ]
    if by_place["close"]:
        sentences.append(
            f"Behind the front by less than the error bars can tell, on both axes: {_some(by_place['close'])}."
        )
    if by_place["behind"]:
        sentences.append(f"Behind it by more than the error bars on at least one axis: {_some(by_place['behind'])}.")
    return " ".join(sentences)


def _some(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= NAMED else f"{len(names)} models"
