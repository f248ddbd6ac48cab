"""Names that come from other people, made safe to show: no control characters, nothing that turns the text around."""

from __future__ import annotations

import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$]|(?<=:)/(?=/)|(?<=\bwww)\.)")
"""What means something in the middle of a line, and the two ways in which a bare address becomes a link."""
_FORMULA = ("=", "+", "-", "@")
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
"""Unicode categories without a glyph of their own: controls, bidirectional overrides, line separators, surrogates."""


def shown(text: str) -> str:
    """The text with every character that has no glyph written as its escape, `\\u202e`."""
    return "".join(
        _escape(character) if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def markdown(text: str) -> str:
    """The text as Markdown that shows it: no markup, no HTML, no end of a table's cell."""
    return _MARKDOWN.sub(r"\\\1", shown(text))


def csv_text(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: one that starts like one gets an apostrophe."""
    safe = shown(text)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe
