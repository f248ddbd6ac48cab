"""Rows of files as people have them: lines of text, JSON, CSV with its relatives, Parquet, Arrow."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from spvmia_plugin.data.files import EXPECTED, SourceFile, split_ending
from spvmia_plugin.data.layout import Layout
from spvmia_plugin.data.objects import Repeated, decode, repeats_a_key

Rows = Iterator[tuple[int, Mapping[str, Any] | None]]
"""A row's number, from 1, and the values of the columns that are read; None for a row with nothing in it."""

# The marks of UTF-32 begin with, or contain, those of UTF-16.
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def rows_of(file: SourceFile, layout: Layout) -> Rows:
    """Rows of a file of any kind, by its ending; a line of a .txt file is a row with its text alone.

    Args:
        file: the file.
        layout: which columns are read; it learns the format from the first row.

    Raises:
        SpvmiaError: an unknown ending, or as the reader of its kind.
    """
    match split_ending(file.path)[0]:
        case ".jsonl" | ".ndjson" | ".json":
            return json_rows(file, layout)
        case ".csv" | ".tsv":
            return delimited_rows(file, layout)
        case ".parquet":
            return parquet_rows(file, layout)
        case ".arrow" | ".feather":
            return arrow_rows(file, layout)
        case ".txt":
            return ((row, {layout.text_alone(file, row): line}) for row, line in lines(file))
    raise file.error(
        f"expected a file ending in {EXPECTED}, got {file.path.suffix or 'no extension'!r}",
        "convert it, or write hf:<dataset> for a hub data set",
    )


def lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Lines by their number, from 1. Only line feeds end a line: other separators belong to the text.

    Raises:
        SpvmiaError: a line in another encoding.
    """
    with file.opened() as stream:
        head: bytes = stream.peek(4)[:4]  # type: ignore[attr-defined]  # both kinds of stream are buffered
        wide = next(((mark, encoding) for mark, encoding in _WIDE if head.startswith(mark)), None)
        if wide is not None:
            text = _decoded(file, stream.read()[len(wide[0]) :], wide[1])
            split = text.split("\n")
            split = split[:-1] if split[-1] == "" else split
            yield from ((row, line.removesuffix("\r")) for row, line in enumerate(split, start=1))
            return
        if _looks_wide(head):
            raise file.not_utf8(1)
        for row, raw in enumerate(stream, start=1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise file.not_utf8(row) from error
            line = line.removeprefix("\ufeff") if row == 1 else line
            yield row, line.removesuffix("\n").removesuffix("\r")


def whole_text(file: SourceFile) -> str:
    """The file as one text; bytes that are no UTF-8 stand in it as half surrogates, for rows to be told apart first.

    Raises:
        SpvmiaError: UTF-16 or UTF-32 that is not well-formed.
    """
    with file.opened() as stream:
        data = stream.read()
    for mark, encoding in _WIDE:
        if data.startswith(mark):
            return _decoded(file, data[len(mark) :], encoding)
    if _looks_wide(data[:4]):
        raise file.not_utf8(1)
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _looks_wide(head: bytes) -> bool:
    """Whether two characters of UTF-16 begin the file, without a mark: as UTF-8 each would be followed by a NUL."""
    return len(head) == 4 and [byte == 0 for byte in head] in ([False, True, False, True], [True, False, True, False])


def _decoded(file: SourceFile, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        raise file.not_utf8(before.count("\n") + 1) from error


def json_rows(file: SourceFile, layout: Layout) -> Rows:
    """Rows by number: of a list by place, else by line.

    A null row, and a line of nothing but white space, has nothing in it; a missing value that pandas wrote as NaN is
    a null.

    Raises:
        SpvmiaError: invalid JSON, a row that is neither an object nor a string, a column that is not there or twice.
    """
    numbered = lines(file)
    before = []
    for row, line in numbered:
        before.append((row, line))
        if line.strip():
            break
    together = itertools.chain(before, numbered)
    if before and before[-1][1].lstrip().startswith("["):
        yield from _of_list(file, layout, "\n".join(line for _, line in together))
        return
    for row, line in together:
        if not line.strip():
            yield row, None
            continue
        try:
            value = decode(line)
        except (ValueError, RecursionError) as error:
            remedy = "correct the row; a string a line and one list are read too"
            raise file.error("expected one JSON object a line, got invalid JSON", remedy, row) from error
        yield row, _values(file, layout, row, value)


def _of_list(file: SourceFile, layout: Layout, text: str) -> Rows:
    try:
        rows = decode(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise file.error(f"expected a JSON list of objects, got invalid JSON{where}", "correct it") from error
    for row, value in enumerate(rows, start=1):
        yield row, _values(file, layout, row, value)


def _values(file: SourceFile, layout: Layout, row: int, value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return {layout.text_alone(file, row): value}
    if not isinstance(value, dict):
        raise file.error(f"expected a JSON object or string, got {type(value).__name__}", "correct the row", row)
    columns = layout.columns(file, value.keys_as_written if isinstance(value, Repeated) else list(value), row)
    return {column: None if _is_nan(value[column]) else _unique(file, row, column, value[column]) for column in columns}


def _unique(file: SourceFile, row: int, column: str, value: Any) -> Any:
    if repeats_a_key(value):
        problem = f"expected each key once in the objects of column {column!r}, got one twice"
        raise file.error(problem, "remove what is not meant", row)
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # only NaN differs from itself


_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"')
_PLAIN = {delimiter: re.compile(rf"[^{re.escape(delimiter)}\r\n]*") for delimiter in ",;\t|"}
_LINE_END = re.compile(r"\r\n|\n|\r")


class CsvError(ValueError):
    """A row that is not well-formed; the message says how, without its text."""


def csv_rows(text: str, delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the rows of a CSV text: fields apart by commas, quoted where they hold commas, quotes or line ends.

    Args:
        text: the whole file.
        delimiter: what stands in the place of commas.

    Raises:
        CsvError: a quote that is not closed, or text after a closing quote.
    """
    position = 0
    while position < len(text):
        fields: list[str] = []
        while True:
            field, position = _field(text, position, delimiter)
            fields.append(field)
            if text[position : position + 1] != delimiter:
                break
            position += 1
        yield fields
        end = _LINE_END.match(text, position)
        position = end.end() if end else position


