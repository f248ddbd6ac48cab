"""The front of capability against privacy: who is on it and how sure that is, and the geometry of its picture.

`files/front.svg` draws the picture, the style colours it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spvmia_plugin.leaderboard.order import CAPABILITY_CHANCE, PRIVACY_CHANCE, Bounds, surely_below

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 16, 56
"""Margins in the units of the view box, which are pixels at full size."""

_LABEL_LENGTH = 28
_CHARACTER, _LINE, _GAP = 7.0, 15.0, 9.0
"""Width and height of a label's character, and its distance from the point."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

Place = Literal["front", "close", "behind"]


@dataclass(frozen=True, slots=True)
class Point:
    """One model. On both axes larger is better, whatever the metrics' own directions.

    Attributes:
        name: the model.
        capability: its score.
        privacy: the negative of what it gives away.
        rank: stands for the name where that has no room.
    """

    name: str
    capability: Bounds
    privacy: Bounds
    rank: int | None = None


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
        f"{', '.join(by_place['front'])}."
    ]
    if by_place["close"]:
        sentences.append(
            f"Behind the front by less than the error bars can tell, on both axes: {', '.join(by_place['close'])}."
        )
    if by_place["behind"]:
        sentences.append(
            f"Behind it by more than the error bars on at least one axis: {', '.join(by_place['behind'])}."
        )
    return " ".join(sentences)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One model: the point, the ends of its error bars, and where its label goes."""

    name: str
    label: str
    place: Place
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Figure:
    """All of it, in the units of the view box.

    Attributes:
        marks: the models.
        x_ticks: marks of the capability axis.
        y_ticks: marks of the privacy axis.
        front: the corners of the staircase through the front, as an SVG path.
    """

    marks: Sequence[Mark]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    front: str


def draw(points: Sequence[Point], found: Sequence[Place], x_sign: int, y_offset: float) -> Figure:
    """Lay out the picture.

    Args:
        points: the models, larger is better on both axes.
        found: their `places`.
        x_sign: -1 if the capability's axis shows the negative of what the points hold.
        y_offset: what the privacy axis adds to the negative of what the points hold: 0.5 for distances from chance.
    """
    xs, ys = [_drawn(point.capability) for point in points], [_drawn(point.privacy) for point in points]
    x_axis = _Axis([value for bar in xs for value in bar], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([value for bar in ys for value in bar], HEIGHT - BOTTOM, TOP)
    spots = [(x_axis.at(across[1]), y_axis.at(up[1])) for across, up in zip(xs, ys, strict=True)]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    marks = []
    for point, place, across, up, (x, y) in zip(points, found, xs, ys, spots, strict=True):
        label, label_x, label_y, anchor = _labelled(x, y, point, taken)
        marks.append(
            Mark(
                name=point.name,
                label=label,
                place=place,
                x=x,
                y=y,
                x_low=x_axis.at(across[0]),
                x_high=x_axis.at(across[2]),
                y_low=y_axis.at(up[0]),
                y_high=y_axis.at(up[2]),
                label_x=label_x,
                label_y=label_y,
                anchor=anchor,
            )
        )
    x_ticks = [Tick(x_axis.at(value), f"{x_sign * value + 0.0:g}") for value in x_axis.ticks()]
    y_ticks = [Tick(y_axis.at(value), f"{y_offset - value + 0.0:g}") for value in y_axis.ticks()]
    return Figure(marks, x_ticks, y_ticks, _staircase(marks))


def _drawn(number: Bounds) -> tuple[float, float, float]:
    """Lower end, value, upper end; the value thrice where the error is not known."""
    if math.isnan(number.low):
        return number.value, number.value, number.value
    return number.low, number.value, number.high


class _Axis:
    """A linear axis that holds all values with a margin."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.05
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)

    def ticks(self) -> list[float]:
        """About five round values."""
        raw = (self._high - self._low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(size - raw))
        first = math.ceil(self._low / step)
        return [round(step * k, 10) for k in range(first, math.floor(self._high / step) + 1)]


def _labelled(x: float, y: float, point: Point, taken: list[Box]) -> tuple[str, float, float, str]:
    """The name where it has room, else the rank, else nothing: the table holds all of them."""
    name = point.name if len(point.name) <= _LABEL_LENGTH else f"{point.name[: _LABEL_LENGTH - 1]}…"
    for label in (name, "" if point.rank is None else str(point.rank)):
        spot = _free_spot(x, y, _CHARACTER * len(label), taken)
        if spot is not None:
            return label, *spot
    return "", x, y, "start"


def _free_spot(x: float, y: float, width: float, taken: list[Box]) -> tuple[float, float, str] | None:
    """The first of a few places around the point where a label overlaps nothing; it is then taken."""
    diagonal = _GAP * 0.8
    spots = [
        (x + diagonal, y - diagonal, "start"),
        (x - diagonal, y - diagonal, "end"),
        (x + diagonal, y + diagonal + _LINE * 0.7, "start"),
        (x - diagonal, y + diagonal + _LINE * 0.7, "end"),
    ]
    for spot in spots:
        left = spot[0] if spot[2] == "start" else spot[0] - width
        box = left, spot[1] - _LINE * 0.8, left + width, spot[1] + _LINE * 0.2
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        free = not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        )
        if inside and free:
            taken.append(box)
            return round(spot[0], 2), round(spot[1], 2), spot[2]
    return None


def _staircase(marks: Sequence[Mark]) -> str:
    corners = sorted((mark.x, mark.y) for mark in marks if mark.place == "front")
    path = f"M {LEFT} {corners[0][1]} H {corners[0][0]}"
    for x, y in corners[1:]:
        path += f" V {y} H {x}"
    return f"{path} V {HEIGHT - BOTTOM}"
