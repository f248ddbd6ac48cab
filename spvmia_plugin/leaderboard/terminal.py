"""The board on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spvmia_plugin.leaderboard.board import Board
from spvmia_plugin.leaderboard.pareto import in_words
from spvmia_plugin.leaderboard.view import TableView, lead, table_view
from spvmia_plugin.util.console import shown

if TYPE_CHECKING:
    from rich.console import Console


def show_board(board: Board, console: Console) -> None:
    """Print the tables, the front in words, and why rows are not ranked. Names are text, never rich's markup."""
    from rich.text import Text

    console.print(Text(lead(board)))
    for table in board.tables:
        view = table_view(table, board.options)
        console.print()
        if view.differs:
            console.print(Text(f"Not comparable with the first table. What differs: {view.differs}.", style="yellow"))
        console.print(_table(view))
        if table.picture is not None:
            console.print(Text(f"Capability: {shown(table.picture.title)}. {shown(in_words(table.points))}"))
        for row in view.marked:
            console.print(Text(f"Not ranked: {row.name}: {'; '.join(row.reasons)}.", style="yellow"))
    for problem in board.left_out:
        console.print(Text(f"Left out: {problem}", style="yellow"))
    if board.not_audited:
        names = ", ".join(shown(entrant.name) for entrant in board.not_audited)
        console.print(Text(f"Without a privacy audit: {names}."))


def _table(view: TableView) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(view.title), caption=Text(view.caption), title_justify="left", caption_justify="left")
    for heading in view.headings:
        left = heading.kind in ("model", "words")
        table.add_column(Text(heading.title), justify="left" if left else "right", overflow="fold")
    for row in view.rows:
        cells = [Text(f"{cell.text}\n{cell.note}" if cell.note else cell.text) for cell in row.cells]
        table.add_row(*cells, style="dim" if row.marked else None, end_section=True)
    return table
