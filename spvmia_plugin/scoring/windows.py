"""Rolling windows for texts longer than the context: each token scored once, in the harness's own disjoint windows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `end` are scored, conditioned on those from `context_start` (and the prefix token at -1)."""

    context_start: int
    start: int
    end: int

    @property
    def has_prefix(self) -> bool:
        """Whether the window opens with the prefix token."""
        return self.context_start < 0


def rolling_windows(n_tokens: int, max_length: int) -> list[Window]:
    """Cut `n_tokens` into windows of at most `max_length` input tokens.

    The first window is conditioned on the prefix token; every later one on one token before it; the last one is
    filled up with as much context as fits, because the model reads that many tokens anyway.

    Args:
        n_tokens: tokens of the text, without the prefix token.
        max_length: the model's context.
    """
    if n_tokens == 0:
        return []
    first = min(n_tokens, max_length)
    windows = [Window(-1, 0, first)]
    while windows[-1].end < n_tokens:
        start = windows[-1].end
        end = min(start + max_length, n_tokens)
        windows.append(Window(end - max_length - 1, start, end))
    return windows
