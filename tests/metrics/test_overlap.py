from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.checks.overlap import SPAN_WORDS, normalised, spans_of


def naive_spans(text):
    words = text.lower().split()
    if len(words) < SPAN_WORDS:
        return [tuple(words)] if words else []
    return [tuple(words[i : i + SPAN_WORDS]) for i in range(len(words) - SPAN_WORDS + 1)]


texts = st.lists(st.lists(st.sampled_from(["a", "B", "c"]), max_size=14).map(" ".join), max_size=6)


@given(texts, texts)
@settings(max_examples=80, deadline=None)
def test_shares_equal_counting_spans(ours, theirs):
    left, right = spans_of([ours, theirs])
    shares, overall = left.shares_in(right)
    known = {span for text in theirs for span in naive_spans(text)}
    hits = [[span in known for span in naive_spans(text)] for text in ours]
    assert len(shares) == len(ours)
    for share, found in zip(shares, hits, strict=True):
        assert (math.isnan(share) and not found) or share == pytest.approx(np.mean(found))
    together = [hit for found in hits for hit in found]
    assert overall == pytest.approx(np.mean(together)) if together else math.isnan(overall)


def test_case_and_punctuation_do_not_count_but_order_does():
    words = "one two three four five six seven eight nine"
    left, right = spans_of([[words.upper().replace(" ", ", "), " ".join(reversed(words.split()))], [words]])
    np.testing.assert_array_equal(left.shares_in(right)[0], [1, 0])


def test_scripts_without_spaces_count_each_character():
    left, right = spans_of([["日本国民は、正当に選挙された国会における代表者"], ["日本国民は正当に選挙された他の人"]])
    assert 0 < left.shares_in(right)[0][0] < 1


def test_hostile_texts_have_spans_or_none():
    (spans,) = spans_of([["", "\x00\x00", "=cmd()", "<script>", "\u202e\u202d", "x" * 10**6, "\ud800"]])
    assert spans.n == 7
    shares, _ = spans.shares_in(spans)
    np.testing.assert_array_equal(np.isnan(shares), [True, True, False, False, True, False, True])


def test_closest_is_the_text_with_most_spans_in_common():
    words = [f"w{i}" for i in range(40)]
    others = [" ".join(words[:12]), " ".join(words[:30]), "nothing of this"]
    left, right = spans_of([["something else", " ".join(words)], others])
    assert left.closest(1, right) == 1


def test_normalised_joins_white_space():
    assert normalised(" a\n\tb  c ") == "a b c"
