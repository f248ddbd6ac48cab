"""The board in each format: HTML, Markdown, CSV, JSON, and on a terminal. Numbers for programs are not rounded."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.board import Board, Options, Row, Table
from spvmia_plugin.leaderboard.front import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw, in_words, places
from spvmia_plugin.leaderboard.view import TableView, lead, models, number_title, reading, table_view
from spvmia_plugin.metrics.names import AUROC, METRICS
from spvmia_plugin.results.comparable import recipe_words
from spvmia_plugin.results.estimate import Estimate
from spvmia_plugin.results.model import Capability
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.files import check_file_to_write
from spvmia_plugin.util.strict_json import finite
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import csv_text, markdown

if TYPE_CHECKING:
    from rich.console import Console


FORMAT = 1
"""Version of the JSON's layout."""

CsvCell = str | int | float

COLOURS = ("paper card ink soft line grey", "accent wash warn warn-wash warn-line")
"""Of `web.page.theme`."""


def to_json(board: Board) -> str:
    """The whole board as strict JSON (NaN is null), in ASCII."""
    content = {
        "format": FORMAT,
        "generator": f"spvmia-plugin {__version__}",
        "options": vars(board.options),
        "tables": [_table_json(table) for table in board.tables],
        "not_audited": [
            {"model": entrant.name, "capabilities": [_capability_json(score) for score in entrant.capabilities]}
            for entrant in board.not_audited
        ],
        "left_out": list(board.left_out),
    }
    return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def to_csv(board: Board) -> str:
    """One line a row of any table; empty for what is missing. Cells of text never start a formula."""
    title = number_title(board.options)
    lines = [
        dict(_csv_row(number, table, row, title)) for number, table in enumerate(board.tables, 1) for row in table.rows
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow([csv_text(name) for name in names])
    for line in lines:
        writer.writerow([_csv_cell(line.get(name, "")) for name in names])
    return file.getvalue()


def _csv_cell(value: CsvCell) -> CsvCell:
    if isinstance(value, str):
        return csv_text(value)
    return "" if math.isnan(value) else repr(value)


def _csv_row(number: int, table: Table, row: Row, title: str) -> Iterator[tuple[str, CsvCell]]:
    yield "table", number
    yield "data", table.title
    yield "model", row.entrant.name
    yield "rank", "" if row.rank is None else row.rank
    yield "best_rank", "" if row.rank_range is None else row.rank_range[0]
    yield "worst_rank", "" if row.rank_range is None else row.rank_range[1]
    yield "not_ranked_because", "; ".join(row.why_not_ranked)
    yield "attack", row.number.attack or ""
    yield "chosen_among", row.number.chosen_among
    yield from _csv_estimate(title, row.number)
    for further, estimate in row.further.items():
        yield from _csv_estimate(further, estimate)
    for column in table.columns:
        score = row.capabilities.get(column.key)
        if score is not None:
            yield column.title, score.value
            yield f"{column.title}, stderr", score.stderr
    yield "members", row.audit.mia_audit.n.members
    yield "nonmembers", row.audit.mia_audit.n.nonmembers
    yield "fine-tuning", recipe_words(row.recipe)
    yield "limits", "; ".join(row.remarks)


def _csv_estimate(title: str, estimate: Estimate) -> Iterator[tuple[str, CsvCell]]:
    yield title, estimate.value
    yield f"{title}, low", estimate.low
    yield f"{title}, high", estimate.high


def _table_json(table: Table) -> dict[str, object]:
    front = dict(zip((point.name for point in table.points), places(table.points), strict=True))
    return {
        "title": table.title,
        "differs_from_first": table.differs or None,
        "conditions": dict(table.conditions),
        "picture": None if table.picture is None else {"capability": table.picture.title, "places": front},
        "rows": [_row_json(row) for row in table.rows],
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "model": row.entrant.name,
        "rank": row.rank,
        "rank_range": None if row.rank_range is None else list(row.rank_range),
        "not_ranked_because": list(row.why_not_ranked),
        "limits": list(row.remarks),
        "number": _estimate_json(row.number),
        "further": {title: _estimate_json(estimate) for title, estimate in row.further.items()},
        "capabilities": [_capability_json(score) for score in row.capabilities.values()],
        "recipe": recipe_words(row.recipe),
        "n": row.audit.told["n"],
        "membership": row.audit.mia_audit.membership,
        "files": [path.name for path in row.entrant.files],
    }


def _estimate_json(estimate: Estimate) -> dict[str, object]:
    return {
        "value": estimate.value,
        "interval": [estimate.low, estimate.high],
        "confidence": estimate.confidence,
        "stderr": estimate.stderr,
        "attack": estimate.attack,
        "chosen_among": estimate.chosen_among,
        "realised_fpr": estimate.realised_fpr,
        "reason": estimate.reason,
    }


def _capability_json(score: Capability) -> dict[str, object]:
    return {
        "task": score.task,
        "metric": score.metric,
        "value": score.value,
        "stderr": score.stderr,
        "higher_is_better": score.higher_is_better,
        "n": score.n,
        "version": score.version,
        "fewshot": score.fewshot,
    }


def to_markdown(board: Board) -> str:
    """The whole board; names show as they are, whatever markup they hold."""
    lines = [f"# Capability and privacy of {models(board)} models", "", markdown(lead(board)), ""]
    for table in board.tables:
        lines += _markdown_table(table_view(table, board.options))
        if table.picture is not None:
            lines += [f"Capability: {markdown(table.picture.title)}. {markdown(in_words(table.points))}", ""]
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


def to_html(board: Board) -> str:
    """The board as one HTML file that loads nothing, and runs nothing but the script it was written with."""
    environment = web.templates("spvmia_plugin.leaderboard")
    return web.render(
        environment,
        "spvmia_plugin.leaderboard",
        "board",
        web.theme(COLOURS),
        models=models(board),
        lead=lead(board),
        tables=[
            (table_view(table, board.options), _picture(environment, f"picture-{number}", table, board.options))
            for number, table in enumerate(board.tables, 1)
        ],
        not_audited=[shown(entrant.name) for entrant in board.not_audited],
        left_out=board.left_out,
        reading=reading(board),
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
        figure=draw(points, sign, AUROC.guess if options.metric == AUROC.key else 0.0),
        words=words,
        x_title=shown(table.picture.title),
        y_title=METRICS[options.metric].label,
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


def show_board(board: Board, console: Console) -> None:
    """Print the tables, the front in words, and why rows are not ranked. Names are text, never rich's markup."""
    from rich.table import Table as Grid
    from rich.text import Text

    console.print(Text(lead(board)))
    for table in board.tables:
        view = table_view(table, board.options)
        console.print()
        if view.differs:
            console.print(Text(f"Not comparable with the first table. What differs: {view.differs}.", style="yellow"))
        grid = Grid(title=Text(view.title), caption=Text(view.caption), title_justify="left", caption_justify="left")
        for heading in view.headings:
            left = heading.kind in ("model", "words")
            grid.add_column(Text(heading.title), justify="left" if left else "right", overflow="fold")
        for row in view.rows:
            cells = [Text(f"{cell.text}\n{cell.note}" if cell.note else cell.text) for cell in row.cells]
            grid.add_row(*cells, style="dim" if row.marked else None, end_section=True)
        console.print(grid)
        if table.picture is not None:
            console.print(Text(f"Capability: {shown(table.picture.title)}. {shown(in_words(table.points))}"))
        for row in view.marked:
            console.print(Text(f"Not ranked: {row.name}: {'; '.join(row.reasons)}.", style="yellow"))
    for problem in board.left_out:
        console.print(Text(f"Left out: {problem}", style="yellow"))
    if board.not_audited:
        names = ", ".join(shown(entrant.name) for entrant in board.not_audited)
        console.print(Text(f"Without a privacy audit: {names}."))


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        SpvmiaError: an ending that is none of `FORMATS`, a folder, or no folder to write to.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise SpvmiaError(f"--output: expected a file that ends in one of {known}, got {str(path)!r}; name one")
    if path.is_dir() or not path.parent.is_dir():
        what = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise SpvmiaError(f"--output: expected a file in a folder that is there, got {what}; name another file")


def write_board(board: Board, path: Path) -> None:
    """Write the board to a file.

    Raises:
        SpvmiaError: as `check_output`, or the file cannot be written.
    """
    check_output(path)
    check_file_to_write(path, "--output")
    text = FORMATS[path.suffix.lower()](board)
    try:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise SpvmiaError(
            f"--output: expected a file that can be written, got {path} ({error.strerror}); name another file"
        ) from error


FORMATS: Mapping[str, Callable[[Board], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".csv": to_csv,
    ".json": to_json,
}
"""File ending -> what makes the text."""
