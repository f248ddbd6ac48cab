"""The board without a browser: as Markdown, and on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from spvmia_plugin.leaderboard.board import Board
from spvmia_plugin.leaderboard.front import in_words
from spvmia_plugin.leaderboard.view import TableView, lead, models, reading, runs, table_view
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import listed, markdown

if TYPE_CHECKING:
    from rich.console import Console


def to_markdown(board: Board) -> str:
    """The whole board; names show as they are, whatever markup they hold."""
    lines = [
        f"# Capability and privacy of {models(board)} model{'s' * (models(board) != 1)}",
        "",
        markdown(lead(board)),
        "",
        markdown(runs(board)),
        "",
    ]
    for table in board.tables:
        lines += _markdown_table(table_view(table, board.options))
        if table.picture is not None:
            words = in_words(table.points, table.places)
            lines += [f"Capability: {markdown(table.picture.title)}. {markdown(words)}", ""]
    if board.not_audited:
        lines += ["## Without a privacy audit", "", *_items(entrant.name for entrant in board.not_audited), ""]
    if board.left_out:
        lines += ["## Left out", "", *_items(board.left_out), ""]
    return "\n".join([*lines, "## How to read this", "", *_items(reading(board)), ""])


def _markdown_table(view: TableView) -> list[str]:
    lines = [f"## {markdown(view.title)}", ""]
    if view.differs:
        lines += [f"Not comparable with the first table. What differs: {markdown(view.differs)}.", ""]
    titles = [
        markdown(f"{heading.title} ({heading.note})" if heading.note else heading.title) for heading in view.headings
    ]
    aligned = [":--" if heading.kind in ("model", "words") else "--:" for heading in view.headings]
    lines += [markdown(" ".join(view.caption)), "", _line(titles), _line(aligned)]
    for row in view.rows:
        cells = [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row.cells]
        marked = [
            f"{text} (not ranked)" if cell.kind == "model" and row.marked else text
            for text, cell in zip(cells, row.cells, strict=True)
        ]
        lines.append(_line(markdown(text) for text in marked))
    not_ranked = [f"{row.name}: {'; '.join(row.reasons)}." for row in view.marked]
    limits = [f"{names}: {words}." if names else f"{words}." for names, words in view.limits]
    for title, sentences in (("Not ranked, and why", not_ranked), ("What else limits these numbers", limits)):
        if sentences:
            lines += ["", f"### {title}", "", *_items(sentences)]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"* {markdown(sentence)}" for sentence in sentences]


def show_board(board: Board, console: Console) -> None:
    """Print the tables, the front in words, and why rows are not ranked. Names are text, never rich's markup."""
    from rich.table import Table as Grid
    from rich.text import Text

    console.print(Text(lead(board)))
    console.print(Text(runs(board)))
    for table in board.tables:
        view = table_view(table, board.options)
        console.print()
        if view.differs:
            console.print(Text(f"Not comparable with the first table. What differs: {view.differs}.", style="yellow"))
        grid = Grid(
            title=Text(view.title), caption=Text(" ".join(view.caption)), title_justify="left", caption_justify="left"
        )
        for heading in view.headings:
            left = heading.kind in ("model", "words")
            grid.add_column(Text(heading.title), justify="left" if left else "right", overflow="fold")
        for row in view.rows:
            cells = [Text(f"{cell.text}\n{cell.note}" if cell.note else cell.text) for cell in row.cells]
            grid.add_row(*cells, style="dim" if row.marked else None, end_section=True)
        console.print(grid)
        if table.picture is not None:
            words = in_words(table.points, table.places)
            console.print(Text(f"Capability: {shown(table.picture.title)}. {shown(words)}"))
        for row in view.marked:
            console.print(Text(f"Not ranked: {row.name}: {'; '.join(row.reasons)}.", style="yellow"))
    for problem in board.left_out:
        console.print(Text(f"Left out: {problem}", style="yellow"))
    if board.not_audited:
        names = listed(shown(entrant.name) for entrant in board.not_audited)
        console.print(Text(f"Without a privacy audit: {names}."))
