"""JSON as people have it: a value a line or one list, whatever the ending; objects with columns, or bare strings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from spvmia_plugin.data.source_file import SourceFile
from spvmia_plugin.data.text_lines import lines

_DIGITS = 4000
"""Python reads no longer integers without a change of a global setting."""


class _Repeated(dict[str, Any]):
    """An object in which a key stands twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.keys_as_written = [key for key, _ in pairs]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(pairs)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer).decode


def json_rows(file: SourceFile) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows by number with the values of the wanted columns: of a list by place, else by line.

    A null row, and a line of nothing but white space, has None everywhere; so has a missing value that pandas wrote
    as NaN.

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
        yield from _of_list(file, "\n".join(line for _, line in together))
        return
    for row, line in together:
        if not line.strip():
            yield row, (None,) * len(file.columns)
            continue
        try:
            value = _decode(line)
        except (ValueError, RecursionError) as error:
            raise file.error(
                "expected one JSON object a line, got invalid JSON",
                "correct the row; a string a line and one list are read too",
                row,
            ) from error
        yield row, _values(file, row, value)


def _of_list(file: SourceFile, text: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    try:
        rows = _decode(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise file.error(
            f"expected a JSON list of objects, got invalid JSON{where}",
            "correct it",
        ) from error
    for row, value in enumerate(rows, start=1):
        yield row, _values(file, row, value)


def _values(file: SourceFile, row: int, value: Any) -> tuple[Any, ...]:
    if value is None:
        return (None,) * len(file.columns)
    if isinstance(value, str):
        if len(file.columns) > 1:
            raise file.no_column(file.columns[1], (), row)
        return (value,)
    if not isinstance(value, dict):
        raise file.error(f"expected a JSON object or string, got {type(value).__name__}", "correct the row", row)
    file.check_columns(value.keys_as_written if isinstance(value, _Repeated) else value, row)
    return tuple(None if _is_nan(value[column]) else value[column] for column in file.columns)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # only NaN differs from itself