def _field(text: str, position: int, delimiter: str) -> tuple[str, int]:
    """Return the field at `position` and where it ends: at a delimiter, a line end, or the end of the text."""
    if text[position : position + 1] != '"':
        plain = _PLAIN[delimiter].match(text, position)
        end = plain.end() if plain else position
        return text[position:end], end
    quoted = _QUOTED.match(text, position)
    if quoted is None:
        raise CsvError("a quote that is never closed")
    end = quoted.end()
    if end < len(text) and text[end] not in f"{delimiter}\r\n":
        raise CsvError("text after a closing quote")
    return quoted[1].replace('""', '"'), end


_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""What may stand between fields, the usual one first; another one counts only where the header has the column then."""

_BATCH = 1024


def delimited_rows(file: SourceFile, layout: Layout) -> Rows:
    """Rows of a .csv or .tsv file, the first line of which names the columns; an empty cell is a null.

    Raises:
        SpvmiaError: a column that is not there or twice, a row that is not well-formed, other bytes than UTF-8.
    """
    text = whole_text(file)
    escaped = not text.isascii() and _has_bytes(text)
    text, delimiter = _delimiter(file, layout, text)
    header: list[str] = []
    row = -1
    try:
        for row, fields in enumerate(csv_rows(text, delimiter)):
            if escaped and any(map(_has_bytes, fields)):
                raise file.not_utf8(row)
            if row == 0:
                header = fields
                places = [(column, header.index(column)) for column in layout.columns(file, header)]
            elif len(fields) == len(header):
                yield row, {column: fields[place] or None for column, place in places}
            elif fields == [""]:
                yield row, None
            else:
                raise file.error(
                    f"expected {len(header)} fields, got {len(fields)}",
                    "put quotes around text with commas" if delimiter == "," else "put quotes around such text",
                    row,
                )
    except CsvError as error:
        raise file.error(f"expected a well-formed CSV row, got {error}", "correct the row", row + 1) from error


_NAMED = re.compile(r'"?sep=([,;\t|])"?(?:\r\n|\n|\r)', re.IGNORECASE)
"""The line that spreadsheets are told the delimiter by, before the header."""


def _delimiter(file: SourceFile, layout: Layout, text: str) -> tuple[str, str]:
    """The text from its header on, and its delimiter: the one a first line names, the usual one, or what fits."""
    if named := _NAMED.match(text):
        return text[named.end() :], named[1]
    delimiters = _DELIMITERS[split_ending(file.path)[0]]
    for delimiter in delimiters:
        try:
            if layout.fits(next(csv_rows(text, delimiter), [])):
                return text, delimiter
        except CsvError:
            continue
    return text, delimiters[0]


def _has_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def parquet_rows(file: SourceFile, layout: Layout) -> Rows:
    """Rows of a Parquet file.

    Raises:
        SpvmiaError: it is none, or a column is not there or twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.opened() as stream:
        # It is read from its end: a compressed one from memory.
        source = stream if stream.seekable() else pa.BufferReader(stream.read())
        try:
            with pq.ParquetFile(source) as parquet:
                columns = layout.columns(file, parquet.schema_arrow.names)
                yield from _of_batches(file, columns, parquet.iter_batches(batch_size=_BATCH, columns=list(columns)))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of names of columns
            raise _damaged(file, error, "a Parquet file") from error


