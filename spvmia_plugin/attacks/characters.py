"""What a text looks like before it is read: where its words are, and which classes of characters follow each other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Texts = Sequence[str]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PHONETIC = (
    "\u0e01-\u0e2e\u0e30-\u0e3a\u0e40-\u0e4e\u0e80-\u0eff"  # Thai, Lao
    "\u1000-\u103f\u1780-\u17d3"  # Burmese, Khmer
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana
)
_SPACELESS = _HAN + _PHONETIC
"""Letters of scripts that put no spaces between words. Korean has them."""
HAN_A_WORD, PHONETIC_A_WORD = 2, 3
"""Characters that carry about as much as a word: Chinese has 1.5 to 2 to a word, Japanese 2 to 3, Thai 3 to 4 with a
vowel sign counted with its letter."""

_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_IS_HAN, _IS_PHONETIC = re.compile(f"[{_HAN}]"), re.compile(f"[{_PHONETIC}]")


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and the marks on them; a character where a script has no spaces."""
    return (_ASCII_WORD if text.isascii() else _word()).findall(text)


def units_of(word: str) -> int:
    """How many words of `words_of` like this one carry as much as a word: 1 unless it is a character."""
    if word.isascii():
        return 1
    return HAN_A_WORD if _IS_HAN.match(word) else PHONETIC_A_WORD if _IS_PHONETIC.match(word) else 1


@cache
def _word() -> re.Pattern[str]:
    """Marks (vowel signs of Indic scripts, points of Hebrew) are no letters for `re`, and would cut words to pieces."""
    marks = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(f"[{_SPACELESS}][{marks}]*|[^\\W{_SPACELESS}]+(?:[{marks}]+[^\\W{_SPACELESS}]*)*")


START, END, UPPER, LOWER, LETTER, DIGIT = range(6)
_MARKS = "\n\t\r !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”‘’–—…•"
SPACE, PUNCTUATION, SYMBOL, CONTROL = range(6 + len(_MARKS), 10 + len(_MARKS))
CLASSES = CONTROL + 1
"""How many classes of characters there are: case, digits, each mark and white space of ASCII, and the rest by kind."""
NAMES = (
    "start of the text",
    "end of the text",
    "upper-case letters",
    "lower-case letters",
    "letters without case",
    "digits",
    "line break",
    "tab",
    "carriage return",
    "space",
    *(f"'{mark}'" for mark in _MARKS[4:]),
    "other white space",
    "other punctuation",
    "symbol",
    "control character",
)
"""What each class is called. None of them tells which letter or digit it was."""

LETTERS = (UPPER, LOWER, LETTER, DIGIT)
"""Classes of which a run counts as one character."""
_ONCE = np.isin(np.arange(CLASSES), LETTERS)
_KINDS = {
    "Lu": UPPER,
    "Lt": UPPER,
    "Ll": LOWER,
    "L": LETTER,
    "M": LETTER,
    "N": DIGIT,
    "Z": SPACE,
    "P": PUNCTUATION,
    "S": SYMBOL,
    "C": CONTROL,
}
_CANDIDATES = 1024
"""n-grams, the most frequent ones, among which those are looked for that some texts have and others lack."""
_AT_A_TIME = 2048
"""Texts whose characters are looked at together."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassCounts:
    """How often n texts have the F most telling n-grams of classes of characters.

    Runs of letters of one case, and of digits, count as one character, other runs as at most two; a text has a class
    before its first and after its last character. So "User:" is upper-case, lower-case, ':' whatever the word.

    Attributes:
        ngrams: the n-grams, two or three classes each.
        counts: (n, F), at most 255.
    """

    ngrams: Sequence[tuple[int, ...]]
    counts: NDArray[np.uint8]

    def names(self) -> list[str]:
        """Each n-gram in words."""
        return [_name(ngram) for ngram in self.ngrams]


def _name(ngram: tuple[int, ...]) -> str:
    parts = ", ".join(NAMES[part] for part in ngram if part not in (START, END))
    if ngram[0] == START:
        return f"starts with {parts}" + (" and ends there" if ngram[-1] == END else "")
    return f"{'ends with' if ngram[-1] == END else 'has'} {parts}"


@cache
def _table() -> NDArray[np.uint8]:
    """The class of each code point of the basic plane."""
    table = np.empty(0x10000, dtype=np.uint8)
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        table[code] = _KINDS.get(category, _KINDS[category[0]])
    for number, mark in enumerate(_MARKS):
        table[ord(mark)] = 6 + number
    return table


def classes_in(texts: Texts) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The class of every character, one text after the other; and how many each text has."""
    codes = np.frombuffer(bytearray("".join(texts).encode("utf-32-le", "surrogatepass")), dtype="<u4")
    found = _table()[np.minimum(codes, 0xFFFF)]
    found[codes > 0xFFFF] = LETTER
    found[(codes >= 0x1F000) & (codes < 0x20000)] = SYMBOL
    return found, np.array([len(text) for text in texts], dtype=np.int64)


