"""What has to hold of the data before a number means anything, and how a check says that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

EXAMPLES = 5
"""Ids listed for each finding."""

Severity = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that limits what the numbers say.

    Attributes:
        code: stable name of the check.
        severity: "warning" if the number should not be used before this is dealt with, "note" if it should be known.
        message: plain words: what was found, and what it means for the number. Never the text of a record.
        details: counts, shares and ids, JSON-ready.
    """

    code: str
    severity: Severity
    message: str
    details: dict[str, object] = field(default_factory=dict)


def percent(share: float) -> str:
    """A share for people, three digits."""
    return f"{100 * share:.3g} %"


def listed(examples: Sequence[object], share: float) -> dict[str, object]:
    """Count, share and the first examples (ids), JSON-ready."""
    return {"count": len(examples), "share": share, "examples": list(examples[:EXAMPLES])}
