"""Who is on the front of capability against privacy, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Place = Literal["front", "close", "behind"]


@dataclass(frozen=True, slots=True)
class Point:
    """One model. On both axes larger is better, whatever the metrics' own directions.

    Attributes:
        name: the model.
        capability: value, lower end, upper end.
        privacy: value, lower end, upper end.
        rank: stands for the name where that has no room.
    """

    name: str
    capability: tuple[float, float, float]
    privacy: tuple[float, float, float]
    rank: int | None = None


def places(points: Sequence[Point]) -> list[Place]:
    """Place of each point.

    Returns:
        "front": no other model is at least as good on both axes and better on one. "behind": some model's intervals
        lie wholly above this one's on both axes. "close": dominated, but the intervals do not tell.
    """
    return [_place(point, points) for point in points]


def _place(point: Point, points: Sequence[Point]) -> Place:
    if not any(_dominates(other, point) for other in points):
        return "front"
    return "behind" if any(_clearly_dominates(other, point) for other in points) else "close"


def _dominates(other: Point, point: Point) -> bool:
    pairs = [(other.capability[0], point.capability[0]), (other.privacy[0], point.privacy[0])]
    return all(theirs >= ours for theirs, ours in pairs) and any(theirs > ours for theirs, ours in pairs)


def _clearly_dominates(other: Point, point: Point) -> bool:
    return other.capability[1] > point.capability[2] and other.privacy[1] > point.privacy[2]


def in_words(points: Sequence[Point]) -> str:
    """The picture for those who do not see it."""
    by_place: dict[Place, list[str]] = {"front": [], "close": [], "behind": []}
    for point, place in zip(points, places(points), strict=True):
        by_place[place].append(point.name)
    sentences = [f"On the front (no other model is both more capable and more private): {_listed(by_place['front'])}."]
    if by_place["close"]:
        sentences.append(f"Behind the front by less than the error bars can tell: {_listed(by_place['close'])}.")
    if by_place["behind"]:
        sentences.append(f"Behind it by more than the error bars: {_listed(by_place['behind'])}.")
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
