"""Text files as people have them: UTF-8, or UTF-16 and UTF-32 with their mark; a line ends in a line feed."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from spvmia_plugin.data.source_file import SourceFile

# The marks of UTF-32 begin with, or contain, those of UTF-16.
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Lines by their number, from 1. Only line feeds end a line: other separators belong to the text.

    Raises:
        SpvmiaError: a line in another encoding.
    """
    with file.opened() as stream:
        head = _peek(stream)
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


def _peek(stream: IO[bytes]) -> bytes:
    head: bytes = stream.peek(4)[:4]  # type: ignore[attr-defined]  # both kinds of stream are buffered
    return head


def _looks_wide(head: bytes) -> bool:
    """Whether two characters of UTF-16 begin the file, without a mark: as UTF-8 each would be followed by a NUL."""
    return len(head) == 4 and [byte == 0 for byte in head] in ([False, True, False, True], [True, False, True, False])


def _decoded(file: SourceFile, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        raise file.not_utf8(before.count("\n") + 1) from error
