"""The one exception that users see, and the wording it keeps to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from spvmia_plugin.util.console import shown

MAX_REASON = 200
"""Characters of a library's own words that a message repeats."""


class SpvmiaError(ValueError, SystemExit):
    """Bad input, told in one line: what was named, what was expected, what was got, what to do.

    It is a `ValueError` for callers from Python. It is a `SystemExit` as well, so that the stock `lm_eval`
    command prints the line on stderr and ends with status 1 instead of showing a traceback. A message never
    holds the text of a record.
    """

    def __init__(self, message: str) -> None:
        """Keep `message` on one line that a terminal shows as it is, whatever was interpolated into it."""
        line = shown(" ".join(message.split()))
        super().__init__(line)
        self.code = line


def reason_of(error: BaseException) -> str:
    """What a library said, in brackets of a message: the kind of the error and its first line.

    For files and models of others, where the libraries raise whatever they like: our line then says what they said.
    Not for what reads records: such words may quote their text.
    """
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {words[:MAX_REASON]}" if words else type(error).__name__


def known_columns(columns: Iterable[str]) -> list[str]:
    """The names among `columns` that look like names: a file without a header has a record in their place."""
    return [name for name in columns if re.fullmatch(r"[A-Za-z_][\w.-]{0,30}", name)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
