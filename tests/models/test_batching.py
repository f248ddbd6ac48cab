from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.batching import Batch, BatchRunner, plan_batches, plan_passes

LENGTHS = st.lists(st.integers(0, 50), max_size=40)


@given(LENGTHS, st.integers(1, 200), st.integers(1, 10))
def test_every_position_once_longest_first_within_budget(lengths, budget, max_rows):
    batches = plan_batches(lengths, budget, max_rows)
    flat = [i for batch in batches for i in batch.rows]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch.width == max(1, *(lengths[i] for i in batch.rows), 0)
        assert len(batch.rows) <= max_rows
        assert len(batch.rows) == 1 or len(batch.rows) * batch.width <= budget


@given(LENGTHS, st.integers(1, 200), st.integers(0, 60))
def test_a_batch_ends_before_its_padding_is_too_much(lengths, budget, most):
    batches = plan_batches(lengths, budget, most_padding=most)
    assert [lengths[i] for batch in batches for i in batch.rows] == sorted(lengths, reverse=True)
    for batch, after in itertools.pairwise([*batches, None]):
        padding = sum(batch.width - lengths[i] for i in batch.rows)
        assert len(batch.rows) == 1 or padding <= most
        if after is not None:  # and not earlier
            one_more = padding + batch.width - lengths[after.rows[0]]
            assert one_more > most or (len(batch.rows) + 1) * batch.width > budget


def test_few_short_texts_do_not_wait_for_a_long_one():
    assert [list(batch.rows) for batch in plan_passes([512, 8, 512, 500, 9], 2048)] == [[0, 2, 3], [4, 1]]


def out_of_memory():
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def test_halves_when_memory_runs_out_and_remembers():
    seen, attempts, runner = [], [], BatchRunner()

    def work(batch: Batch) -> None:
        attempts.append(len(batch.rows))
        if len(batch.rows) * batch.width > 100:
            out_of_memory()
        seen.extend(batch.rows)

    batches = [Batch(range(8), 40), Batch(range(8, 20), 20)]
    runner.run(batches, work)
    assert seen == list(range(20))
    assert attempts == [8, 4, 2, 2, 2, 2, 4, 4, 4]
    attempts.clear()
    runner.run([Batch(range(8), 40)], work)
    assert attempts == [2, 2, 2, 2]


def test_work_done_before_memory_ran_out_is_kept():
    seen, runner, full = [], BatchRunner(), [True]

    def work(batch: Batch) -> None:
        if batch.width == 5 and full.pop() if full else False:
            out_of_memory()
        seen.extend(batch.rows)

    runner.run([Batch([0, 1], 9), Batch([2, 3], 5)], work)
    assert seen == [0, 1, 2, 3]


def test_one_row_too_many_is_a_clear_error():
    with pytest.raises(SpvmiaError, match="one sequence of 7 tokens"):
        BatchRunner().run([Batch([0, 1], 7)], lambda batch: out_of_memory())


def test_other_errors_pass():
    def work(batch: Batch) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        BatchRunner().run([Batch([0], 7)], work)


def test_nothing_to_do():
    BatchRunner().run(plan_batches([], 10), lambda batch: out_of_memory())
