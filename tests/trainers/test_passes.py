"""How much of its data a trainer reads, by the loaders of torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from spvmia_plugin.trainers.passes import passes_of, planned, progress

ROWS = list(range(30))


def loader(sampler=None, **options):
    return DataLoader(ROWS, **{"batch_size": 8, "sampler": sampler or RandomSampler(ROWS), **options})


@pytest.mark.parametrize(
    ("made", "epochs", "read"),
    [
        (loader(), 0.25, 8),
        (loader(), 0.75, 24),
        (loader(), 1, 30),
        (loader(), 2.5, 30),
        (loader(drop_last=True), 1, 24),
        (loader(drop_last=True), 2, 29),  # the rows that are dropped are drawn anew
        (loader(SequentialSampler(ROWS), drop_last=True), 2, 24),
        (loader(SequentialSampler(ROWS)), 0.5, 16),
        (loader(SubsetRandomSampler(range(10))), 3, 10),
        (loader(SubsetRandomSampler(range(10))), 0.5, 8),
        (loader(RandomSampler(ROWS, replacement=True)), 1, 19),
        (loader(RandomSampler(ROWS, replacement=True)), 20, 30),
    ],
)
def test_rows_that_are_read(made, epochs, read):
    assert passes_of(made, 1).read(epochs) == read


def test_of_several_processes_the_batches_of_all_count():
    from accelerate.data_loader import BatchSamplerShard

    batched = BatchSampler(RandomSampler(ROWS), 4, drop_last=True)
    shard = DataLoader(ROWS, batch_sampler=BatchSamplerShard(batched, 3, 0))
    assert passes_of(shard, 3).read(1) == 24


def test_batches_of_one_s_own_are_counted_by_their_share():
    class ByTokens(BatchSampler):
        pass

    made = DataLoader(ROWS, batch_sampler=ByTokens(RandomSampler(ROWS), 8, drop_last=False))
    assert passes_of(made, 1).read(0.5) == 15

    class Bare:
        def __iter__(self):
            return iter([ROWS])

        def __len__(self):
            return 1

    assert passes_of(DataLoader(ROWS, batch_sampler=Bare()), 1).read(1) == 30


def test_a_stream_and_no_rows_say_nothing():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(ROWS)

    assert passes_of(DataLoader(Stream(), batch_size=8), 1) is None
    assert passes_of(None, 1) is None
    assert passes_of(DataLoader([], batch_size=8), 1) is None


def test_what_is_planned():
    passes, args = passes_of(loader(), 1), SimpleNamespace(num_train_epochs=3, gradient_accumulation_steps=2)
    assert planned(SimpleNamespace(max_steps=-1), args, passes) == 3
    assert planned(SimpleNamespace(max_steps=1), args, passes) == 0.5


def state(**changes):
    told = {"global_step": 12, "epoch": 3.0, "best_model_checkpoint": None, "log_history": [{"loss": 1.0}, {}]}
    return SimpleNamespace(**{**told, **changes})


def test_what_a_training_did():
    assert progress(state(), passes_of(loader(), 1)) == {
        "steps": 12,
        "epochs": 3.0,
        "rows": 30,
        "rows_read": 30,
        "losses": [1.0],
    }
    told = progress(state(), None)
    assert (told["rows"], told["rows_read"]) == (None, None)
    assert progress(state(epoch=None), passes_of(loader(), 1))["rows_read"] is None


def test_the_best_weights_are_of_an_earlier_step():
    best = state(best_model_checkpoint="/out/checkpoint-1")
    told = progress(best, passes_of(loader(), 1), best=True)
    assert (told["steps"], told["epochs"], told["rows_read"]) == (1, 0.25, 8)
    assert progress(best, passes_of(loader(), 1))["steps"] == 12
    assert progress(state(), passes_of(loader(), 1), best=True)["steps"] == 12
