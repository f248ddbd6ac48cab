"""Reads a user's own files directly: `datasets` would leave a copy of a private file in the user's cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.data.csv_rows import CsvError, csv_rows
from spvmia_plugin.errors import SpvmiaError, did_you_mean, known_columns
from spvmia_plugin.records import Document

Row = tuple[int, Any]
"""A row's number, from 1, and the value in its text column."""


@dataclass(frozen=True)
class Loaded:
    """What one source holds.

    Attributes:
        documents: its texts, in order; ids are `name:row`, rows from 1.
        empty_rows: rows of nothing but white space, left out.
    """

    documents: tuple[Document, ...]
    empty_rows: int


@dataclass(frozen=True)
class _File:
    """One file as an option names it; knows how to complain."""

    path: Path
    option: str
    column: str

    def error(self, problem: str, remedy: str, row: int | None = None) -> SpvmiaError:
        place = f"{self.path}" if row is None else f"{self.path}, row {row}"
        return SpvmiaError(f"{self.option}: {place}: {problem}; {remedy}")

    def no_column(self, columns: list[str], row: int | None = None) -> SpvmiaError:
        names = known_columns(columns)
        others = len(columns) - len(names)
        known = ", ".join(map(repr, names)) or "none"
        known += f" and {others} that look like data (is there a header?)" if others else ""
        return self.error(
            f"expected a column {self.column!r}, got {known}{did_you_mean(self.column, names)}",
            "name the column with the text (mia_text_column, or --text-column of finetune)",
            row,
        )

    def not_utf8(self, row: int) -> SpvmiaError:
        return self.error("expected UTF-8, got other bytes", "convert the file to UTF-8", row)


def read_documents(path: str | Path, column: str, *, option: str, name: str | None = None) -> Loaded:
    """Read one file of texts by its extension: .jsonl .json .csv .parquet .txt.

    Args:
        path: the file; `~` stands for the home folder.
        column: the column with the text; a .txt file has none, each of its lines is a document.
        option: what the user calls this file, for errors (`mia_members`).
        name: the file's name in document ids; by default its last path part.

    Raises:
        SpvmiaError: no such file, unknown extension, nothing in it, no such column, a row that is no text, invalid
            JSON or UTF-8 (with the row).
    """
    file = _File(Path(path).expanduser(), option, column)
    reader = _READERS.get(file.path.suffix.lower())
    if reader is None:
        raise file.error(
            f"expected a file ending in {' '.join(_READERS)}, got {file.path.suffix or 'no extension'!r}",
            "convert it, or write hf:<dataset> for a hub data set",
        )
    if not file.path.is_file():
        what = "a folder" if file.path.is_dir() else "no such file"
        raise file.error(f"expected a file, got {what}", "check the path")
    documents: list[Document] = []
    empty = 0
    try:
        for row, value in reader(file):
            text = _checked_text(file, row, value)
            if text.strip():
                documents.append(Document(f"{name or file.path.name}:{row}", text))
            else:
                empty += 1
    except OSError as error:
        raise file.error(f"expected a readable file, got {error.strerror or 'an error'}", "check it") from error
    if not documents:
        raise file.error("expected at least one row of text, got none", "give a file with texts")
    return Loaded(tuple(documents), empty)


def _checked_text(file: _File, row: int, value: Any) -> str:
    if not isinstance(value, str):
        kind = "nothing" if value is None else type(value).__name__
        raise file.error(f"expected text in column {file.column!r}, got {kind}", "correct or remove the row", row)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise file.error("expected valid Unicode, got half a surrogate pair", "correct the row", row) from error
    return value


def _lines(file: _File) -> Iterator[tuple[int, str]]:
    """Lines by their number. Only line feeds end a line: other separators belong to the text."""
    with file.path.open("rb") as stream:
        for row, raw in enumerate(stream, start=1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise file.not_utf8(row) from error
            line = line.removeprefix("\ufeff") if row == 1 else line
            yield row, line.removesuffix("\n").removesuffix("\r")


def _read_txt(file: _File) -> Iterator[Row]:
    yield from _lines(file)


def _read_jsonl(file: _File) -> Iterator[Row]:
    for row, line in _lines(file):
        if not line.strip():
            yield row, ""
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise file.error("expected one JSON object a line, got invalid JSON", "correct the row", row) from error
        yield row, _field(file, row, value)


def _read_json(file: _File) -> Iterator[Row]:
    text = "\n".join(line for _, line in _lines(file))
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise file.error(f"expected a JSON list of objects, got invalid JSON{where}", "correct it") from error
    if not isinstance(rows, list):
        raise file.error(
            f"expected a JSON list of objects, got {type(rows).__name__}", "write [{...}, ...], or use .jsonl"
        )
    for row, value in enumerate(rows, start=1):
        yield row, _field(file, row, value)


def _field(file: _File, row: int, value: Any) -> Any:
    if not isinstance(value, dict):
        raise file.error(f"expected a JSON object, got {type(value).__name__}", "correct the row", row)
    if file.column not in value:
        raise file.no_column(list(value), row)
    return value[file.column]


def _read_csv(file: _File) -> Iterator[Row]:
    text = file.path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    escaped = any("\udc80" <= char <= "\udcff" for char in text) if not text.isascii() else False
    header: list[str] = []
    row = -1
    try:
        for row, fields in enumerate(csv_rows(text)):
            if escaped and not _is_unicode(fields):
                raise file.not_utf8(row)
            if row == 0:
                header = fields
                if file.column not in header:
                    raise file.no_column(header)
            elif len(fields) == len(header):
                yield row, fields[header.index(file.column)]
            elif fields == [""]:
                yield row, ""
            else:
                raise file.error(
                    f"expected {len(header)} fields, got {len(fields)}", "put quotes around text with commas", row
                )
    except CsvError as error:
        raise file.error(f"expected a well-formed CSV row, got {error}", "correct the row", row + 1) from error


def _is_unicode(fields: list[str]) -> bool:
    return not any("\udc80" <= char <= "\udcff" for field in fields for char in field)


def _read_parquet(file: _File) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            columns = parquet.schema_arrow.names
            if file.column not in columns:
                raise file.no_column(list(columns))
            row = 0
            for batch in parquet.iter_batches(columns=[file.column]):
                for scalar in batch.column(0):
                    row += 1
                    yield row, _parquet_value(file, row, scalar)
    except pa.ArrowException as error:
        raise file.error("expected a Parquet file, got something else", "write it anew") from error


def _parquet_value(file: _File, row: int, scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise file.not_utf8(row) from error


_READERS: dict[str, Callable[[_File], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
