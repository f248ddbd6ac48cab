"""The geometry of the board's picture, once for wide windows and once for phones.

`files/picture.svg` draws it, the style colours it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spvmia_plugin.leaderboard.front import Place, Point
from spvmia_plugin.leaderboard.order import Bounds


@dataclass(frozen=True, slots=True)
class Frame:
    """The room of a picture, in the units of its view box: pixels at the width that it is made for.

    Attributes:
        name: of the frame, for ids and styles.
        width: of all of it.
        height: likewise.
        left: where the axes begin.
        right: where they end.
        top: likewise.
        bottom: likewise.
        ticks: about how many an axis has.
        character: width of a letter of a label, which is 13 high.
    """

    name: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: int
    character: float = 7.0


WIDE = Frame("wide", width=760, height=430, left=64, right=740, top=18, bottom=374, ticks=6)
NARROW = Frame("narrow", width=336, height=360, left=52, right=328, top=18, bottom=306, ticks=4)
FRAMES = (WIDE, NARROW)

MANY = 25
"""With more models only those of the front and the bases have names, and none has error bars."""
_LABEL_LENGTH = 28
_LINE, _GAP, _RADIUS = 15.0, 10.0, 6.0
"""Height of a label, its distance from the point (it must clear the point itself), and half of the point's size."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One model: the point, the ends of its error bars, and where its label goes.

    Attributes:
        name: the model.
        label: what is written beside it, which may be nothing.
        place: against the front.
        is_base: whether others were fine-tuned from it.
        x: of the point.
        y: likewise.
        x_low: end of a bar.
        x_high: likewise.
        y_low: likewise.
        y_high: likewise.
        label_x: of the label.
        label_y: likewise.
        anchor: the label's end that stands there.
        arrow: from its base to it, as an SVG path; empty without one.
    """

    name: str
    label: str
    place: Place
    is_base: bool
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    label_x: float
    label_y: float
    anchor: str
    arrow: str


@dataclass(frozen=True, slots=True)
class Figure:
    """All of it, in the units of the view box.

    Attributes:
        frame: the room.
        marks: the models.
        x_ticks: marks of the capability axis.
        y_ticks: marks of the privacy axis.
        front: the corners of the staircase through the front, as an SVG path.
        guess: where guessing lies on the privacy axis.
        is_dense: whether there are too many models for bars and names.
    """

    frame: Frame
    marks: Sequence[Mark]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    front: str
    guess: float
    is_dense: bool


def draw(
    points: Sequence[Point], found: Sequence[Place], x_sign: int, y_offset: float, guess: float, frame: Frame = WIDE
) -> Figure:
    """Lay out the picture.

    Args:
        points: the models, larger is better on both axes.
        found: their `places`.
        x_sign: -1 if the capability's axis shows the negative of what the points hold.
        y_offset: what the privacy axis adds to the negative of what the points hold: 0.5 for distances from chance.
        guess: what guessing reaches, as the privacy axis shows it; always on the axis.
        frame: its room.
    """
    xs, ys = [_drawn(point.capability) for point in points], [_drawn(point.privacy) for point in points]
    x_axis = _Axis([value for bar in xs for value in bar], frame.left, frame.right, frame.ticks)
    bars = [value for bar in ys for value in bar]
    y_axis = _Axis([*bars, y_offset - guess], frame.bottom, frame.top, frame.ticks)
    spots = [(x_axis.at(across[1]), y_axis.at(up[1])) for across, up in zip(xs, ys, strict=True)]
    at_guess = y_axis.at(y_offset - guess)
    bases = {point.base for point in points}
    where = {point.name: spot for point, spot in zip(points, spots, strict=True)}
    is_dense = len(points) > MANY
    named = [
        not is_dense or point.name in bases or place == "front" for point, place in zip(points, found, strict=True)
    ]
    arrows = [_arrow(where.get(point.base or ""), spot) for point, spot in zip(points, spots, strict=True)]
    taken = [_of_guess(frame, at_guess), *(box for arrow in arrows if arrow and not is_dense for box in _along(*arrow))]
    labels = _labels(points, spots, named, taken, frame)
    marks = [
        Mark(
            name=point.name,
            label=label,
            place=place,
            is_base=point.name in bases,
            x=x,
            y=y,
            x_low=x_axis.at(across[0]),
            x_high=x_axis.at(across[2]),
            y_low=y_axis.at(up[0]),
            y_high=y_axis.at(up[2]),
            label_x=label_x,
            label_y=label_y,
            anchor=anchor,
            arrow="" if arrow is None else "M {:.1f} {:.1f} L {:.1f} {:.1f}".format(*arrow[0], *arrow[1]),
        )
        for point, place, across, up, (x, y), (label, label_x, label_y, anchor), arrow in zip(
            points, found, xs, ys, spots, labels, arrows, strict=True
        )
    ]
    return Figure(
        frame=frame,
        marks=marks,
        x_ticks=x_axis.ticks(lambda value: x_sign * value),
        y_ticks=y_axis.ticks(lambda value: y_offset - value),
        front=_staircase(marks, frame),
        guess=at_guess,
        is_dense=is_dense,
    )


def _drawn(number: Bounds) -> tuple[float, float, float]:
    """Lower end, value, upper end; the value thrice where the error is not known."""
    if math.isnan(number.low):
        return number.value, number.value, number.value
    return number.low, number.value, number.high


class _Axis:
    """A linear axis that holds all values with a margin."""

    def __init__(self, values: Sequence[float], start: float, end: float, ticks: int) -> None:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.05
        self._low, self._high = low - margin, high + margin
        self._start, self._end, self._ticks = start, end, ticks

    def at(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self, says: Callable[[float], float]) -> list[Tick]:
        """Round values, all with as many decimals as their step has."""
        raw = (self._high - self._low) / self._ticks
        power = 10.0 ** math.floor(math.log10(raw))
        factor = min((1, 2, 5, 10), key=lambda factor: abs(factor * power - raw))
        step = factor * power
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        values = [round(step * k, 10) for k in range(first, last + 1)]
        return [Tick(self.at(value), f"{says(value) + 0.0:.{decimals}f}") for value in values]


Spot = tuple[float, float]


def _arrow(base: Spot | None, spot: Spot) -> tuple[Spot, Spot] | None:
    """Ends of a line from a base to its fine-tune that leaves room for both points; None where they nearly touch."""
    if base is None:
        return None
    across, down = spot[0] - base[0], spot[1] - base[1]
    length = math.hypot(across, down)
    if length < 4 * _RADIUS:
        return None
    first, last = 1.5 * _RADIUS / length, 1 - 1.6 * _RADIUS / length
    return (base[0] + across * first, base[1] + down * first), (base[0] + across * last, base[1] + down * last)


def _along(start: Spot, end: Spot) -> list[Box]:
    """Boxes on a line, close enough that no label fits between them."""
    steps = max(1, round(math.dist(start, end) / _RADIUS))
    spots = [
        tuple(one + (other - one) * step / steps for one, other in zip(start, end, strict=True))
        for step in range(steps + 1)
    ]
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in spots]


def _of_guess(frame: Frame, at: float) -> Box:
    """Room of the words on the line of guessing, which stand at its right end."""
    return frame.right - 60, at - _LINE, frame.right, at + 3


class _Room:
    """What is taken already, by bands of the picture's height, so that a label is held against a few boxes alone."""

    def __init__(self, boxes: Iterable[Box]) -> None:
        self._bands: dict[int, list[Box]] = {}
        for box in boxes:
            self.take(box)

    def take(self, box: Box) -> None:
        for band in self._of(box):
            self._bands.setdefault(band, []).append(box)

    def is_free(self, box: Box) -> bool:
        near = (other for band in self._of(box) for other in self._bands.get(band, ()))
        left, top, right, bottom = box
        return not any(left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in near)

    def _of(self, box: Box) -> range:
        return range(int(box[1] // _LINE), int(box[3] // _LINE) + 1)


Label = tuple[str, float, float, str]


def _labels(
    points: Sequence[Point], spots: Sequence[Spot], named: Sequence[bool], taken: list[Box], frame: Frame
) -> list[Label]:
    """A label for each point: those that have names first, so that no number takes their room."""
    room = _Room([*taken, *((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in spots)])
    found: dict[int, Label] = {}
    for i in sorted(range(len(points)), key=lambda i: not named[i]):
        found[i] = _labelled(*spots[i], points[i], named[i], room, frame)
    return [found[i] for i in range(len(points))]


def _labelled(x: float, y: float, point: Point, is_named: bool, room: _Room, frame: Frame) -> Label:
    """The name where it has room, else the rank, else nothing: the table holds all of them."""
    name = point.name if len(point.name) <= _LABEL_LENGTH else f"{point.name[: _LABEL_LENGTH - 1]}…"
    for label in ([name] if is_named else []) + ([] if point.rank is None else [str(point.rank)]):
        spot = _free_spot(x, y, frame.character * len(label), room, frame)
        if spot is not None:
            return label, *spot
    return "", x, y, "start"


def _free_spot(x: float, y: float, width: float, room: _Room, frame: Frame) -> tuple[float, float, str] | None:
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
        box = left - 1.5, spot[1] - _LINE * 0.8, left + width + 1.5, spot[1] + _LINE * 0.2
        inside = box[0] >= frame.left and box[2] <= frame.width and box[1] >= 0 and box[3] <= frame.bottom
        if inside and room.is_free(box):
            room.take(box)
            return round(spot[0], 1), round(spot[1], 1), spot[2]
    return None


def _staircase(marks: Sequence[Mark], frame: Frame) -> str:
    corners = sorted((mark.x, mark.y) for mark in marks if mark.place == "front")
    path = f"M {frame.left} {corners[0][1]} H {corners[0][0]}"
    for x, y in corners[1:]:
        path += f" V {y} H {x}"
    return f"{path} V {frame.bottom}"
