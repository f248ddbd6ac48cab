from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spvmia_plugin.protocols import EmbeddingNoise, Neighbours, TextEdits, TokenEdits
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store.entries import decode_neighbours, decode_signals, encode_neighbours, encode_signals
from spvmia_plugin.store.store import Store
from tests.store.samples import bits, paraphrases, signals, some_signals
from tests.timing import grows_by_less


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("n_tokens", [0, 1, 7, 8, 9, 128])
def test_signals_come_back_bit_by_bit(dtype: str, n_tokens: int) -> None:
    draw = np.random.default_rng(n_tokens)
    arrays = [draw.standard_normal(n_tokens).astype(dtype) for _ in range(4)]
    if n_tokens:
        arrays[0][0], arrays[1][0], arrays[2][0] = -np.inf, np.nan, -0.0
    for mean, std in [(arrays[1], arrays[2]), (None, None), (arrays[1], None), (None, arrays[2])]:
        for kth in (None, arrays[3]):
            value = TokenSignals(arrays[0], draw.random(n_tokens) < 0.5, mean, std, windows=3, kth=kth)
            back = decode_signals(encode_signals(value))
            assert bits(back) == bits(value)
        assert not back.logprob.flags.writeable  # as if it had just been computed: all attacks see one array


def test_signals_without_a_kth_have_the_bytes_of_earlier_versions() -> None:
    value = TokenSignals(np.float32([-1.5, -2]), np.array([True, False]), windows=2)
    old = bytes([4, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]) + np.array([-1.5, -2], "<f4").tobytes() + bytes([128])
    assert encode_signals(value) == old


def test_signals_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="16 tokens"):
        encode_signals(dataclasses.replace(signals(0), mean=np.zeros(3, np.float32)))


@given(st.binary(max_size=200))
def test_bytes_of_another_layout_are_no_signals(data: bytes) -> None:
    try:
        value = decode_signals(data)
    except ValueError:
        return
    assert len(encode_signals(value)) == len(data)  # whatever is read uses every byte


@given(st.data())
def test_cut_signals_are_no_signals(data: st.DataObject) -> None:
    encoded = encode_signals(signals(1, 9))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ValueError, match="not token signals"):
        decode_signals(encoded[:cut])


_variants = st.one_of(
    st.builds(EmbeddingNoise, st.integers(0, 2**64), st.sampled_from([-1, 1]), st.floats(0, 10)),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 200_000))).map(
        lambda pairs: TokenEdits(tuple(p for p, _ in pairs), tuple(t for _, t in pairs))
    ),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.text())).map(lambda spans: TextEdits(tuple(spans))),
)


@given(st.lists(_variants), st.floats(0, 1), st.none() | st.text())
def test_paraphrases_come_back_equal(variants: list, rate: float, reason: str | None) -> None:
    value = Neighbours(tuple(variants), rate, reason)
    assert decode_neighbours(encode_neighbours(value)) == value


def test_paraphrases_of_numpy_numbers_without_rate() -> None:
    value = Neighbours((TokenEdits(tuple(np.arange(2)), tuple(np.arange(2))),))
    back = decode_neighbours(encode_neighbours(value))
    assert back.variants == (TokenEdits((0, 1), (0, 1)),)
    assert math.isnan(back.mask_rate)


def test_get_gives_what_put_took_and_nothing_else(store: Store) -> None:
    values = some_signals(store, 1200)  # several batches of keys
    assert store.signals.get(values) == {}
    store.signals.put(values)
    absent = store.key("signals", i="never put")
    found = store.signals.get([*values, absent])
    assert {key: bits(value) for key, value in found.items()} == {key: bits(value) for key, value in values.items()}
    assert store.corrupt_count == 0


