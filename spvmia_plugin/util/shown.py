"""Names that come from other people, made safe to print: no control characters, nothing that turns the text around."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
"""Unicode categories without a glyph of their own: controls, bidirectional overrides, line separators, surrogates."""


def shown(text: str) -> str:
    """The text on one line, every character that has no glyph written as its escape, such as `\\u202e`."""
    return "".join(
        _escape(character) if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
