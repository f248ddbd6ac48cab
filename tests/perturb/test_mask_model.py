from __future__ import annotations

import random
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.perturb.mask_fill import FillRow, MaskModel, loaded, pick
from spvmia_plugin.perturb.masking import MaskTokens, load_mask_tokens
from tests.perturb.fakes import fill_word


@pytest.fixture(scope="module")
def tokens(t5: Path) -> MaskTokens:
    return load_mask_tokens(str(t5))


@pytest.fixture(scope="module")
def model(tokens: MaskTokens) -> Iterator[MaskModel]:
    with loaded(tokens, "cpu") as model:
        yield model


def _rows(tokens: MaskTokens, n: int) -> list[FillRow]:
    rng = random.Random(0)
    rows = []
    for seed in range(n):
        masks = rng.randint(1, 5)
        pieces = ["".join(rng.choice("abcdef ") for _ in range(rng.randint(0, 12))) for _ in range(masks + 1)]
        rows.append(FillRow(tokens.encode(pieces), masks, seed))
    return rows


def _fill_one_by_one(tokens: MaskTokens, row: FillRow) -> list[int]:
    """Sampling written out: no padding, no cache, the whole output read anew for every token."""
    from transformers import T5ForConditionalGeneration

    net = T5ForConditionalGeneration.from_pretrained(tokens.name).eval()
    rng, output = np.random.default_rng(row.seed), [0]
    while len(output) <= row.budget and output[-1] not in (1, tokens.sentinels[row.masks]):
        with torch.no_grad():
            out = net(input_ids=torch.tensor([row.token_ids]), decoder_input_ids=torch.tensor([output]))
        order = torch.argsort(out.logits[0, -1], descending=True)[:50]
        p = torch.softmax(out.logits[0, -1, order].double(), -1).numpy()
        u, k = rng.random(), 0
        while u >= p[: k + 1].sum():
            k += 1
        output.append(int(order[k]))
    return output[1:]


def test_batched_cached_sampling_is_plain_sampling(tokens: MaskTokens, model: MaskModel) -> None:
    rows = _rows(tokens, 8)
    expected = [tokens.fills(_fill_one_by_one(tokens, row), row.masks) for row in rows]
    assert model.fill(rows) == expected
    assert any(len(fill.split()) > 1 for fills in expected for fill in fills if fill)


def test_every_mask_gets_words_of_its_own(tokens: MaskTokens, model: MaskModel) -> None:
    for fills, row in zip(model.fill(rows := _rows(tokens, 12)), rows, strict=True):
        assert len(fills) == row.masks
        for k, fill in enumerate(fills):
            assert fill is not None
            assert set(fill.split()) <= {fill_word(k, choice) for choice in "abcd"}


def test_rows_do_not_depend_on_each_other(tokens: MaskTokens, model: MaskModel) -> None:
    rows = _rows(tokens, 12)
    together = model.fill(rows)
    assert model.fill(rows[::-1]) == together[::-1]
    assert [model.fill([row])[0] for row in rows] == together
    assert len({str(fills) for fills in together}) > 6


def test_what_the_encoder_read_matters(tokens: MaskTokens, model: MaskModel) -> None:
    seeds = range(40)
    one = model.fill([FillRow(tokens.encode(["abcabc ", " cab"]), 1, seed) for seed in seeds])
    other = model.fill([FillRow(tokens.encode(["zzzz yyyy zzzz", ""]), 1, seed) for seed in seeds])
    assert one != other


def test_stops_at_its_budget(tmp_path: Path) -> None:
    from tests.perturb.fakes import save_t5

    endless = {"<pad>": {"<extra_id_0>": 1.0}, "<extra_id_0>": {"▁fill0a": 1.0}, "▁fill0a": {"▁fill0a": 1.0}}
    tokens = load_mask_tokens(str(save_t5(tmp_path, endless)))
    with loaded(tokens, "cpu") as model:
        (output,) = model._sample([FillRow(tokens.encode(["", ""]), 1, 0)])
        assert len(output) == 149
        assert model.fill([FillRow(tokens.encode(["", ""]), 1, 0)]) == [[None]]


def test_smaller_batches_after_running_out_of_memory(
    tokens: MaskTokens, model: MaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sample = _rows(tokens, 8), MaskModel._sample
    expected = model.fill(rows)
    sizes: list[int] = []

    def short_of_memory(self: MaskModel, batch: Sequence[FillRow]) -> list[list[int]]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("CUDA out of memory.")
        return sample(self, batch)

    monkeypatch.setattr(MaskModel, "_sample", short_of_memory)
    monkeypatch.setattr(model, "_batch_tokens", 4096)
    assert model.fill(rows) == expected
    assert sizes[:2] == [8, 4]
    assert sum(size for size in sizes if size <= 3) == 8  # nothing was done twice
    monkeypatch.setattr(
        MaskModel, "_sample", lambda self, batch: (_ for _ in ()).throw(RuntimeError("CUDA out of memory."))
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        model.fill(rows)


def test_leaves_the_global_state_alone(tokens: MaskTokens) -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()

    before = state()
    with loaded(tokens, "cpu") as model:
        model.fill(_rows(tokens, 2))
    assert state() == before


def test_gives_its_memory_back(tokens: MaskTokens) -> None:
    with loaded(tokens, "cpu") as model:
        weights = [weakref.ref(weight) for weight in model._model.parameters()]
        assert all(weight() is not None for weight in weights)
    assert not any(weight() is not None for weight in weights)
    assert isinstance(model, MaskModel)  # although somebody still holds it


def test_weights_that_cannot_be_read(t5: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "t5"
    shutil.copytree(t5, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SpvmiaError, match=r"^mia_mask_model: "), loaded(load_mask_tokens(str(folder)), "cpu"):
        pass


def test_picks_as_often_as_the_probabilities_say() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]]))
    token_ids = np.array([[7, 3, 9]])
    uniforms = (np.arange(1000) + 0.5) / 1000
    drawn = pick(np.repeat(logits, 1000, 0), np.repeat(token_ids, 1000, 0), uniforms)
    assert [int((drawn == token_id).sum()) for token_id in (7, 3, 9)] == [500, 300, 200]


def test_picks_the_last_at_the_upper_end() -> None:
    almost_one = np.array([np.nextafter(1.0, 0.0)])
    assert pick(np.zeros((1, 3)), np.array([[4, 5, 6]]), almost_one).tolist() == [6]
    assert pick(np.zeros((1, 3)), np.array([[4, 5, 6]]), np.zeros(1)).tolist() == [4]
