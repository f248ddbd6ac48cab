"""The board as one HTML file that loads nothing, and runs nothing but the script it was written with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from spvmia_plugin.leaderboard.board import Board, Options, Row, Table
from spvmia_plugin.leaderboard.front import Point, in_words
from spvmia_plugin.leaderboard.picture import FRAMES, MANY, Frame, draw
from spvmia_plugin.leaderboard.view import TableView, lead, models, reading, runs, table_view
from spvmia_plugin.metrics.names import AUROC, METRICS, METRICS_WITH_INTERVAL
from spvmia_plugin.util.console import shown
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import interval, printed

COLOURS = ("paper card ink soft line grey", "accent accent-ink wash", "warn warn-wash warn-line")
"""Of `web.page.theme`."""
_TITLE = {"wide": 90, "narrow": 40}
"""Letters that an axis has room for."""


def to_html(board: Board) -> str:
    """The board as a page."""
    environment = web.templates("spvmia_plugin.leaderboard")
    views = [table_view(table, board.options) for table in board.tables]
    return web.render(
        environment,
        "spvmia_plugin.leaderboard",
        "board",
        web.theme(COLOURS),
        models=models(board),
        lead=lead(board),
        ran=runs(board),
        tables=[
            (view, _picture(environment, f"picture-{number}", table, view, board.options))
            for number, (table, view) in enumerate(zip(board.tables, views, strict=True), 1)
        ],
        methods=_choices(row.method for view in views for row in view.rows),
        bases=_choices(row.base for view in views for row in view.rows),
        any_marked=any(view.marked for view in views),
        not_audited=[shown(entrant.name) for entrant in board.not_audited],
        left_out=board.left_out,
        reading=reading(board),
    )


def _choices(words: Iterable[str]) -> list[str]:
    """What can be chosen from; nothing where there is no choice."""
    found = sorted({word for word in words if word})
    return found if len(found) > 1 else []


def _picture(environment: Any, name: str, table: Table, view: TableView, options: Options) -> dict[str, object]:
    if table.picture is None:
        return {
            "drawings": [],
            "no_picture": "No picture: fewer than two ranked models have a capability score in common.",
        }
    points = [
        replace(point, name=shown(point.name), base=None if point.base is None else shown(point.base))
        for point in table.points
    ]
    words = in_words(points, table.places)
    title, label = shown(table.picture.title), METRICS[options.metric].label
    sign = 1 if table.picture.higher_is_better else -1
    is_auroc = options.metric == AUROC.key
    guess = METRICS_WITH_INTERVAL[options.metric].guess
    rows = {row.name: row.number for row in view.rows}
    drawn = {shown(row.entrant.name): row for row in table.rows}
    says = {point.name: _says(point, drawn[point.name], title, label, sign) for point in points}

    def drawing(frame: Frame) -> str:
        x_name = title if frame.name == "narrow" else f"{title}, more capable"
        svg: str = environment.get_template("picture.svg").render(
            id=f"{name}-{frame.name}",
            figure=draw(points, table.places, sign, AUROC.guess if is_auroc else 0.0, guess, frame),
            words=words,
            x_title=title,
            x_name=x_name if len(x_name) <= _TITLE[frame.name] else f"{x_name[: _TITLE[frame.name] - 1]}…",
            y_title=label,
            rows=rows,
            says=says,
        )
        return svg

    confidence = max((row.number.confidence for row in table.rows if row.rank is not None), default=0.95)
    bars = f"Bars are {confidence:.0%} intervals; that of the {label} ends at the limit that ranks."
    if len(points) > MANY:
        bars += " They show under the pointer, as names do."
    arrows = " Diamonds are bases; a line leads from each to its fine-tunes." if _has_bases(points) else ""
    return {
        "drawings": [web.trusted(drawing(frame)) for frame in FRAMES],
        "words": words,
        "bars": f"Filled points are on the front, which the thin line joins; a number is a rank.{arrows} {bars}",
    }


def _has_bases(points: Sequence[Point]) -> bool:
    return bool({point.base for point in points} & {point.name for point in points})


def _says(point: Point, row: Row, title: str, label: str, sign: int) -> str:
    """A model's numbers, for the pointer that rests on it."""
    number = row.number
    ends = f" ({found})" if (found := interval(number.low, number.high)) else ""
    score = printed(sign * point.capability.value)
    return f"{point.name}: rank {point.rank}, {label} {printed(number.value)}{ends}, {title} {score}"
