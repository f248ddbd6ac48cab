"""The board as one HTML file that loads nothing, and runs nothing but the script it was written with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spvmia_plugin.leaderboard.board import Board, Options, Table
from spvmia_plugin.leaderboard.estimate import METRICS
from spvmia_plugin.leaderboard.figure import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw
from spvmia_plugin.leaderboard.pareto import in_words
from spvmia_plugin.leaderboard.view import lead, models, reading, table_view
from spvmia_plugin.util.console import shown
from spvmia_plugin.web import page as web

COLOURS = ("paper card ink soft line grey", "accent wash warn warn-wash warn-line")
"""Of `web.page.theme`."""


def to_html(board: Board) -> str:
    """The whole page."""
    environment = web.templates("spvmia_plugin.leaderboard")
    tables = []
    for number, table in enumerate(board.tables, 1):
        view = table_view(table, board.options)
        picture = _picture(environment, f"picture-{number}", table, board.options)
        told = {name: getattr(view, name) for name in ("title", "differs", "caption", "headings", "rows", "marked")}
        remarks = [{"name": row.name, "reasons": row.remarks} for row in view.rows if row.remarks]
        tables.append({**told, **picture, "conditions": view.conditions, "remarks": remarks})
    return web.render(
        environment,
        "spvmia_plugin.leaderboard",
        "board",
        web.theme(COLOURS),
        page={
            "models": models(board),
            "lead": lead(board),
            "tables": tables,
            "not_audited": [shown(entrant.name) for entrant in board.not_audited],
            "left_out": board.left_out,
            "reading": reading(board),
        },
    )


def _picture(environment: Any, name: str, table: Table, options: Options) -> dict[str, object]:
    if table.picture is None:
        return {
            "svg": None,
            "no_picture": "No picture: fewer than two ranked models have a capability score in common.",
        }
    points = [replace(point, name=shown(point.name)) for point in table.points]
    sign = 1 if table.picture.higher_is_better else -1
    words = in_words(points)
    svg = environment.get_template("front.svg").render(
        id=name,
        figure=draw(points, sign, 0.5 if options.metric == "auroc" else 0.0),
        words=words,
        x_title=shown(table.picture.title),
        y_title=METRICS[options.metric],
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )
    confidence = max((row.number.confidence for row in table.rows if row.rank is not None), default=0.95)
    bars = (
        f"Bars are {confidence:.0%} intervals, filled circles are on the front, a number in place of a name is a rank."
    )
    return {"svg": web.trusted(svg), "words": words, "bars": bars}
