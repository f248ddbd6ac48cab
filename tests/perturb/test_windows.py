from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.perturb.masking import Cutter, Span, paper_spans, split_words

MASK, END = -1, -2


def _encode(pieces: Sequence[str]) -> list[int]:
    """A character is a token, a mask is one, and so is the end."""
    tokens = [ord(char) for char in pieces[0]]
    for piece in pieces[1:]:
        tokens += [MASK, *(ord(char) for char in piece)]
    return [*tokens, END]


def _naive(text: str, spans: list[Span]) -> list[int]:
    """The whole text, its masks put in by hand."""
    words = split_words(text)
    tokens, last = [], words.bounds[0][0]
    for span in spans:
        tokens += [ord(char) for char in text[last : words.bounds[span.first][0]]] + [MASK]
        last = words.bounds[span.end - 1][1]
    return tokens + [ord(char) for char in text[last : words.bounds[-1][1]]]


@settings(max_examples=150)
@given(
    words=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=60),
    rate=st.floats(0.05, 1),
    tokens=st.integers(8, 80),
    masks=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_windows_fit_and_hold_every_span_once(
    words: list[str], rate: float, tokens: int, masks: int, seed: int
) -> None:
    text = " ".join(words)
    spans = paper_spans(len(words), rate, np.random.default_rng(seed))
    windows = Cutter(_encode, tokens, masks).cut(split_words(text), spans)
    assert [i for window in windows for i in window.spans] == list(range(len(spans)))
    assert all(len(window.token_ids) <= tokens and 1 <= len(window.spans) <= masks for window in windows)
    assert all(window.token_ids.count(MASK) == len(window.spans) for window in windows)
    whole = "".join(map(chr, (token + 10 for token in _naive(text, spans))))
    for window in windows:  # every window is a stretch of the masked text
        assert "".join(map(chr, (token + 10 for token in window.token_ids[:-1]))) in whole


def test_a_text_that_fits_is_read_whole() -> None:
    text = " one two three four "
    spans = [Span(1, 2)]
    windows = Cutter(_encode, 100, 9).cut(split_words(text), spans)
    assert [window.token_ids for window in windows] == [[*_naive(text, spans), END]]


def test_a_word_longer_than_the_context_loses_its_end() -> None:
    text = "a" * 30 + " b"
    (window,) = Cutter(_encode, 8, 9).cut(split_words(text), [Span(1, 1)])
    assert len(window.token_ids) <= 8
    (window,) = Cutter(lambda pieces: [7] * 20, 8, 9).cut(split_words(text), [Span(0, 2)])
    assert window.token_ids == [7] * 8
