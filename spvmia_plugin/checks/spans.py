"""The words of a text that are its own, and the spans of them that show where it stands again.

Passages that many documents share (a form's headings, a system prompt, a licence, an idiom) say nothing of two texts
that have them: they are taken out first, by how many documents they stand in. What is left of a text, one word after
the other, is read in spans of `SPAN_WORDS`. All of it is done by hashes, in time linear in the length of the texts.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.characters import units_of, words_of
from spvmia_plugin.metrics.arrays import Bools, Codes

SPAN_WORDS = 5
"""Words in a span: with common passages taken out, two independent texts share few with each other, and copies in which
one word in 12 was changed still share two thirds."""
PASSAGE_WORDS = 3
"""Words in a passage: the shortest piece that is taken out where many documents share it."""
MOST_COPIES = 10
"""A passage of more documents than that is common: so many may be versions of one text, more are a form."""
FEW_WORDS = 16
"""A text whose greater part is common has to have so many words of its own, or nothing can be said of it."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TEXTS_AT_A_TIME = 4096
_NUMBER_BITS = np.uint64(24)
"""Low bits of a hash that are left 0, so that the number of a text or document can stand there: so many texts are more
than any memory holds, and 40 bits of hash are enough, since single spans that are equal by chance decide nothing."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The distinct spans of n texts.

    Attributes:
        hashes: (S,) of each span, ascending.
        owner: (S,) text it stands in, 0..n-1.
        n_words: (n,) words of each text.
        n_own: (n,) words that are left where common passages are taken out; 0 where too few are.
    """

    hashes: Hashes
    owner: Codes
    n_words: Codes
    n_own: Codes


def spans_of(texts: Sequence[str], documents: Codes) -> Spans:
    """Find the spans of texts. Case, punctuation and the form of Unicode do not count.

    Args:
        texts: n of them.
        documents: (n,) document of each, 0..D-1.
    """
    words = _numbered(texts)
    passages, _ = _distinct(
        (
            (hashes, documents[rows][owner])
            for rows, part in words.parts()
            for hashes, _, _, owner in [part.windows(PASSAGE_WORDS)]
        ),
        len(words.words),
    )
    # In ascending order a hash with more documents than that stands again as many places further on.
    common = np.unique(passages[MOST_COPIES:][passages[MOST_COPIES:] == passages[:-MOST_COPIES]])
    del passages
    n_own = np.zeros(len(texts), dtype=np.int64)

    def own_spans() -> Iterator[tuple[Hashes, Codes]]:
        for rows, part in words.parts():
            own = part.without(common)
            is_form = (own.lengths < FEW_WORDS) & (2 * own.lengths < part.lengths)
            own = own.only(~is_form)
            n_own[rows] = own.lengths
            hashes, _, _, owner = own.windows(SPAN_WORDS)
            yield hashes, owner + rows.start
            hashes, owner = own.whole(np.bincount(owner, minlength=len(own.lengths)) == 0)
            yield hashes, owner + rows.start

    hashes, owner = _distinct(own_spans(), len(words.words))
    return Spans(hashes, owner, words.lengths, n_own)


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """The words of some texts, one text after the other.

    Attributes:
        words: (P,) number of each word.
        lengths: (n,) words of each text.
        units: (V,) of each number, how many like it carry as much as a word: 1, or more where it is a character.
    """

    words: NDArray[np.uint32]
    lengths: Codes
    units: NDArray[np.uint8]

    def parts(self) -> Iterator[tuple[slice, _Words]]:
        """Some texts at a time, with their rows."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for start in range(0, len(self.lengths), _TEXTS_AT_A_TIME):
            rows = slice(start, min(start + _TEXTS_AT_A_TIME, len(self.lengths)))
            words = self.words[ends[rows.start] : ends[rows.stop]]
            yield rows, _Words(words, self.lengths[rows], self.units)

    def owner(self) -> Codes:
        """(P,) text of each word."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def windows(self, width: int) -> tuple[Hashes, Codes, Codes, Codes]:
        """Every piece of `width` words inside a text: its hash, first word, number of words or characters, and text."""
        mixed = _mix(self.words.astype(np.uint64))
        hashes, widths = _rolling(mixed, width), np.full(len(mixed), width)
        units = self.units[self.words]
        for number in np.unique(units[units > 1]).tolist():
            hashes = np.where(units == number, _rolling(mixed, width * number), hashes)
            widths[units == number] *= number
        starts, owner = np.arange(len(mixed)), self.owner()
        inside = np.flatnonzero(starts + widths <= np.cumsum(self.lengths)[owner])
        return hashes[inside], inside, widths[inside], owner[inside]

    def without(self, common: Hashes) -> _Words:
        """What is left where passages with these hashes are taken out."""
        hashes, starts, widths, _ = self.windows(PASSAGE_WORDS)
        found = _occurs(hashes, common)
        edges = np.zeros(len(self.words) + 1, dtype=np.int32)
        np.add.at(edges, starts[found], 1)
        np.add.at(edges, (starts + widths)[found], -1)
        kept = np.cumsum(edges)[:-1] == 0
        lengths = np.bincount(self.owner()[kept], minlength=len(self.lengths))
        return _Words(self.words[kept], lengths, self.units)

    def only(self, texts: Bools) -> _Words:
        """The words of these texts; the others have none."""
        return _Words(self.words[texts[self.owner()]], np.where(texts, self.lengths, 0), self.units)

    def whole(self, texts: Bools) -> tuple[Hashes, Codes]:
        """A hash of all words of each of these texts that has any, and the text."""
        chosen = self.only(texts)
        rows = np.flatnonzero(chosen.lengths)
        starts = (np.cumsum(chosen.lengths) - chosen.lengths)[rows]
        place = (np.arange(len(chosen.words)) - np.repeat(starts, chosen.lengths[rows])).astype(np.uint64)
        mixed = _mix(_mix(chosen.words.astype(np.uint64)) + place)
        hashes = _mix(np.add.reduceat(mixed, starts)) if len(rows) else mixed
        return hashes >> _NUMBER_BITS << _NUMBER_BITS, rows


