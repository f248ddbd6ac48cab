"""Which words to mask. Text in, spans of words out; no model."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

SPAN_WORDS = 2
"""Words of a span, in the paper's text (Mattern et al. 2023, DetectGPT) as in the released code."""

RELEASED_PCT, RELEASED_BUFFER = 0.3, 1
RELEASED_MIN_WORDS = 14
"""The fewest words for which int(0.3 * words / (2 + 2 * 1)) is not 0."""

_LONGEST_WORD = 32
# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,{_LONGEST_WORD}}}")


@dataclass(frozen=True, slots=True)
class Span:
    """`words` words to mask, from word `first`."""

    first: int
    words: int

    @property
    def end(self) -> int:
        """The word after the span."""
        return self.first + self.words


@dataclass(frozen=True, slots=True)
class Words:
    """A text's words as (start, end) in characters, ascending."""

    text: str
    bounds: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.bounds)

    def chars(self, first: int, end: int) -> tuple[int, int]:
        """Where the words first..end-1 begin and end."""
        return self.bounds[first][0], self.bounds[end - 1][1]


def split_words(text: str) -> Words:
    """Split at white space; a Chinese or Japanese character is a word, longer words are cut into pieces of 32."""
    return Words(text, tuple(match.span() for match in _WORD.finditer(text)))


def split_released(text: str) -> Words:
    """Split at single spaces as the released code does: between two spaces stands an empty word."""
    bounds, start = [], 0
    for word in text.split(" "):
        bounds.append((start, start + len(word)))
        start += len(word) + 1
    return Words(text, tuple(bounds))


def paper_spans(total: int, rate: float, rng: np.random.Generator) -> list[Span]:
    """Mask max(1, floor(rate * total)) of `total` words, in spans of two (one of one where that number is odd).

    Every placement with a word between neighbouring spans is equally likely; where so many words are masked that there
    is none, spans may touch.
    """
    masked = max(1, int(np.floor(rate * total)))
    lengths = rng.permutation([SPAN_WORDS] * (masked // SPAN_WORDS) + [1] * (masked % SPAN_WORDS)).tolist()
    count, free = len(lengths), total - masked
    gap = 1 if free >= count - 1 else 0
    # Stars and bars: how many free words lie before each span, besides the gaps.
    before = np.sort(rng.choice(free - gap * (count - 1) + count, count, replace=False)) - np.arange(count)
    starts = before + gap * np.arange(count) + np.cumsum([0, *lengths[:-1]])
    return [Span(int(start), length) for start, length in zip(starts, lengths, strict=True)]


def released_spans(total: int, rng: np.random.Generator) -> list[Span]:
    """Mask int(0.3 * total / (2 + 2 * 1)) spans of two words, one after the other, as the released code does.

    Each masked span becomes one item of the list, and a start is drawn evenly over that list, the last possible one
    left out, until no mask lies within a word of it: so drawn evenly from the starts that are left. Nothing is
    masked below 14 words.
    """
    starts = list(range(total - SPAN_WORDS))  # those that are left, as positions of words
    firsts: list[int] = []
    reach = SPAN_WORDS + RELEASED_BUFFER - 1  # a start nearer than this would touch the mask or its buffer
    for _ in range(int(RELEASED_PCT * total / (SPAN_WORDS + 2 * RELEASED_BUFFER))):
        first = starts[int(rng.integers(len(starts)))]
        firsts.append(first)
        del starts[bisect_left(starts, first - reach) : bisect_right(starts, first + reach)]
    return [Span(first, SPAN_WORDS) for first in sorted(firsts)]
