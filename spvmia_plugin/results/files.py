"""Opens the files of a run, which may come from anybody: regular ones only, of a size and depth that real runs keep."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from string import digits, whitespace
from typing import Any, BinaryIO

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.strict_json import parse_whole

MAX_RESULTS = 512 << 20
"""Bytes of a results file. Those of 2 x 100,000 records have 100 kB, or 200 MB where each belongs to somebody."""
MAX_SAMPLES = 64 << 30
"""Bytes of a samples file: 2 x 100,000 records take 0.2 GB, with texts of 100 kB each 40 GB."""
MAX_LINE = 64 << 20
"""Bytes of a line of a samples file: one record."""
MAX_DEPTH = 100
"""Levels of a results file; those of lm_eval and of the plugin have a dozen."""
_MAX_DIGITS = 19
"""Of a whole number: seeds go up to 2^63; longer ones are read as the float next to them, which may be infinity."""
_DIGITS_AND_BEFORE = bytes(
    ord("0" if chr(byte) in digits else " " if chr(byte) in ":,[-" + whitespace else chr(byte)) for byte in range(256)
)
"""Turns every digit into 0 and what can stand before a number into a space: a long whole number is then one sequence of
bytes to look for, in a seventh of the time of a pattern. Digits of a fraction stand behind its point."""
_LONG_NUMBER = b" " + b"0" * (_MAX_DIGITS + 1)


def open_regular(path: Path, limit: int) -> BinaryIO:
    """Open a file for reading, if it is one.

    Args:
        path: the file. A pipe or a device is refused without waiting for it.
        limit: most bytes that it may have.

    Raises:
        SpvmiaError: it cannot be opened, is no regular file, or is larger.
    """
    try:
        # Opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise SpvmiaError(
            f"RESULTS: expected a file that can be read, got {shown(str(path))} ({reason}); leave it out"
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        os.close(descriptor)
        what = f"one of {found.st_size:,} bytes" if stat.S_ISREG(found.st_mode) else "a folder, pipe or device"
        raise SpvmiaError(
            f"RESULTS: {shown(str(path))}: expected a regular file of at most {limit:,} bytes, got {what}; leave it out"
        )
    return os.fdopen(descriptor, "rb")


def load_results(path: Path) -> Any:
    """Read a results file as JSON. Half surrogates, which no text may have, are written as their escapes.

    Raises:
        SpvmiaError: no such file, no JSON, or nested too deeply.
    """
    try:
        with open_regular(path, MAX_RESULTS) as file:
            content = file.read(MAX_RESULTS + 1)
        # Called for every number, it takes a third of the time: only where there may be a long one.
        parse_int = (
            partial(parse_whole, most=_MAX_DIGITS) if _LONG_NUMBER in content.translate(_DIGITS_AND_BEFORE) else None
        )
        raw = json.loads(content.decode("utf-8"), parse_int=parse_int)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, SpvmiaError):
            raise
        raise SpvmiaError(
            f"RESULTS: expected a JSON file of lm_eval, got {path}, which cannot be read as one; leave it out"
        ) from error
    if _is_deep(raw):
        raise SpvmiaError(
            f"RESULTS: {path}: expected a results file of lm_eval, got more than {MAX_DEPTH} levels; leave it out"
        )
    return _encodable(raw) if b"\\u" in content else raw


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with where they begin. What is longer than a line may be is cut, and fits nothing then."""
    place = 0
    while line := file.readline(MAX_LINE):
        yield place, line
        place += len(line)


def encodable(text: str) -> str:
    """The text with every half surrogate written as its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if type(inner) is dict or type(inner) is list  # json makes no others; a third of the time of isinstance
        ]
        if not level:
            return False
    return True


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {encodable(key): _encodable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_encodable(inner) for inner in value]
    return encodable(value) if isinstance(value, str) else value
