"""Which texts share long spans of words with other texts, in time linear in their length."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.metrics.arrays import Bools, Codes, Floats

SPAN_WORDS = 8
"""Words in a span; two texts hardly ever share one by chance."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORDS = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
"""A word is a run of letters and digits; scripts written without spaces count each character."""
_PADDING = 0
"""Word number that fills up texts of fewer than `SPAN_WORDS` words."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The hashed spans of n texts.

    Attributes:
        hashes: (S,) 64-bit hash of each span of `SPAN_WORDS` words, in order; a shorter text is one span.
        ordered: (S,) the same hashes, ascending.
        owner: (S,) text it comes from, 0..n-1, ascending.
        n: number of texts; those without a word own no span.
    """

    hashes: Hashes
    ordered: Hashes
    owner: Codes
    n: int

    def shares_in(self, other: Spans) -> tuple[Floats, float]:
        """Share of each text's spans that occur anywhere in `other`, (n,), NaN without a word; and of all spans."""
        occurs = _occurs(self.hashes, other.ordered)
        counts = np.bincount(self.owner, minlength=self.n)
        found = np.bincount(self.owner, weights=occurs, minlength=self.n)
        shares = np.full(self.n, np.nan)
        np.divide(found, counts, out=shares, where=counts > 0)
        return shares, float(np.mean(occurs)) if len(occurs) else math.nan

    def closest(self, text: int, other: Spans) -> int:
        """The text of `other` that shares most spans with `text`; the first of equals."""
        mine = np.sort(self.hashes[self.owner == text])
        return int(np.argmax(np.bincount(other.owner[_occurs(other.hashes, mine)], minlength=other.n)))


def _occurs(hashes: Hashes, ordered: Hashes) -> Bools:
    """Which of `hashes` are among `ordered`, which is ascending."""
    if not len(ordered):
        return np.zeros(len(hashes), dtype=np.bool_)
    found: Bools = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes
    return found


def spans_of(groups: Sequence[Sequence[str]]) -> list[Spans]:
    """Hash the spans of several groups of texts, comparable with each other. Case and punctuation do not count."""
    numbers: defaultdict[str, int] = defaultdict(count(1).__next__)
    return [_spans([_word_numbers(text, numbers) for text in texts]) for texts in groups]


def normalised(text: str) -> str:
    """The text with every run of white space as one space: what exact duplicates have in common."""
    return " ".join(text.split())


def _word_numbers(text: str, numbers: defaultdict[str, int]) -> list[int]:
    """The text's words as numbers from 1, padded to `SPAN_WORDS` if there are any."""
    words = list(map(numbers.__getitem__, _WORDS.findall(text.casefold())))
    return words + [_PADDING] * (SPAN_WORDS - len(words)) if words else words


def _spans(texts: Sequence[Sequence[int]]) -> Spans:
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    mixed = _mix(np.fromiter(chain.from_iterable(texts), dtype=np.uint64, count=int(lengths.sum())))
    windows = max(len(mixed) - SPAN_WORDS + 1, 0)
    hashes = np.zeros(windows, dtype=np.uint64)
    for offset in range(SPAN_WORDS):
        hashes = hashes * _MULTIPLIER + mixed[offset : offset + windows]
    owner = np.repeat(np.arange(len(texts)), lengths)
    inside = owner[:windows] == owner[SPAN_WORDS - 1 :] if windows else np.zeros(0, dtype=np.bool_)
    hashes = hashes[inside]
    return Spans(hashes, np.sort(hashes), owner[:windows][inside], len(texts))


def _mix(values: Hashes) -> Hashes:
    """Scatter 64-bit integers (finaliser of Vigna's splitmix64), so that sums of neighbours do not collide."""
    values = (values + np.uint64(1)) * _MULTIPLIER
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Hashes = values ^ (values >> np.uint64(31))
    return scattered
