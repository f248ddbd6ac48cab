from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.perturb.masking import Span, paper_spans, released_spans, split_released, split_words


def _masked(spans: list[Span]) -> list[int]:
    return [word for span in spans for word in range(span.first, span.end)]


@settings(max_examples=200)
@given(total=st.integers(1, 300), rate=st.floats(0.001, 1), seed=st.integers(0, 2**32))
def test_paper_masks_exactly_the_share_in_spans_of_two(total: int, rate: float, seed: int) -> None:
    spans = paper_spans(total, rate, np.random.default_rng(seed))
    words = _masked(spans)
    assert len(words) == max(1, int(rate * total))
    assert words == sorted(set(words))  # ascending, disjoint
    assert words[0] >= 0
    assert words[-1] < total
    assert sorted(span.words for span in spans)[1:] == [2] * (len(spans) - 1)  # one odd word at most
    if total - len(words) >= len(spans) - 1:
        assert all(b.first > a.end for a, b in pairwise(spans))


def test_paper_places_spans_evenly() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(tuple(span.first for span in paper_spans(9, 0.5, rng)) for _ in range(20_000))
    expected = [(a, b) for a, b in combinations(range(8), 2) if b > a + 2]  # two spans of two with a word between
    assert sorted(counts) == expected
    share = 20_000 / len(expected)
    assert all(abs(count - share) < 5 * share**0.5 for count in counts.values())


def _released_by_rejection(total: int, rng: np.random.Generator) -> list[int]:
    """What DESIGN section 4 says, word for word, on a list of words: first masked word of each span."""
    words = [f"w{i}" for i in range(total)]
    masked_words = []
    spans = int(0.3 * total / (2 + 2 * 1))
    while len(masked_words) < spans:
        start = int(rng.integers(0, len(words) - 2))
        if "MASK" in words[max(0, start - 1) : start + 2 + 1]:
            continue
        masked_words.append(int(words[start][1:]))
        words = [*words[:start], "MASK", *words[start + 2 :]]
    return sorted(masked_words)


@settings(max_examples=100)
@given(total=st.integers(0, 400), seed=st.integers(0, 2**32))
def test_released_masks_at_most_15_percent(total: int, seed: int) -> None:
    spans = released_spans(total, np.random.default_rng(seed))
    words = _masked(spans)
    assert len(spans) == len(_released_by_rejection(total, np.random.default_rng(seed)))
    assert all(span.words == 2 for span in spans)
    assert words == sorted(set(words))
    assert all(0 <= word < total for word in words)
    assert len(words) <= 0.15 * total
    assert all(b.first > a.end for a, b in pairwise(spans))  # the buffer


@pytest.mark.parametrize(("total", "spans"), [(0, 0), (13, 0), (14, 1), (26, 1), (27, 2), (128, 9)])
def test_released_number_of_spans(total: int, spans: int) -> None:
    assert len(released_spans(total, np.random.default_rng(0))) == spans


def test_released_places_spans_as_rejection_does() -> None:
    draws = 6000
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    one = Counter(span.first for _ in range(draws) for span in released_spans(28, ours))
    other = Counter(first for _ in range(draws) for first in _released_by_rejection(28, theirs))
    assert set(one) == set(other)
    assert max(one) == 25  # the last start is never drawn while nothing is masked; 26 would be the last of all
    for first in one:
        assert abs(one[first] - other[first]) < 5 * (one[first] + other[first]) ** 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t ", []),
        ("one", ["one"]),
        ("  two\nwords ", ["two", "words"]),
        ("漢字かなabc 한국어 말", ["漢", "字", "か", "な", "abc", "한국어", "말"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("x" * 70, ["x" * 32, "x" * 32, "x" * 6]),
        ("a\0b \0", ["a\0b", "\0"]),
        ("<extra_id_0> </s>", ["<extra_id_0>", "</s>"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    found = split_words(text)
    assert [text[start:end] for start, end in found.bounds] == words


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_words_are_all_that_is_no_white_space(text: str) -> None:
    found = split_words(text)
    assert "".join(text[start:end] for start, end in found.bounds) == "".join(text.split())


@settings(max_examples=100)
@given(st.text(alphabet="ab \n漢", max_size=60))
def test_released_words_are_those_between_single_spaces(text: str) -> None:
    found = split_released(text)
    assert [text[start:end] for start, end in found.bounds] == text.split(" ")
