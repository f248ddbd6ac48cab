"""Ratios of times, which other work on the machine makes uncertain."""

from __future__ import annotations

from collections.abc import Callable

TRIES = 3


def grows_by_less(seconds: Callable[[int], float], short: int, long: int, times: float, least: float = 0.0) -> bool:
    """Whether the long one takes less than so many times what the short one takes, in one of three tries.

    Code that is slower than that fails in all; a machine that stands still for a moment fails in one.

    Args:
        seconds: what a length takes, in seconds of this process.
        short: length.
        long: likewise.
        times: limit of the ratio.
        least: what the short one counts as at least, in seconds: a clock has steps.
    """
    return any(seconds(long) < times * max(seconds(short), least) for _ in range(TRIES))
