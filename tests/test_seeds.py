from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spvmia_plugin.seeds import stable_seed


def test_is_the_same_on_every_machine() -> None:
    assert stable_seed(0, "tickets.jsonl:1", 0) == 5937550878792835272


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "ab", "c"), (0, "a", "bc")),
        ((1,), ("1",)),
        ((1, 2), (2, 1)),
        ((), ("",)),
        (("",), ("", "")),
        (("a",), ("a", 0)),
        (("s1:a",), ("a",)),
    ],
)
def test_differs_where_the_parts_differ(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert stable_seed(*one) != stable_seed(*other)


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_is_63_bits_and_seeds_generators(parts: list[str | int]) -> None:
    seed = stable_seed(*parts)
    assert 0 <= seed < 2**63
    np.random.default_rng(seed)


def test_spreads_over_all_bits() -> None:
    seeds = [stable_seed(0, i) for i in range(2000)]
    bits = np.array([[seed >> k & 1 for k in range(63)] for seed in seeds])
    assert len(set(seeds)) == 2000
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 0.06)  # 5 standard errors
