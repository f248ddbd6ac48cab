"""Tells whether what somebody else's code says quotes a private text, however that was written down."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import unescape
from typing import Any
from urllib.parse import unquote

LEFT_OUT = "a reason that quotes a record and is left out"

_QUOTED_CHARACTERS = 20
_SHORT_TEXT = 6
_LONGEST = 300
_DISTINCT = 100
_ROUNDS = 3
"""Of resolving: an address inside of an address."""
_BYTES = re.compile(
    r"(?:\\x[0-9a-fA-F]{2})+|(?:\\[0-3][0-7]{2})+|<0x[0-9A-Fa-f]{2}>(?:[\s,'\"]*<0x[0-9A-Fa-f]{2}>)*|"
    r"(?:\\u[0-9a-fA-F]{4})+|\\U[0-9a-fA-F]{8}|\\[nrt]|</w>"
)
"""Escapes of `repr`, JSON and bytes, tokens that are a byte, and the end of a word as some tokenizers write it."""
_BYTE = re.compile(r"(?:x|<0x)([0-9a-fA-F]{2})|\\([0-3][0-7]{2})")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


class Quotes:
    """Tells whether a line quotes private texts: 20 characters in a row, or all of a short text.

    Escapes, addresses, HTML and the tokens of a vocabulary are read as what they stand for; case, and whatever is
    neither letter nor digit, makes no difference. So do numbers between words, as in a list with places or scores.

    Args:
        texts: the private ones, read when the first line is asked about.
    """

    def __init__(self, texts: Callable[[], Iterable[str]]) -> None:
        self._source = texts
        self._texts: list[tuple[str, str]] | None = None
        self._known: dict[str, bool] = {}

    def in_line(self, line: str) -> bool:
        """Whether the line quotes a text. Of more than 100 different lines all the rest are taken to."""
        if line not in self._known:
            self._known[line] = len(self._known) >= _DISTINCT or self._quoted(line)
        return self._known[line]

    def without(self, reason: str | None) -> str | None:
        """The reason, or words that say that it is left out; at most 300 characters."""
        if reason is None:
            return None
        return LEFT_OUT if self.in_line(str(reason)) else str(reason)[:_LONGEST]

    def without_any(self, value: Any) -> Any:
        """A JSON-ready value without the strings that quote a text, alone or word by word in a list or mapping."""
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, dict):
            told = {self.without_any(key): self.without_any(item) for key, item in value.items()}
            return {LEFT_OUT: len(value)} if self._in_parts(told) else told
        if isinstance(value, (list, tuple)):
            items = [self.without_any(item) for item in value]
            return [LEFT_OUT] if self._in_parts(items) else items
        return value

    def _in_parts(self, value: Any) -> bool:
        """Whether the strings of a value, each of which quotes nothing, do so together."""
        words = list(_strings(value))
        return len(words) > 1 and self._quoted(" ".join(words))

    def _quoted(self, line: str) -> bool:
        if self._texts is None:
            # A program has escapes of its own, which tokens of it part: as it is, and as others resolve it.
            both = (each for text in self._source() for each in (text, _resolved(text, "latin-1")))
            self._texts = list(dict.fromkeys((_plain(text), _letters(text)) for text in both))
        # Bytes above 127 are letters of Latin 1 in what `ascii` wrote, and parts of letters in what bytes wrote.
        readings = {_resolved(line, "latin-1"), _resolved(line, "utf-8")}
        readings |= {_from_tokens(each) for each in readings if not each.isascii()}
        plain, letters = {_plain(each) for each in readings}, {_letters(each) for each in readings}
        return any(
            any(_quotes(each, text) for each in plain) or any(_holds_run(each, words) for each in letters - plain)
            for text, words in self._texts
        )


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _quotes(line: str, text: str) -> bool:
    """Whether a line holds 20 letters and digits of a text in a row, or all of a short one. Both are `_plain`."""
    if len(text) < _QUOTED_CHARACTERS:
        return len(text) >= _SHORT_TEXT and text in line
    return _holds_run(line, text)


def _holds_run(line: str, text: str) -> bool:
    """Whether 20 characters in a row of a line stand in a text."""
    half = _QUOTED_CHARACTERS // 2
    # 20 characters of the line hold a whole piece of 10 that begins at a multiple of 10: few to look for.
    if not any(line[start : start + half] in text for start in range(0, len(line) - half + 1, half)):
        return False
    starts = range(len(line) - _QUOTED_CHARACTERS + 1)
    return any(line[start : start + _QUOTED_CHARACTERS] in text for start in starts)


def _plain(resolved: str) -> str:
    """Letters and digits alone, whatever stands between them; of a text that has none, what it has."""
    return "".join(filter(str.isalnum, resolved)).casefold() or "".join(resolved.split())


def _letters(resolved: str) -> str:
    """Without numbers: where each word has its place or its score beside it, they break every run."""
    return "".join(filter(str.isalpha, _NUMBER.sub(" ", resolved))).casefold()


def _resolved(text: str, encoding: str) -> str:
    """Without what `repr`, JSON, bytes, addresses and HTML make of a text; bytes are read in that encoding."""
    for _ in range(_ROUNDS):
        before = text
        if "\\" in text or "<" in text:
            text = _BYTES.sub(lambda match: _unescaped(match[0], encoding), text)
        if "%" in text:
            text = unquote(text)
        if "&" in text:
            text = unescape(text)
        if text == before:
            break
    return text


def _unescaped(escapes: str, encoding: str) -> str:
    if escapes[:2] == "\\u":
        units = bytes.fromhex(escapes.replace("\\u", ""))
        return units.decode("utf-16-be", "replace")  # two of them are one character beyond 65,535
    if escapes[:2] == "\\U":
        code = int(escapes[2:], 16)
        return chr(code) if code < 0x110000 else " "
    octets = bytes(int(one or "0", 16) if one else int(other, 8) for one, other in _BYTE.findall(escapes))
    return octets.decode(encoding, "ignore") if octets else " "


def _byte_alphabet() -> dict[str, int]:
    """The characters that tokenizers of bytes write for them, as GPT-2's: what is printable for itself, then others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _from_tokens(line: str) -> str:
    """What the tokens of a byte-level vocabulary stand for: `Ġ` is a space, and `Ð¿` the two bytes of a letter.

    What stands between tokens in a line would part the bytes of a letter: it is left out before.
    """
    octets = bytearray()
    for character in line:
        if character.isascii():
            if character.isalnum():
                octets.append(ord(character))
        elif character in _ALPHABET:
            octets.append(_ALPHABET[character])
        else:
            octets += character.encode("utf-8", "ignore")
    return octets.decode("utf-8", "ignore")
