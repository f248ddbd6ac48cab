"""The same texts in every kind of file that people have, compressed in every way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable, Sequence

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
