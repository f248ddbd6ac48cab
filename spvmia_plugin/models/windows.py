"""Rolling windows for texts longer than the context: each token scored once, in the harness's own disjoint windows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """One pass over part of a sequence: the model reads `start` to `end - 1`; tokens `first` to `end` are scored."""

    start: int
    first: int
    end: int


def rolling_windows(first: int, total: int, max_length: int) -> list[Window]:
    """Cut a sequence into windows of at most `max_length` input tokens.

    The first window reads from the start; every later one has one token before those it scores; the last one is
    filled up with as much context as fits, because the model reads that many tokens anyway.

    Args:
        first: the first token to score; what is before it (at least one token) is conditioned on.
        total: tokens of the sequence, context and text.
        max_length: the model's context.
    """
    windows: list[Window] = []
    while first < total:
        end = min(first + max_length, total) if windows else min(max_length + 1, total)
        windows.append(Window(max(0, end - 1 - max_length), first, end))
        first = end
    return windows
