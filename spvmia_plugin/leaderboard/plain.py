"""Names that come from other people, made safe for Markdown and for spreadsheets."""

from __future__ import annotations

import re

from spvmia_plugin.shown import shown

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$]|(?<=:)/(?=/)|(?<=\bwww)\.)")
"""What means something in the middle of a line, and the two ways in which a bare address becomes a link."""
_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """The text as Markdown that shows it: no markup, no HTML, no end of a table's cell."""
    return _MARKDOWN.sub(r"\\\1", shown(text))


def csv_text(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: one that starts like one gets an apostrophe."""
    safe = shown(text)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe
