"""The one exception that users see, and the wording it keeps to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from spvmia_plugin.shown import shown


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


def known_columns(columns: Iterable[str]) -> list[str]:
    """The names among `columns` that look like names: a file without a header has a record in their place."""
    return [name for name in columns if re.fullmatch(r"[A-Za-z_][\w.-]{0,30}", name)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
