"""Numbers and commands as people read them, and names from other people made safe for where they are shown."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone

from spvmia_plugin.metrics.names import DECIMALS
from spvmia_plugin.util.console import shown

MISSING = "–"
"""Printed for what is not resolved."""
NOT_RESOLVED = "not resolved"
"""The same in words, for those who hear the page and inside sentences."""


_LANDMARKS = (0.1, 1.0, 5.0, 50.0, 100.0)
"""Of 100: what a guess gets by the metrics there are, and certainty. "Between 50 and 52: all above the 50 of guessing"
makes no sense."""


def _per_hundred(value: float) -> str:
    """A share as "of 100": whole from 10 on, two digits below; up to two more tell it from one of `_LANDMARKS`."""
    hundred = 100 * value
    for more in range(3):
        text = f"{hundred:.{more}f}" if hundred >= 9.95 else f"{hundred:.{2 + more}g}"
        if float(text) not in _LANDMARKS or math.isclose(hundred, float(text)):
            break
    return text


STYLES: Mapping[str, Callable[[float], str]] = {
    "share": lambda value: f"{value:.{DECIMALS}f}",
    "per_hundred": _per_hundred,
    "percent": lambda value: f"{100 * value:.3g} %",
    "count": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:,.1f}",
    "nats": lambda value: f"{value:.2f}",
    "score": lambda value: f"{value:#.4g}".removesuffix("."),
    "limit": lambda value: f"{value:g}",
}
"""How a value is printed, by what it is."""


def printed(value: float | None, style: str = "share") -> str:
    """A number in one of `STYLES`; `MISSING` where it is None or not finite."""
    return MISSING if value is None or not math.isfinite(value) else STYLES[style](value)


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval, which no line parts: "0.430 to 0.650"; empty where there is none."""
    ends = printed(low), printed(high)
    return "" if MISSING in ends else "\N{NO-BREAK SPACE}".join((ends[0], "to", ends[1]))


def day(date: float) -> str:
    """The day of a time in seconds since 1970, in UTC."""
    return datetime.fromtimestamp(date, tz=timezone.utc).strftime("%Y-%m-%d")


def ran(dates: Iterable[float], ours: Iterable[str], harness: Iterable[str]) -> str:
    """When runs were made, and with which versions.

    Args:
        dates: of the runs, in seconds since 1970; 0 where one is not known.
        ours: versions of spvmia-plugin.
        harness: versions of lm_eval.
    """
    known = sorted(date for date in dates if date)
    days = list(dict.fromkeys(day(date) for date in (*known[:1], *known[-1:])))
    when = f"Run {'from ' if len(days) > 1 else 'on '}{' to '.join(days)}" if days else "Run at a time not recorded"
    programs = {"spvmia-plugin": ours, "lm_eval": harness}
    versions = [f"{name} {shown(listed(found))}" for name, of in programs.items() if (found := sorted(set(of)))]
    return f"{when} with {' and '.join(versions)}."


_NO_NUMBER = re.compile(r"\b(?:NaN|nan|N/A)\b")


def worded(text: str) -> str:
    """A message for people, in which what has no number is called one thing: it comes from three programs."""
    return _NO_NUMBER.sub(NOT_RESOLVED, text)


def listed(names: Iterable[str]) -> str:
    """Names one after the other, told apart where one of them has a comma of its own."""
    every = list(names)
    return ("; " if any("," in name for name in every) else ", ").join(every)


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


def typed(words: Sequence[str]) -> str:
    """A command as it is typed into a shell, one option a line."""
    lines = [shlex.quote(words[0])]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append(f"    {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)
