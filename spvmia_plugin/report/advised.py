"""One thing to do, as `advice` and `mending` tell it."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.report.numbers import Text


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        title: what to do, in a few words.
        evidence: what was measured that speaks for it.
        how: how to do it.
        command: what would test it; None where that is no command of ours.
    """

    title: str
    evidence: Text
    how: str
    command: str | None = None