def arrow_rows(file: SourceFile, layout: Layout) -> Rows:
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
            columns = layout.columns(file, reader.schema.names)
            yield from _of_batches(file, columns, _valid(batches))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
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


def _of_batches(file: SourceFile, columns: Sequence[str], batches: Iterable[Any]) -> Rows:
    row = 0
    decoders: list[_Decoder | None] | None = None
    for batch in batches:
        arrays = [batch.column(batch.schema.names.index(column)) for column in columns]
        decoders = decoders or [_decoder(batch.schema.field(column)) for column in columns]
        for scalars in zip(*arrays, strict=True):
            row += 1
            yield (
                row,
                {
                    column: _value(file, row, column, scalar, decoder)
                    for column, scalar, decoder in zip(columns, scalars, decoders, strict=True)
                },
            )


def _value(file: SourceFile, row: int, column: str, scalar: Any, decoder: _Decoder | None) -> Any:
    """A cell; bytes are text that the writer did not call so."""
    try:
        value = scalar.as_py()
        value = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise file.not_utf8(row) from error
    except (ValueError, OverflowError, LookupError) as error:  # a date after the year 9999, a time zone nobody knows
        raise file.error(
            f"expected values that Python can hold in column {column!r}, got a {scalar.type} that it cannot",
            "write the column as text",
            row,
        ) from error
    if decoder is None:
        return value
    try:
        value = decoder(value)
    except (ValueError, RecursionError) as error:
        raise file.error("expected JSON where the schema says so, got other text", "correct the row", row) from error
    return _unique(file, row, column, value)


_Decoder = Callable[[Any], Any]


def _decoder(field: Any) -> _Decoder | None:
    """What reads values of Arrow's JSON type, however deep they lie: `datasets` writes objects of mixed keys so.

    Versions of pyarrow that do not know the type have its name in the field's metadata.
    """
    import pyarrow as pa

    type_, known = field.type, (field.metadata or {}).get(b"ARROW:extension:name")
    if getattr(type_, "extension_name", None) == "arrow.json" or known == b"arrow.json":
        return lambda value: value if value is None else decode(value)
    if pa.types.is_struct(type_):
        inner = {each.name: found for each in type_ if (found := _decoder(each)) is not None}
        return (lambda value: value and value | {name: inner[name](value[name]) for name in inner}) if inner else None
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        each = _decoder(type_.value_field)
        return (lambda value: value and [each(item) for item in value]) if each else None
    return None