def _numbered(texts: Iterable[str]) -> _Words:
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    words, lengths = array("I"), array("q")
    for text in texts:
        found = words_of(text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text.casefold()))
        words.extend(map(numbers.__getitem__, found))
        lengths.append(len(found))
    units = np.fromiter(map(units_of, numbers), dtype=np.uint8, count=len(numbers))
    numbered = np.frombuffer(words, dtype=np.uint32) if words else np.zeros(0, dtype=np.uint32)
    return _Words(numbered, np.array(lengths, dtype=np.int64), units)


def _rolling(mixed: Hashes, width: int) -> Hashes:
    """(P,) hash of each word and those that follow it, `width` in all; 0 where there are not so many."""
    hashes = np.zeros(len(mixed), dtype=np.uint64)
    windows = max(len(mixed) - width + 1, 0)
    for offset in range(width):
        hashes[:windows] *= _MULTIPLIER
        hashes[:windows] += mixed[offset : offset + windows]
    found: Hashes = _mix(hashes) >> _NUMBER_BITS << _NUMBER_BITS
    return found


def _mix(values: Hashes) -> Hashes:
    """Scatter 64-bit integers (finaliser of Vigna's splitmix64), so that sums of neighbours do not collide."""
    values = (values + np.uint64(1)) * _MULTIPLIER
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Hashes = values ^ (values >> np.uint64(31))
    return scattered


def _distinct(found: Iterable[tuple[Hashes, Codes]], most: int) -> tuple[Hashes, Codes]:
    """The distinct pairs of a hash and a number, of at most `most` pairs, by hash."""
    pairs, size = np.empty(most, dtype=np.uint64), 0
    for hashes, numbers in found:
        np.bitwise_or(hashes, numbers.astype(np.uint64), out=pairs[size : size + len(hashes)])
        size += len(hashes)
    pairs = pairs[:size]
    pairs.sort()
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[:size]]
    hashes = pairs >> _NUMBER_BITS << _NUMBER_BITS
    return hashes, (pairs ^ hashes).astype(np.int32)


def _occurs(hashes: Hashes, ordered: Hashes) -> Bools:
    """Which of `hashes` are among `ordered`, which is ascending."""
    if not len(ordered):
        return np.zeros(len(hashes), dtype=np.bool_)
    found: Bools = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes
    return found
