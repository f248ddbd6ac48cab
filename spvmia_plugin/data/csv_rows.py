"""CSV as RFC 4180 has it. The standard module limits fields by a global setting, and on Python 3.10 refuses NUL."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
