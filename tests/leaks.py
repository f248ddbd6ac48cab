"""Finds spans of private texts in whatever a run left behind, however they are written."""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

SPAN_WORDS = 8


class Spans:
    """All spans of 8 words of some texts, white space normalised; in JSON's escapes as well.

    Args:
        texts: the private ones.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._spans: set[str] = set()
        self._first_words: set[str] = set()
        for text in texts:
            for written in {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}:
                words = re.sub(r"\\[nrt]", " ", written).split()
                for i in range(len(words) - SPAN_WORDS + 1):
                    self._spans.add(" ".join(words[i : i + SPAN_WORDS]))
                    self._first_words.add(words[i])
        assert self._spans, "texts of fewer than 8 words prove nothing"

    def in_text(self, text: str) -> list[str]:
        """The spans that occur in a text."""
        words = re.sub(r"\\[nrt]", " ", text).split()
        # A span may begin in the middle of a word of the file ("text":"first ...) and end in one.
        found = []
        for i, word in enumerate(words[: max(len(words) - SPAN_WORDS + 1, 0)]):
            tails = {word[k:] for k in range(len(word))} if len(word) < 200 else {word}
            for tail in tails & self._first_words:
                window = " ".join([tail, *words[i + 1 : i + SPAN_WORDS]])
                found += [span for span in (window, *_shortened(window)) if span in self._spans]
        return found

    def in_bytes(self, data: bytes) -> list[str]:
        """The spans that occur in a file's content, read as UTF-8 and as UTF-16 of either byte order."""
        found = self.in_text(data.decode("utf-8", "ignore").replace("\0", " "))
        for encoding in ("utf-16-le", "utf-16-be"):
            for start in (0, 1):
                found += self.in_text(data[start:].decode(encoding, "ignore"))
        return found


def _shortened(window: str) -> Iterator[str]:
    """The window without what follows its last word in the file: quotes, brackets."""
    for cut in range(1, 12):
        yield window[:-cut]


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a file holds: its bytes, and if it is a database also every value in it, unpacked where it is packed."""
    data = path.read_bytes()
    yield str(path), data
    if data.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        if isinstance(value, (bytes, str)):
                            raw = value.encode() if isinstance(value, str) else value
                            yield f"{path}:{table}", raw
                            if unpacked := _unpacked(raw):
                                yield f"{path}:{table} unpacked", unpacked


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return b""


def leaks(folder: Path, spans: Spans, *, aside: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(where, span) for everything below `folder` but folders and files named in `aside`."""
    skipped = set(aside)
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not skipped & set(path.relative_to(folder).parts):
            found += [(where, span) for where, data in contents(path) for span in spans.in_bytes(data)]
    return found
