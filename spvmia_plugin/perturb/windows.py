"""A masked text in pieces that fit a mask model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spvmia_plugin.perturb.masking import Span, Words


@dataclass(frozen=True, slots=True)
class Window:
    """What the mask model reads at once.

    Attributes:
        token_ids: the window's tokens, its spans replaced by the sentinels 0, 1, ...
        spans: numbers of these spans in the text.
    """

    token_ids: list[int]
    spans: range


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts masked texts.

    Attributes:
        encode: from pieces of text, between each two of which stands the next sentinel, to tokens.
        tokens: the most tokens of a window.
        masks: the most spans of a window.
    """

    encode: Callable[[Sequence[str]], list[int]]
    tokens: int
    masks: int

    def cut(self, words: Words, spans: Sequence[Span]) -> list[Window]:
        """The windows of a text, halved until they fit, without those that hold no span.

        No span is cut in two. A single word or span that is still too long loses its end.
        """
        return self._cut(words, spans, 0, len(words), range(len(spans)))

    def _cut(self, words: Words, spans: Sequence[Span], first: int, end: int, inside: range) -> list[Window]:
        if not inside:
            return []
        token_ids = self.encode(_pieces(words, [spans[i] for i in inside], first, end))
        if len(token_ids) <= self.tokens and len(inside) <= self.masks:
            return [Window(token_ids, inside)]
        middle = _middle(spans, first, end, inside)
        if middle is None:
            return [Window(token_ids[: self.tokens], inside)]
        left = sum(spans[i].first < middle for i in inside)
        return [
            *self._cut(words, spans, first, middle, inside[:left]),
            *self._cut(words, spans, middle, end, inside[left:]),
        ]


def _pieces(words: Words, spans: Sequence[Span], first: int, end: int) -> list[str]:
    """The text of words first..end-1 around its spans."""
    start, stop = words.chars(first, end)
    edges = [start, *(edge for span in spans for edge in words.chars(span.first, span.end)), stop]
    return [words.text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _middle(spans: Sequence[Span], first: int, end: int, inside: range) -> int | None:
    """The word to cut before, next to the middle and in no span; None if there is none."""
    middle = (first + end) // 2
    hit = next((spans[i] for i in inside if spans[i].first < middle < spans[i].end), None)
    candidates = (middle,) if hit is None else (hit.first, hit.end)
    return next((word for word in candidates if first < word < end), None)
