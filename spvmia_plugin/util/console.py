"""What a terminal shows: progress bars, tables, and names that come from other people made safe to print."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar


class Follower(Protocol):
    """Is told of the bars that open and move while it follows."""

    def __call__(self, name: str, share: float, *, kept: bool = False) -> str:
        """A bar moved by a share of all it counts, `kept` if that was there before; what it says of the whole."""


# Bars open far from where the whole is known: that of a training, behind a hook and a backend.
_FOLLOWER: ContextVar[Follower | None] = ContextVar("follower", default=None)
_NAME: ContextVar[str | None] = ContextVar("name", default=None)
_PART: ContextVar[str] = ContextVar("part", default="")


T = TypeVar("T")


@contextmanager
def _having(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def following(follower: Follower) -> AbstractContextManager[None]:
    """Have bars tell how far they are. They go when they are done: whoever follows says what stays to be read."""
    return _having(_FOLLOWER, follower)


def bars_called(name: str) -> AbstractContextManager[None]:
    """Give the bars that open a name: who opens them does not know what for."""
    return _having(_NAME, name)


def bars_of(part: str) -> AbstractContextManager[None]:
    """Have bars say which part of the whole they count: there is one for each. Empty where one is all."""
    return _having(_PART, part)


_BAR = "{desc} {percentage:3.0f} %, {remaining} left{postfix} |{bar}| {n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}"
"""A narrow terminal cuts the end off."""


class Bar:
    """A bar on stderr; in a notebook under its cell, if it can. Usable as a context manager.

    Args:
        total: how many units there are.
        desc: what is done.
        unit: name of the units.
        initial: how many are done already.
        quiet: show nothing: another process has its own.
    """

    def __init__(self, *, total: int, desc: str, unit: str, initial: int = 0, quiet: bool = False) -> None:
        from tqdm.auto import tqdm

        self._name, self._total, self._follower = _NAME.get() or desc, max(total, 1), _FOLLOWER.get()
        self._bar: Any = tqdm(
            total=total,
            initial=initial,
            desc=", ".join(filter(None, (self._name, _PART.get()))),
            unit=f" {unit}",
            bar_format=_BAR,
            dynamic_ncols=True,
            leave=self._follower is None,
            postfix=self._told(initial, kept=True) or None,
            disable=quiet or not (sys.stderr.isatty() or _in_notebook()),
        )

    def update(self, count: int) -> None:
        """So many more are done."""
        self._bar.set_postfix_str(self._told(count), refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        """It is done, or given up."""
        self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _told(self, count: int, *, kept: bool = False) -> str:
        return "" if self._follower is None else self._follower(self._name, count / self._total, kept=kept)


def above_bars() -> AbstractContextManager[None]:
    """Whoever writes to stderr meanwhile writes above a bar that is there."""
    from tqdm import tqdm

    found: AbstractContextManager[None] = tqdm.external_write_mode(file=sys.stderr)
    return found


def show(text: str) -> None:
    """Print to stderr, where progress goes: stdout stays the harness's. File names in it drive no terminal."""
    with above_bars():
        print("\n".join(map(shown, text.split("\n"))), file=sys.stderr, flush=True)


def columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Lines of a table, its cells two spaces apart; `sides` has `<` or `>` of each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justify = [str.ljust if side == "<" else str.rjust for side in sides]
    return [
        "  " + "  ".join(to(cell, width) for to, cell, width in zip(justify, row, widths, strict=True)).rstrip()
        for row in rows
    ]


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
