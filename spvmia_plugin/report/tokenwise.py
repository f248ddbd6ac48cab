"""One record token by token as the page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spvmia_plugin.report.numbers import Number
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.util.console import shown

SHADES = (0.5, 1.5, 3.0)
"""Nats from which on a token has the next darker shade."""


@dataclass(frozen=True)
class Tokenwise:
    """One record token by token: each with its three numbers and how far target and reference part, from -3 to 3."""

    id: str
    is_member: bool
    reference: str | None
    rows: Sequence[tuple[str, Number, Number, Number, int]]
    reason: str | None


def tokenwise(found: TokenView) -> Tokenwise:
    """Lay out one record."""
    rows = []
    for place, token in enumerate(found.tokens):
        source = f"computed/{found.record_id}/{place}"
        numbers = [
            Number(value, "nats", f"{source}/{name}")
            for name, value in (
                ("target", token.target),
                ("reference", token.reference),
                ("difference", token.difference),
            )
        ]
        rows.append((token.text, numbers[0], numbers[1], numbers[2], _step(token.difference)))
    return Tokenwise(shown(found.record_id), found.is_member, found.reference, rows, found.reason)


def _step(difference: float | None) -> int:
    """A difference of log-probabilities in nats as one of seven shades."""
    if difference is None:
        return 0
    size = sum(abs(difference) >= limit for limit in SHADES)
    return size if difference > 0 else -size
