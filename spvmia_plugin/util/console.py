"""What a terminal shows: progress bars, and names that come from other people made safe to print."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any


def progress_bar(*, total: int, desc: str, unit: str, initial: int = 0, quiet: bool = False) -> Any:
    """Return a tqdm bar on stderr; in a notebook under its cell, if it can.

    It is disabled where nobody would see it as a bar, and where another process shows its own.
    """
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        dynamic_ncols=True,
        disable=quiet or not (sys.stderr.isatty() or _in_notebook()),
    )


def _in_notebook() -> bool:
    """Whether the process is a notebook's kernel: its stderr is no terminal, and shows bars."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) is not None if ipython is not None else False


_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
"""Unicode categories without a glyph of their own: controls, bidirectional overrides, line separators, surrogates."""


def shown(text: str) -> str:
    """The text on one line, every character that has no glyph written as its escape, such as `\\u202e`."""
    return "".join(
        _escape(character) if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def shown_lines(text: str) -> str:
    """The text on as many lines as it has, each as `shown`; a tab is the four spaces that it looks like."""
    return "\n".join(shown(line) for line in text.replace("\r\n", "\n").expandtabs(4).split("\n"))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
