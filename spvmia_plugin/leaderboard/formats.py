"""The board for programs, unrounded: strict JSON, and CSV that no spreadsheet runs; and what writes each format."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.board import Board, Row, Table, limit
from spvmia_plugin.leaderboard.page import to_html
from spvmia_plugin.leaderboard.plain import to_markdown
from spvmia_plugin.leaderboard.view import number_title
from spvmia_plugin.results.comparable import recipe_words
from spvmia_plugin.results.estimate import Estimate
from spvmia_plugin.results.model import Capability
from spvmia_plugin.util.files import check_file_to_write
from spvmia_plugin.util.strict_json import finite
from spvmia_plugin.web.page import MARK
from spvmia_plugin.web.text import csv_text, day

FORMAT = 1
"""Version of the JSON's layout."""

CsvCell = str | int | float


def to_json(board: Board) -> str:
    """The whole board as strict JSON (NaN is null), in ASCII."""
    content = {
        "format": FORMAT,
        "generator": f"spvmia-plugin {__version__}",
        "options": vars(board.options),
        "ranked_by": f"upper limit of {number_title(board.options)}",
        "tables": [_table_json(table, board.options.metric) for table in board.tables],
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
        dict(_csv_row(number, table, row, title, board.options.metric))
        for number, table in enumerate(board.tables, 1)
        for row in table.rows
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()

    def cell(value: CsvCell) -> CsvCell:
        if isinstance(value, str):
            return csv_text(value)
        return "" if math.isnan(value) else repr(value)

    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow([csv_text(name) for name in names])
    for line in lines:
        writer.writerow([cell(line.get(name, "")) for name in names])
    return file.getvalue()


def _csv_row(number: int, table: Table, row: Row, title: str, metric: str) -> Iterator[tuple[str, CsvCell]]:
    yield "table", number
    yield "data", table.title
    yield "model", row.entrant.name
    yield "rank", "" if row.rank is None else row.rank
    yield "best_rank", "" if row.rank_range is None else row.rank_range[0]
    yield "worst_rank", "" if row.rank_range is None else row.rank_range[1]
    yield "not_ranked_because", "; ".join(row.why_not_ranked)
    yield "attack", row.number.attack or ""
    yield "chosen_among", row.number.chosen_among
    yield f"{title}, at most", limit(row.number, metric)
    yield from _csv_estimate(title, row.number)
    for further in row.further:
        yield from _csv_estimate(further.title, further.number)
    for column in table.columns:
        score = row.capabilities.get(column.key)
        if score is not None:
            yield column.title, score.value
            yield f"{column.title}, stderr", score.stderr
    yield "members", row.audit.mia_audit.n.members
    yield "nonmembers", row.audit.mia_audit.n.nonmembers
    yield "fine-tuning", recipe_words(row.recipe)
    yield "base", row.base or ""
    yield "hub_id", row.entrant.hub_id or ""
    yield "newest_run", day(row.entrant.dates[-1]) if row.entrant.dates else ""
    yield "limits", "; ".join(row.remarks)


def _csv_estimate(title: str, estimate: Estimate) -> Iterator[tuple[str, CsvCell]]:
    yield title, estimate.value
    yield f"{title}, low", estimate.low
    yield f"{title}, high", estimate.high


def _table_json(table: Table, metric: str) -> dict[str, object]:
    front = dict(zip((point.name for point in table.points), table.places, strict=True))
    return {
        "title": table.title,
        "differs_from_first": table.differs or None,
        "conditions": dict(table.conditions),
        "picture": None if table.picture is None else {"capability": table.picture.title, "places": front},
        "rows": [_row_json(row, metric) for row in table.rows],
    }


def _row_json(row: Row, metric: str) -> dict[str, object]:
    return {
        "model": row.entrant.name,
        "rank": row.rank,
        "rank_range": None if row.rank_range is None else list(row.rank_range),
        "not_ranked_because": list(row.why_not_ranked),
        "limits": list(row.remarks),
        "at_most": limit(row.number, metric),
        "number": _estimate_json(row.number),
        "further": {further.title: _estimate_json(further.number) for further in row.further},
        "capabilities": [_capability_json(score) for score in row.capabilities.values()],
        "recipe": recipe_words(row.recipe),
        "base": row.base,
        "hub_id": row.entrant.hub_id,
        "dates": [day(date) for date in row.entrant.dates],
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
    check_file_to_write(path, "--output", _MARKS[path.suffix.lower()])
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
_MARKS = {
    ".html": MARK,
    ".md": "# Capability and privacy of ",
    ".csv": "table,data,model,rank",
    ".json": '"spvmia-plugin ',
}
"""File ending -> what such a text is known again by."""
