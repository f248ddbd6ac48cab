"""The same texts in every kind of file that people have, compressed in every way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def _json_lines(texts: Sequence[str]) -> str:
    return "".join(json.dumps({"n": i, "text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(texts))


def _json_list(texts: Sequence[str]) -> str:
    return json.dumps([{"text": text, "n": None} for text in texts], indent=1)


def delimited(texts: Sequence[str], delimiter: str) -> str:
    rows = [["id", "text"], *([str(i), text] for i, text in enumerate(texts))]
    return "\r\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)


def parquet(texts: Sequence[str], type_: pa.DataType | None = None) -> bytes:
    """Several row groups; the column in the given type."""
    column = pa.chunked_array([texts[:3], texts[3:]], pa.string())
    column = (
        column.dictionary_encode() if pa.types.is_dictionary(type_ or pa.string()) else column.cast(type_ or "string")
    )
    stream = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(len(texts))), "text": column}), stream, row_group_size=4)
    return stream.getvalue()


def arrow(texts: Sequence[str], new: Callable[..., pa.ipc.RecordBatchStreamWriter]) -> bytes:
    stream = io.BytesIO()
    table = pa.table({"text": pa.chunked_array([texts[:2], texts[2:]], pa.large_string())})
    with new(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


KINDS: dict[str, tuple[str, Callable[[Sequence[str]], bytes]]] = {
    "lines in .jsonl": (".jsonl", lambda t: _json_lines(t).encode()),
    "lines in .json": (".json", lambda t: _json_lines(t).encode()),
    "lines in .ndjson": (".ndjson", lambda t: _json_lines(t).encode()),
    "lines with returns": (".jsonl", lambda t: _json_lines(t).replace("\n", "\r\n").encode()),
    "lines with a mark": (".jsonl", lambda t: _json_lines(t).encode("utf-8-sig")),
    "lines of UTF-16": (".jsonl", lambda t: _json_lines(t).encode("utf-16")),
    "a list": (".json", lambda t: _json_list(t).encode()),
    "a list in .jsonl": (".jsonl", lambda t: _json_list(t).encode()),
    "a list of UTF-32": (".json", lambda t: _json_list(t).encode("utf-32")),
    "strings": (".jsonl", lambda t: "".join(json.dumps(text) + "\n" for text in t).encode()),
    "a list of strings": (".json", lambda t: json.dumps(t).encode()),
    "csv": (".csv", lambda t: delimited(t, ",").encode()),
    "csv with a mark": (".csv", lambda t: delimited(t, ",").encode("utf-8-sig")),
    "csv of a European Excel": (".csv", lambda t: delimited(t, ";").encode("utf-8-sig")),
    "tsv": (".tsv", lambda t: delimited(t, "\t").encode()),
    "Unicode text of Excel": (".tsv", lambda t: delimited(t, "\t").encode("utf-16")),
    "parquet": (".parquet", parquet),
    "parquet, large": (".parquet", lambda t: parquet(t, pa.large_string())),
    "parquet, dictionary": (".parquet", lambda t: parquet(t, pa.dictionary(pa.int32(), pa.string()))),
    "parquet, bytes": (".parquet", lambda t: parquet(t, pa.binary())),
    "arrow file": (".arrow", lambda t: arrow(t, pa.ipc.new_file)),
    "arrow stream": (".arrow", lambda t: arrow(t, pa.ipc.new_stream)),
    "feather": (".feather", lambda t: arrow(t, pa.ipc.new_file)),
}
"""Ending and writer of each. A .txt file cannot hold every text: it has tests of its own."""


# --- rows of several columns, as conversations have them ---

Row = Mapping[str, Any]


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def cells(rows: Sequence[Row], delimiter: str = ",") -> str:
    """A table of text in which lists and objects are JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in table)


JSON = {b"ARROW:extension:name": b"arrow.json", b"ARROW:extension:metadata": b""}
"""Of a field with Arrow's JSON type; so written, older versions of pyarrow can write it too."""


def json_typed(rows: Sequence[Row]) -> pa.Table:
    """As `datasets` writes objects whose keys differ: lists of Arrow's JSON."""
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    lists = pa.list_(pa.field("element", pa.string(), metadata=JSON))
    arrays = {
        name: pa.array([value and [json.dumps(item) for item in value] for value in values], lists)
        if any(isinstance(value, list) for value in values)
        else pa.array(values)
        for name, values in columns.items()
    }
    return pa.table(list(arrays.values()), schema=pa.schema([(name, array.type) for name, array in arrays.items()]))


def tabled(rows: Sequence[Row]) -> pa.Table:
    """Structs with every key that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({name: [row.get(name) for row in rows] for name in columns})


def _parquet_of(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=2)
    return stream.getvalue()


def _arrow_of(table: pa.Table, new: Callable[..., pa.ipc.RecordBatchStreamWriter]) -> bytes:
    stream = io.BytesIO()
    with new(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return stream.getvalue()


def _pandas(rows: Sequence[Row]) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame(list(rows)).to_parquet(stream)
    return stream.getvalue()


def _pandas_lines(rows: Sequence[Row]) -> bytes:
    return str(pd.DataFrame(list(rows)).to_json(orient="records", lines=True)).encode()


ROW_KINDS: dict[str, tuple[str, Callable[[Sequence[Row]], bytes]]] = {
    "lines": (".jsonl", lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()),
    "lines in .json": (".json", lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()),
    "lines of pandas": (".jsonl", _pandas_lines),
    "lines of JSON in JSON": (
        ".ndjson",
        lambda rows: "".join(
            json.dumps({k: _cell(v) if isinstance(v, list | dict) else v for k, v in row.items()}) + "\n"
            for row in rows
        ).encode(),
    ),
    "a list": (".json", lambda rows: json.dumps(rows, indent=1).encode()),
    "a list of UTF-16": (".json", lambda rows: json.dumps(rows, ensure_ascii=False).encode("utf-16")),
    "csv": (".csv", lambda rows: cells(rows).encode()),
    "csv of a European Excel": (".csv", lambda rows: cells(rows, ";").encode("utf-8-sig")),
    "tsv": (".tsv", lambda rows: cells(rows, "\t").encode()),
    "parquet": (".parquet", lambda rows: _parquet_of(tabled(rows))),
    "parquet of pandas": (".parquet", _pandas),
    "parquet of JSON": (".parquet", lambda rows: _parquet_of(json_typed(rows))),
    "arrow file": (".arrow", lambda rows: _arrow_of(tabled(rows), pa.ipc.new_file)),
    "arrow stream": (".arrow", lambda rows: _arrow_of(tabled(rows), pa.ipc.new_stream)),
    "arrow of JSON": (".arrow", lambda rows: _arrow_of(json_typed(rows), pa.ipc.new_stream)),
    "feather": (".feather", lambda rows: _arrow_of(tabled(rows), pa.ipc.new_file)),
}
"""Ending and writer of each."""
