"""Reads a user's own files directly: `datasets` would leave a copy of a private file in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.data.json_rows import json_rows
from spvmia_plugin.data.shards import find_shards, shard_names
from spvmia_plugin.data.source_file import EXPECTED, LABEL, Growth, SourceFile, split_ending
from spvmia_plugin.data.table_rows import Rows, arrow_rows, delimited_rows, parquet_rows
from spvmia_plugin.data.text_lines import lines
from spvmia_plugin.records import Document

_MEMBER = ("1", "1.0", "true", "member")
_NONMEMBER = ("0", "0.0", "false", "nonmember", "non-member")
"""What stands in a column `label`, in lower case."""


@dataclass(frozen=True)
class Loaded:
    """What one source holds.

    Attributes:
        documents: its texts, in order; ids are `name:row`, rows from 1 in each file.
        empty_rows: rows without a text, or of nothing but white space, left out.
    """

    documents: tuple[Document, ...]
    empty_rows: int


def read_documents(
    spec: str | Path,
    column: str,
    *,
    option: str,
    names: Mapping[Path, str] | None = None,
    member: bool | None = None,
) -> Loaded:
    """Read texts from a file, from all files of a folder, or from those that fit a pattern.

    The ending says how: .jsonl .ndjson .json .csv .tsv .txt .parquet .arrow .feather, each also compressed (.gz .zst
    .bz2).

    Args:
        spec: the file, folder or pattern; `~` stands for the home folder.
        column: the column with the text; lines of a .txt file and JSON strings have none, each is a document.
        option: what the user calls this source, for errors (`mia_members`).
        names: names of the files in document ids, by absolute path; by default as `shard_names` makes them.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.

    Raises:
        SpvmiaError: no such file, unknown ending, nothing in it, no such column, a row that is no text, invalid
            JSON or UTF-8 (with the row).
    """
    shards = find_shards(spec, option)
    names = names or shard_names(shards)
    columns = (column,) if member is None else (column, LABEL)
    documents: list[Document] = []
    empty = rows_before = 0
    for shard in shards:
        file = SourceFile(shard.path, option, columns)
        growth = Growth(file, file.size())
        row = 0
        for row, (value, *labels) in _reader(file)(file):
            text = _checked_text(file, row, value)
            growth.add(len(text))
            is_member = _is_member(file, row, labels[0], text) if labels else None
            if is_member is not member:
                continue
            if text.strip():
                documents.append(Document(f"{names[shard.path]}:{row}", text, rows_before + row if rows_before else 0))
            else:
                empty += 1
        rows_before += row
    if not documents:
        what = "row of text" if member is None else f"{'member' if member else 'non-member'} with a text"
        whole = SourceFile(Path(spec).expanduser(), option, columns)
        raise whole.error(f"expected at least one {what}, got none", "give a file with texts")
    return Loaded(tuple(documents), empty)


def _reader(file: SourceFile) -> Callable[[SourceFile], Rows]:
    kind = split_ending(file.path)[0]
    if not kind:
        raise file.error(
            f"expected a file ending in {EXPECTED}, got {file.path.suffix or 'no extension'!r}",
            "convert it, or write hf:<dataset> for a hub data set",
        )
    return _READERS[kind]


def _checked_text(file: SourceFile, row: int, value: Any) -> str:
    """The text of a row; a missing one is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise file.error(
            f"expected text in column {file.columns[0]!r}, got {type(value).__name__}", "correct or remove the row", row
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise file.error("expected valid Unicode, got half a surrogate pair", "correct the row", row) from error
    return value


def member_said(value: Any) -> bool | None:
    """What a value of the column `label` says: a member, none, or (None) neither of them."""
    said = str(value).strip().lower()
    return True if said in _MEMBER else False if said in _NONMEMBER else None


def _is_member(file: SourceFile, row: int, value: Any, text: str) -> bool:
    """What the label of a row says; an empty row without one counts among the members."""
    said = member_said(value)
    if said is None and text.strip():
        raise file.error(
            f"expected 1 (a member) or 0 (none) in column {LABEL!r}, got "
            f"{'nothing' if value is None else f'another {type(value).__name__}'}",
            "correct or remove the row, or give each class its own file",
            row,
        )
    return said is not False


def _text_rows(file: SourceFile) -> Iterator[tuple[int, tuple[Any, ...]]]:
    if len(file.columns) > 1:
        raise file.no_column(file.columns[1], ())
    yield from ((row, (line,)) for row, line in lines(file))


_READERS: dict[str, Callable[[SourceFile], Rows]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), json_rows),
    **dict.fromkeys((".csv", ".tsv"), delimited_rows),
    ".txt": _text_rows,
    ".parquet": parquet_rows,
    **dict.fromkeys((".arrow", ".feather"), arrow_rows),
}
