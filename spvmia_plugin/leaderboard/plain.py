"""Names that come from other people, made safe for Markdown and for spreadsheets."""

from __future__ import annotations

import re

from spvmia_plugin.util.console import shown

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$]|(?<=:)/(?=/)|(?<=\bwww)\.)", re.IGNORECASE)
"""What means something in the middle of a line, and the two ways in which a bare address becomes a link."""
_CALLS = re.compile(r"@(?=[\w-])|#(?=\d)|\bGH-(?=\d)", re.IGNORECASE)
"""What sites that show Markdown link after it is rendered, where no backslash helps: people, mail addresses, issues."""
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=\bwww)(?=\.)", re.IGNORECASE)
_JOINER = "\N{WORD JOINER}"
"""Has no width and is no part of a name, so that what stands on both sides of it is no link."""
_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """The text as Markdown that shows it: no markup, no HTML, no end of a table's cell, no link and no mention."""
    return _MARKDOWN.sub(r"\\\1", _CALLS.sub(rf"\g<0>{_JOINER}", shown(text)))


def unlinked(text: str) -> str:
    """The text without anything that a site turns into a link or a mention, where markup is not read."""
    return _LINKS.sub(_JOINER, _CALLS.sub(rf"\g<0>{_JOINER}", shown(text)))


def csv_text(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: one that starts like one gets an apostrophe."""
    safe = shown(text)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe
