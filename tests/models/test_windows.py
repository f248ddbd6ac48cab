from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from spvmia_plugin.models.scoring import rolling_windows

PREFIX = -1


def harness_windows(tokens, max_length):
    rolling = get_rolling_token_windows(tokens, prefix_token=PREFIX, max_seq_len=max_length, context_len=1)
    return [(list(context), list(scored)) for context, scored in map(make_disjoint_window, rolling)]


@given(st.integers(0, 60), st.integers(1, 25))
def test_the_same_windows_as_the_harness(n, max_length):
    tokens = list(range(n))
    sequence = [PREFIX, *tokens]
    ours = [
        (sequence[w.start : w.first], sequence[w.first : w.end]) for w in rolling_windows(1, len(sequence), max_length)
    ]
    assert ours == harness_windows(tokens, max_length)
    assert all(w.end - 1 - w.start <= max_length for w in rolling_windows(1, len(sequence), max_length))


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_number_of_windows(n, count):
    assert len(rolling_windows(1, 1 + n, 8)) == count
