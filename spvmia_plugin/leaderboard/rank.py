"""Ranks, with what the intervals leave open."""

from __future__ import annotations

from collections.abc import Sequence

from spvmia_plugin.leaderboard.estimate import Estimate

Loss = tuple[float, float, float]
"""Value, lower and upper end of how much a model gives away; more is worse."""


def loss(number: Estimate, metric: str) -> Loss:
    """A number on a scale on which more is worse: an AUROC below 0.5 is as far from chance as one above."""
    value, low, high = number.value, number.low, number.high
    if metric != "auroc":
        return value, low, high
    ends = abs(low - 0.5), abs(high - 0.5)
    return abs(value - 0.5), 0.0 if low <= 0.5 <= high else min(ends), max(ends)


def ranks(losses: Sequence[Loss]) -> list[int]:
    """1 for the smallest loss; equal ones share a rank."""
    return [1 + sum(other[0] < ours[0] for other in losses) for ours in losses]


def rank_ranges(losses: Sequence[Loss]) -> list[tuple[int, int]]:
    """Best and worst rank of each: only a model whose whole interval lies beyond ours is sure to be ahead or behind."""
    return [
        (1 + sum(high < ours[1] for _, _, high in losses), len(losses) - sum(low > ours[2] for _, low, _ in losses))
        for ours in losses
    ]