def test_kinds_do_not_mix_and_outlive_the_process(store: Store) -> None:
    names = [store.key("x", i=i) for i in range(3)]
    store.signals.put({names[0]: signals(0)})
    store.neighbours.put({names[1]: paraphrases(1)})
    store.json.put({names[2]: {"seconds": 1.5, "losses": [None, 2]}})
    store.close()
    again = Store(store.root)
    assert bits(again.signals.get(names[:1])[names[0]]) == bits(signals(0))
    assert again.neighbours.get(names[1:2]) == {names[1]: paraphrases(1)}
    assert again.json.get(names[2:]) == {names[2]: {"seconds": 1.5, "losses": [None, 2]}}
    assert again.corrupt_count == 0
    assert again.json.get(names[:1]) == {}  # signals are no JSON value
    again.close()


def test_the_last_put_wins(store: Store) -> None:
    key = store.key("json", a=1)
    store.json.put({key: "old"})
    store.json.put({key: "new"})
    assert store.json.get([key]) == {key: "new"}


def test_keys_depend_on_every_part_and_not_on_their_order(store: Store) -> None:
    assert store.key("k", a=1, b={"x": [1, 2], "y": None}) == store.key("k", b={"y": None, "x": (1, 2)}, a=1)
    distinct = {
        store.key("k", a=1),
        store.key("l", a=1),
        store.key("k", a=2),
        store.key("k", a="1"),
        store.key("k", b=1),
        store.key("k", a=1, b=None),
        store.key("k", a=[1]),
        store.text_hash("a"),
        store.text_hash("b"),
        store.text_hash("\ud800"),
    }
    assert len(distinct) == 10
    assert all(len(name) == 64 and set(name) <= set("0123456789abcdef") for name in distinct)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.corpus("../elsewhere")


def test_names_are_keyed(store: Store, tmp_path) -> None:
    other = Store(tmp_path / "other")
    assert store.text_hash("private") != other.text_hash("private")
    assert store.key("k", a=1) != other.key("k", a=1)
    assert Store(store.root).text_hash("private") == store.text_hash("private")


def test_an_entry_of_ten_thousand_takes_no_longer_than_one_of_a_thousand(store: Store) -> None:
    made: list[list[str]] = []

    def to_put(n: int) -> float:
        values = {store.key(f"{len(made)}", i=i): signals(i % 50, 128) for i in range(n)}
        made.append(list(values))
        start = time.process_time()  # of this process: other work on the machine does not count
        store.signals.put(values)
        return time.process_time() - start

    def to_get(n: int) -> float:
        keys = next(keys for keys in made if len(keys) == n)
        start = time.process_time()
        assert len(store.signals.get(keys)) == n
        return time.process_time() - start

    assert grows_by_less(to_put, 1_000, 10_000, times=25)
    assert grows_by_less(to_get, 1_000, 10_000, times=25)


def test_no_pickle_and_no_text_on_disk(store: Store) -> None:
    text = "the quick brown private fox jumped over my lazy secret dog"
    key = store.key("signals", text=store.text_hash(text))
    store.signals.put({key: signals(0)})
    store.json.put({store.key("json", text=store.text_hash(text)): {"count": 1}})
    store.close()
    content = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert text.encode() not in content
    assert json.dumps(text).encode()[1:20] not in content
    package = "".join(path.read_text() for path in _package_files())
    assert "import pickle" not in package
    assert "allow_pickle" not in package


def _package_files():
    from pathlib import Path

    import spvmia_plugin.store

    return Path(spvmia_plugin.store.__file__).parent.glob("*.py")


@pytest.mark.parametrize("varying", ["a", "input", "z"])
def test_a_key_of_which_one_part_varies_is_the_key(store: Store, varying: str) -> None:
    """Wherever its name stands among the others'; what an older version stored is found by it."""
    for fixed in ({}, {"b": {"y": 1, "x": [None, 2.5, 'ü"}']}, "max_length": 10}):
        name_of = store.keys("signals", varying, **fixed)
        for value in (None, [1, [2, 3]], {"q": 1, "p": "\ud800"}):
            written = json.dumps(value, sort_keys=True, separators=(",", ":"))
            assert name_of(written) == store.key("signals", **{varying: value}, **fixed)
    assert store.keys("signals", varying)("1") != store.keys("json", varying)("1")
