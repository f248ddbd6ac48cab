"""The plan of an audit: stages, counts, tokens and an estimate, shown before any long work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

GENERATION_FACTOR = 6.0
"""A sampled token costs about this many scored ones: its forward pass serves one position a row."""
TRAINING_FACTOR = 4.0
"""A trained token costs about this many scored ones: forward, backward, and the step."""


@dataclass(frozen=True)
class Stage:
    """One line of the plan.

    Attributes:
        name: what is done.
        count: how many units, `unit` their name.
        tokens: tokens to process; 0 where the store has everything.
        factor: cost of a token relative to a scored one.
    """

    name: str
    count: int
    unit: str
    tokens: int
    factor: float = 1.0

    def seconds(self, rate: float) -> float:
        """Estimate at `rate` scored tokens a second."""
        return self.tokens * self.factor / rate


def render(title: str, stages: Sequence[Stage], rate: float | None) -> str:
    """The plan as a plain table; `rate` in scored tokens a second, None if nothing was measured."""
    rows = [("stage", "count", "tokens", "about")]
    for stage in stages:
        about = "from store" if not stage.tokens else _duration(stage.seconds(rate)) if rate else ""
        rows.append((stage.name, f"{stage.count:,} {stage.unit}", f"{stage.tokens:,}", about))
    if rate:
        total = sum(stage.seconds(rate) for stage in stages)
        rows.append(("total", "", f"{sum(stage.tokens for stage in stages):,}", _duration(total)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}".rstrip()
        for row in rows
    ]
    measured = f" at {rate:,.0f} tokens/s, measured just now" if rate else ""
    shrink = "  to shrink it: --limit, mia_max_samples, mia_self_prompts, mia_perturbations, mia_preset=quick"
    return "\n".join([f"{title}{measured}", *lines, shrink])


def show(text: str) -> None:
    """Print to stderr, where progress goes: stdout stays the harness's."""
    print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
