"""Boards of models whose truth is known: how often one is called surely ahead of another.

python -m tests.leaderboard.simulation       # the table of docs/statistics.md
"""

from __future__ import annotations

import numpy as np

from spvmia_plugin.leaderboard.board import loss, rank_ranges
from spvmia_plugin.leaderboard.order import Bounds
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.results.estimate import Estimate

MODELS = 20
SHIFT = 0.74
"""AUROC .70 of binormal scores."""


def board(rng: np.random.Generator, shifts: np.ndarray, n: int, shared: float) -> list[Bounds]:
    """What models give away, audited on the same n members and n others.

    Args:
        rng: where the scores come from.
        shifts: (K,) by how much each model's members score higher.
        n: records a class.
        shared: correlation of the scores that two models give to one record.
    """
    labels, codes = np.arange(2 * n) < n, np.arange(2 * n)
    common = rng.standard_normal(2 * n)
    found = []
    for shift in shifts:
        noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(2 * n)
        estimate = estimate_auroc(noise + shift * labels, labels, codes)
        interval = estimate.interval(0.95)
        found.append(loss(Estimate(estimate.auroc, *interval, confidence=0.95), "auroc"))
    return found


def one_by_one(losses: list[Bounds]) -> bool:
    """The rule before: whether any two models' own intervals lie apart."""
    return max(each.low for each in losses) > min(each.high for each in losses)


def calls(losses: list[Bounds]) -> bool:
    """Whether the board calls any order sure."""
    return any(reach != (1, len(losses)) for reach in rank_ranges(losses))


def false_calls(boards: int, n: int, shared: float, *, models: int = MODELS, shift: float = SHIFT) -> tuple[int, int]:
    """Of boards of equal models, how many call an order sure: now, and by intervals taken one by one."""
    rng = np.random.default_rng(7)
    found = [board(rng, np.full(models, shift), n, shared) for _ in range(boards)]
    return sum(map(calls, found)), sum(map(one_by_one, found))


def found_last(boards: int, n: int, more: float, shared: float) -> tuple[float, float]:
    """One model of 20 gives more away: on how many boards it is surely behind all others, and behind any."""
    rng = np.random.default_rng(8)
    shifts = np.full(MODELS, SHIFT)
    shifts[0] += more
    best = [rank_ranges(board(rng, shifts, n, shared))[0][0] for _ in range(boards)]
    return float(np.mean([rank == MODELS for rank in best])), float(np.mean([rank > 1 for rank in best]))


def main() -> None:
    """Print the tables."""
    for n in (100, 500):
        for shared in (0.0, 0.5):
            for models in (2, 5, 20):
                now, before = false_calls(1000, n, shared, models=models)
                print(f"| {n} | {shared} | {models} | {now / 10:.1f} % | {before / 10:.1f} % |", flush=True)
    for n in (100, 500, 2000):
        for auroc, more in ((0.75, 0.214), (0.80, 0.448), (0.90, 1.071)):
            last, behind = found_last(200, n, more, 0.0)
            print(f"| {n} | {auroc} | {behind:.0%} | {last:.0%} |", flush=True)


if __name__ == "__main__":
    main()
