"""Rows of tables: CSV with its relatives, Parquet, Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from spvmia_plugin.data.csv_rows import CsvError, csv_rows
from spvmia_plugin.data.source_file import SourceFile, split_ending
from spvmia_plugin.data.text_lines import whole_text

Rows = Iterator[tuple[int, tuple[Any, ...]]]
"""A row's number, from 1, and the values of the wanted columns."""

_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""What may stand between fields, the usual one first; another one counts only where the header has the column then."""

_BATCH = 1024


def delimited_rows(file: SourceFile) -> Rows:
    """Rows of a .csv or .tsv file, the first line of which names the columns.

    Raises:
        SpvmiaError: a column that is not there or twice, a row that is not well-formed, other bytes than UTF-8.
    """
    text = whole_text(file)
    escaped = not text.isascii() and _has_bytes(text)
    delimiter = _delimiter(file, text)
    header: list[str] = []
    row = -1
    try:
        for row, fields in enumerate(csv_rows(text, delimiter)):
            if escaped and any(map(_has_bytes, fields)):
                raise file.not_utf8(row)
            if row == 0:
                header = fields
                file.check_columns(header)
                places = [header.index(column) for column in file.columns]
            elif len(fields) == len(header):
                yield row, tuple(fields[place] for place in places)
            elif fields == [""]:
                yield row, (None,) * len(file.columns)
            else:
                raise file.error(
                    f"expected {len(header)} fields, got {len(fields)}",
                    "put quotes around text with commas" if delimiter == "," else "put quotes around such text",
                    row,
                )
    except CsvError as error:
        raise file.error(f"expected a well-formed CSV row, got {error}", "correct the row", row + 1) from error


def _delimiter(file: SourceFile, text: str) -> str:
    """The usual delimiter, or the one under which the header has the text's column."""
    delimiters = _DELIMITERS[split_ending(file.path)[0]]
    for delimiter in delimiters:
        try:
            if file.columns[0] in next(csv_rows(text, delimiter), ()):
                return delimiter
        except CsvError:
            continue
    return delimiters[0]


def _has_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def parquet_rows(file: SourceFile) -> Rows:
    """Rows of a Parquet file.

    Raises:
        SpvmiaError: it is none, or a column is not there or twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.opened() as stream:
        source = _seekable(stream)
        try:
            with pq.ParquetFile(source) as parquet:
                file.check_columns(parquet.schema_arrow.names)
                batches = parquet.iter_batches(batch_size=_BATCH, columns=list(file.columns))
                yield from _of_batches(file, batches)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file, error, "a Parquet file") from error


def arrow_rows(file: SourceFile) -> Rows:
    """Rows of an Arrow file or stream; what `datasets` saves and `.feather` files are such.

    Raises:
        SpvmiaError: it is neither, or a column is not there or twice.
    """
    import pyarrow as pa

    with file.opened() as stream:
        data = stream.read()
        try:
            try:
                reader = pa.ipc.open_file(data)
                batches: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                batches = reader = pa.ipc.open_stream(data)
            file.check_columns(reader.schema.names)
            yield from _of_batches(file, _valid(batches))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file, error, "an Arrow file") from error


def _valid(batches: Iterable[Any]) -> Iterator[Any]:
    """Arrow takes a file's word for where each text begins and ends: it is checked before memory is read by it."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _damaged(file: SourceFile, error: Exception, expected: str) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:  # the disk's, not pyarrow's
        return error
    return file.error(f"expected {expected}, got something else or a damaged one", "write it anew")


def _seekable(stream: Any) -> Any:
    """A Parquet file is read from its end: a compressed one from memory."""
    if stream.seekable():
        return stream
    import pyarrow as pa

    return pa.BufferReader(stream.read())


def _of_batches(file: SourceFile, batches: Iterable[Any]) -> Rows:
    row = 0
    for batch in batches:
        columns = [batch.column(batch.schema.names.index(column)) for column in file.columns]
        for scalars in zip(*columns, strict=True):
            row += 1
            yield row, tuple(_value(file, row, scalar) for scalar in scalars)


def _value(file: SourceFile, row: int, scalar: Any) -> Any:
    """A cell; bytes are text that the writer did not call so."""
    try:
        value = scalar.as_py()
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise file.not_utf8(row) from error