def _shapes(texts: Texts) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Classes of the characters of each text, runs shortened, between START and END; and how many each text has."""
    found, lengths = classes_in(texts)
    place = np.arange(len(found)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    again = np.append(False, found[1:] == found[:-1])[: len(found)] & (place > 0)
    third = again & np.append(False, again[:-1])[: len(found)]
    kept = ~np.where(_ONCE[found], again, third)
    row = np.repeat(np.arange(len(texts)), lengths)[kept]
    sizes = np.bincount(row, minlength=len(texts)) + 2
    ends = np.cumsum(sizes)
    framed = np.empty(int(sizes.sum()), dtype=np.uint8)
    framed[np.arange(len(row)) + 2 * row + 1] = found[kept]
    framed[ends - 1], framed[ends - sizes] = END, START
    return framed, sizes


def count_classes(texts: Texts, most: int) -> ClassCounts:
    """Count n-grams of classes of characters: those `most` that come nearest to standing in half of the texts.

    What all texts have, or none, tells no classes apart. Labels play no part.

    Args:
        texts: n of them.
        most: how many n-grams at most.
    """
    blocks = [_shapes(texts[start : start + _AT_A_TIME]) for start in range(0, len(texts), _AT_A_TIME)]
    totals = np.zeros(CLASSES**2 + CLASSES**3, dtype=np.int64)
    for numbers, _ in _ngrams(blocks):
        totals += np.bincount(numbers, minlength=len(totals))
    candidates = np.sort(np.argsort(-totals, kind="stable")[: min(_CANDIDATES, int(np.count_nonzero(totals)))])
    having = np.zeros(len(candidates), dtype=np.int64)
    for counted in _counted(blocks, candidates):
        having += np.count_nonzero(counted, axis=0)
    share = having / max(len(texts), 1)
    telling = np.flatnonzero((having > 1) & (having < len(texts)))
    chosen = np.sort(telling[np.argsort(-(share * (1 - share))[telling], kind="stable")[:most]])
    counts = np.zeros((len(texts), len(chosen)), dtype=np.uint8)
    for number, counted in enumerate(_counted(blocks, candidates[chosen])):
        counts[number * _AT_A_TIME :][: len(counted)] = np.minimum(counted, 255)
    return ClassCounts([_parts(int(number)) for number in candidates[chosen]], counts)


def _ngrams(blocks: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """For each block the numbers of its n-grams, and the text of each, 0 at the block's first."""
    for classes, sizes in blocks:
        row = np.repeat(np.arange(len(sizes)), sizes)
        wide = classes.astype(np.int64)
        pair = wide[:-1] * CLASSES + wide[1:]
        inside = row[:-1] == row[1:]
        triple = CLASSES**2 + pair[:-1] * CLASSES + wide[2:]
        whole = row[:-2] == row[2:]
        yield (
            np.concatenate([pair[inside], triple[whole]]),
            np.concatenate([row[:-1][inside], row[:-2][whole]]),
        )


def _counted(
    blocks: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]], numbers: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """For each block how often each of its texts has each of these n-grams, (m, F)."""
    column = np.full(CLASSES**2 + CLASSES**3, -1, dtype=np.int64)
    column[numbers] = np.arange(len(numbers))
    for (found, row), (_, sizes) in zip(_ngrams(blocks), blocks, strict=True):
        where = column[found]
        known = where >= 0
        cells = row[known] * len(numbers) + where[known]
        yield np.bincount(cells, minlength=len(sizes) * len(numbers)).reshape(len(sizes), len(numbers))


def _parts(number: int) -> tuple[int, ...]:
    """The classes of the n-gram with this number."""
    if number < CLASSES**2:
        return divmod(number, CLASSES)
    pair, last = divmod(number - CLASSES**2, CLASSES)
    return (*divmod(pair, CLASSES), last)
