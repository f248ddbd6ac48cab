"""Numbers as people read them, each with its exact value and the place in the results file it was taken from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from spvmia_plugin.page import MISSING
from spvmia_plugin.results import TaskResult


def per_hundred(value: float) -> str:
    """A share as "of 100": whole from 10 on, two digits below, where a whole number would hide the difference."""
    hundred = 100 * value
    return f"{hundred:.0f}" if hundred >= 9.95 else f"{hundred:.2g}"


def share_percent(value: float) -> str:
    """A share in percent, two significant digits below 10."""
    return f"{100 * value:.3g} %"


STYLES: Mapping[str, Callable[[float], str]] = {
    "share": lambda value: f"{value:.3f}",
    "per_hundred": per_hundred,
    "percent": share_percent,
    "count": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:,.1f}",
    "nats": lambda value: f"{value:.2f}",
    "score": lambda value: f"{value:#.4g}".removesuffix("."),
}
"""How a value is printed, by what it is."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number of the report.

    Attributes:
        value: unrounded; None or NaN is not resolved.
        style: of `STYLES`.
        source: where it was taken from: "results/<task>/<metric>", "mia_audit/<task>/<key>/...", or "computed/...".
    """

    value: float | None
    style: str
    source: str

    def __str__(self) -> str:
        """As it is printed."""
        if self.value is None or not math.isfinite(self.value):
            return MISSING
        return STYLES[self.style](self.value)


Text: TypeAlias = tuple["str | Number", ...]
"""A sentence: words and the numbers in it."""


def plain(text: Iterable[str | Number]) -> str:
    """A sentence as plain text."""
    return "".join(str(part) for part in text)


def metric(task: TaskResult, name: str, style: str) -> Number:
    """A number of the harness's own row."""
    return Number(task.metrics.get(name), style, f"results/{task.task}/{name}")


def audited(task: TaskResult, *path: str | int, style: str) -> Number:
    """A number of the task's `mia_audit`; not resolved where the path ends before it."""
    value: object = task.record
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            value = None
    known = float(value) if isinstance(value, (int, float)) else None
    return Number(known, style, "/".join(("mia_audit", task.task, *map(str, path))))
