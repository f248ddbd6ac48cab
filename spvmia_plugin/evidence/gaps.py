"""Numbers that are not there, each reason told once with all that it is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Gap(NamedTuple):
    """A number that an attack has not.

    Attributes:
        label: of the metric.
        attack: whose.
        reason: why, None where nobody recorded it.
    """

    label: str
    attack: str
    reason: str | None


class Gaps(NamedTuple):
    """Numbers that several attacks have not for one reason.

    Attributes:
        labels: of the metrics.
        attacks: whose, all of them without every one of these metrics.
        reason: why.
    """

    labels: tuple[str, ...]
    attacks: tuple[str, ...]
    reason: str


def grouped(gaps: Iterable[Gap]) -> list[Gaps]:
    """The gaps in their order, those of one reason and the same attacks as one."""
    whose: dict[tuple[str, str], list[str]] = {}
    for label, attack, reason in gaps:
        whose.setdefault((label, reason or "no reason was recorded"), []).append(attack)
    labels: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (label, reason), attacks in whose.items():
        labels.setdefault((reason, tuple(attacks)), []).append(label)
    return [Gaps(tuple(of), attacks, reason) for (reason, attacks), of in labels.items()]
