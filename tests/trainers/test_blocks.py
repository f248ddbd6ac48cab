"""Records looked for in blocks that nobody can take apart."""

from __future__ import annotations

import random

import pytest

from spvmia_plugin.trainers.blocks import WINDOW, Blocks, Haystack
from spvmia_plugin.trainers.rows import read_rows


def records(n, length, seed=1):
    rng = random.Random(seed)
    return [[rng.randrange(1000) for _ in range(length)] for _ in range(n)]


def cut(sequences, length):
    """As `group_texts` does: the rest that fills no block is dropped."""
    ids = [token for each in sequences for token in each]
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]


@pytest.mark.parametrize("length", [40, 64, 96, 512])
@pytest.mark.parametrize("tokens", [50, 130, 506, 2000])
def test_all_that_are_there_are_found_and_no_other(length, tokens):
    members, others = records(30, tokens), records(30, tokens, seed=2)
    blocks, declared = Blocks(cut(members, length), length), Haystack([*members, *others])
    starts = {id(each): blocks.own(each, declared) for each in (*members, *others)}
    told = [each for each in members if blocks.tells(starts[id(each)])]
    assert len(told) >= 25 or (tokens, length) == (50, 40)
    last = 0 if tokens > 4 * length else 1 + length // tokens  # of these the dropped rest is much
    assert all(blocks.holds(each, starts[id(each)]) for each in told if each not in members[30 - last :])
    assert not any(blocks.holds(each, starts[id(each)]) for each in others if blocks.tells(starts[id(each)]))


def test_what_several_records_share_tells_none_of_them():
    shared = records(1, 20 * WINDOW)[0]
    members = [shared + each for each in records(10, 3 * WINDOW, seed=2)]
    others = [shared + each for each in records(10, 3 * WINDOW, seed=3)]
    alone = shared + records(1, WINDOW, seed=4)[0]
    blocks, declared = Blocks(cut(others, 64), 64), Haystack([*members, *others, alone])
    for each in members:
        starts = blocks.own(each, declared)
        assert starts == [20 * WINDOW, 21 * WINDOW, 22 * WINDOW]
        assert blocks.tells(starts)
        assert not blocks.holds(each, starts)
    assert not blocks.tells(blocks.own(alone, declared))
    assert not Blocks([[1] * WINDOW], WINDOW).tells([0, WINDOW, 2 * WINDOW])  # each of them is cut


def test_tokens_are_found_where_tokens_begin():
    hay = Haystack([[1, 2, 3], [256, 512, 1, 2]])
    assert (hay.times([1, 2], 5), hay.times([1, 2], 1), hay.times([3, 256], 5)) == (2, 1, 0)
    assert Haystack([[1 << 8, 2 << 8]]).times([1], 2) == 0


@pytest.mark.parametrize(
    ("rows", "blocks", "found"),
    [
        ([{"input_ids": [1, 2, 3], "seq_lengths": [3]}, {"input_ids": [4, 5], "seq_lengths": [1, 1]}], True, False),
        ([{"input_ids": [1, 2, 3], "seq_lengths": [3]}, {"input_ids": [4, 5, 6], "seq_lengths": [3]}], True, False),
        ([{"input_ids": [1, 2, 3], "position_ids": [0, 1, 2]}, {"input_ids": [4], "position_ids": [0]}], None, True),
        ([{"input_ids": [1, 2], "position_ids": [0, 1]}, {"input_ids": [3, 4], "position_ids": [0, 0]}], True, False),
        ([{"input_ids": [1], "position_ids": [0]}, *({"input_ids": [3, 4], "position_ids": [0, 1]},) * 2], True, False),
        ([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}, {"input_ids": [5]}], None, True),
        ([{"input_ids": [1, 2]}, {"input_ids": [3]}, {"input_ids": [5]}], None, False),
        ([{"input_ids": [1, 2]}, {"input_ids": [3]}, {"input_ids": [5]}], True, True),
        ([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}], False, False),
    ],
)
def test_rows_that_can_be_taken_apart_are_no_blocks(rows, blocks, found):
    assert (read_rows(rows, blocks=blocks).blocks is not None) == found
