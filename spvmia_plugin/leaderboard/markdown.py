"""The board as Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable

from spvmia_plugin.leaderboard.board import Board
from spvmia_plugin.leaderboard.pareto import in_words
from spvmia_plugin.leaderboard.view import TableView, lead, models, reading, table_view
from spvmia_plugin.web.text import markdown


def to_markdown(board: Board) -> str:
    """The whole board; names show as they are, whatever markup they hold."""
    lines = [f"# Capability and privacy of {models(board)} models", "", markdown(lead(board)), ""]
    for table in board.tables:
        lines += _table(table_view(table, board.options))
        if table.picture is not None:
            lines += [f"Capability: {markdown(table.picture.title)}. {markdown(in_words(table.points))}", ""]
    if board.not_audited:
        lines += ["## Without a privacy audit", "", *_items(entrant.name for entrant in board.not_audited), ""]
    if board.left_out:
        lines += ["## Left out", "", *_items(board.left_out), ""]
    return "\n".join([*lines, "## How to read this", "", *_items(reading(board)), ""])


def _table(view: TableView) -> list[str]:
    lines = [f"## {markdown(view.title)}", ""]
    if view.differs:
        lines += [f"Not comparable with the first table. What differs: {markdown(view.differs)}.", ""]
    titles = [
        markdown(f"{heading.title} ({heading.note})" if heading.note else heading.title) for heading in view.headings
    ]
    aligned = [":--" if heading.kind in ("model", "words") else "--:" for heading in view.headings]
    lines += [markdown(view.caption), "", _line(titles), _line(aligned)]
    for row in view.rows:
        cells = [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row.cells]
        marked = [
            f"{text} (not ranked)" if cell.kind == "model" and row.marked else text
            for text, cell in zip(cells, row.cells, strict=True)
        ]
        lines.append(_line(markdown(text) for text in marked))
    for title, rows in (("Not ranked, and why", view.marked), ("What else limits these numbers", view.rows)):
        told = [(row.name, row.remarks if rows is view.rows else row.reasons) for row in rows]
        sentences = [f"{name}: {'; '.join(words)}." for name, words in told if words]
        if sentences:
            lines += ["", f"### {title}", "", *_items(sentences)]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"* {markdown(sentence)}" for sentence in sentences]
