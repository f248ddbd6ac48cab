from __future__ import annotations

import errno
import math
import random
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers.utils import logging

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training import trainer as training
from spvmia_plugin.training.checkpoints import CHECKPOINTS, Seal, last_checkpoint
from spvmia_plugin.training.trainer import TrainSettings, train
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.tiny import tiny_llama, tiny_texts, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PAD = TOKENIZER.pad_token_id


def sequences(n: int = 10, length: int | None = 12) -> list[list[int]]:
    rows = [TOKENIZER(text)["input_ids"] for text in tiny_texts(n, seed=3)]
    return [row[: length or 6 + i] for i, row in enumerate(rows)]


def lora_model(dropout: float = 0.2):
    with isolated_rng(0), quiet_libraries():
        model = get_peft_model(
            tiny_llama(TOKENIZER), LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear")
        )
    return model.eval()


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def trained(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Killed(Exception):
    pass


def kill_at(monkeypatch, step: int) -> None:
    """Die in the middle of an optimiser step, as a killed process would."""
    original = training._Trainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(training._Trainer, "training_step", dying)


def test_isolated_rng_seeds_and_restores():
    before = states()
    with isolated_rng(5):
        first = (random.random(), np.random.rand(), torch.rand(1).item())
    assert states() == before
    with isolated_rng(5):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())


def test_isolated_rng_restores_after_an_error():
    before = states()

    def draw_and_die():
        with isolated_rng(1):
            torch.rand(3)
            raise Killed

    with pytest.raises(Killed):
        draw_and_die()
    assert states() == before


def test_the_loss_falls_and_only_the_adapter_moves(tmp_path):
    model = lora_model(0.0)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    record = train(model, sequences(), TrainSettings(5, 5e-2, 4), tmp_path, pad_token_id=PAD, description="x")
    assert record["losses"][-1] < record["losses"][0] - 0.05
    assert record["tokens"] == 5 * 10 * 12
    assert record["steps"] == 15
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, frozen[name])


def test_first_epoch_loss_is_the_mean_cross_entropy_without_padding(tmp_path):
    model, rows = lora_model(0.0), sequences(6, None)
    record = train(model, rows, TrainSettings(1, 1e-12, 6), tmp_path, pad_token_id=PAD, description="x")
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logp = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
            total -= sum(logp[i, token].item() for i, token in enumerate(row[1:]))
            count += len(row) - 1
    assert record["losses"] == [pytest.approx(total / count, rel=1e-5)]


def masks(rows: list[list[int]], seed: int = 0) -> list[list[bool]]:
    """Random ones, with a token that counts in each, and a last one that does not."""
    rng = random.Random(seed)
    return [[False, True, *(rng.random() < 0.4 for _ in row[3:]), False] for row in rows]


def test_the_loss_is_the_mean_over_the_counted_tokens_of_the_whole_batch(tmp_path):
    """Not the mean of the rows' means; padding and the first token count nowhere."""
    model, rows = lora_model(0.0), sequences(6, None)
    counted = [[True, *mask[1:]] for mask in masks(rows)]
    settings = TrainSettings(1, 1e-12, 6)
    record = train(model, rows, settings, tmp_path, counted=counted, pad_token_id=PAD, description="x")
    total, count = 0.0, 0
    with torch.no_grad():
        for row, mask in zip(rows, counted, strict=True):
            logp = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
            total -= sum(logp[i - 1, row[i]].item() for i in range(1, len(row)) if mask[i])
            count += sum(mask[1:])
    assert record["losses"] == [pytest.approx(total / count, rel=1e-6)]
    assert record["tokens"] == sum(map(len, rows))
    assert record["tokens_with_loss"] == count


def test_a_token_that_does_not_count_teaches_nothing(tmp_path):
    """The last of each row is read by none that counts: another in its place changes no bit of what is learnt."""
    rows, settings = sequences(6, None), TrainSettings(3, 1e-2, 2, seed=1)
    counted = masks(rows)
    models = []
    for other in (rows, [[*row[:-1], (row[-1] + 7) % 300] for row in rows]):
        models.append(lora_model())
        folder = tmp_path / str(len(models))
        train(models[-1], other, settings, folder, counted=counted, pad_token_id=PAD, description="x")
    one, two = map(trained, models)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    start = trained(lora_model())
    assert any(not torch.equal(value, start[name]) for name, value in one.items())


def test_all_tokens_counted_is_no_mask_at_all(tmp_path):
    rows, settings = sequences(6, None), TrainSettings(3, 1e-2, 2, seed=1)
    plain, masked = lora_model(), lora_model()
    every = [[True] * len(row) for row in rows]
    one = train(plain, rows, settings, tmp_path / "1", pad_token_id=PAD, description="x")
    two = train(masked, rows, settings, tmp_path / "2", counted=every, pad_token_id=PAD, description="x")
    assert one["losses"] == two["losses"]
    assert all(torch.equal(value, trained(masked)[name]) for name, value in trained(plain).items())
    assert "tokens_with_loss" not in one
    assert two["tokens_with_loss"] == 3 * sum(len(row) - 1 for row in rows)


def test_a_checkpoint_of_another_mask_is_not_used(tmp_path, monkeypatch):
    settings, rows = TrainSettings(3, 1e-2, 4, seed=7, save_steps=2), sequences(10, None)
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            train(lora_model(), rows, settings, tmp_path / "x", counted=masks(rows), pad_token_id=PAD, description="x")
    for k, (counted, resumed_at) in enumerate(((None, 0), (masks(rows, 1), 0), (masks(rows), 4))):
        shutil.copytree(tmp_path / "x", tmp_path / str(k))
        found = train(
            lora_model(), rows, settings, tmp_path / str(k), counted=counted, pad_token_id=PAD, description="x"
        )
        assert found["resumed_at"] == resumed_at


def test_a_text_without_a_counted_token_is_refused(tmp_path):
    counted = [[True] * 12, [True, *[False] * 11]]  # nothing predicts the first
    settings = TrainSettings(1, 1e-3, 2)
    with pytest.raises(SpvmiaError, match="x: expected a token that carries loss in each text to train on, got one"):
        train(lora_model(), sequences(2), settings, tmp_path, counted=counted, pad_token_id=PAD, description="x")


def test_it_leaves_nothing_behind(tmp_path):
    model = lora_model()
    model.config.use_cache = True
    before, attributes = states(), set(vars(model))
    train(model, sequences(), TrainSettings(1, 1e-3, 4, save_steps=1), tmp_path, pad_token_id=PAD, description="x")
    assert states() == before
    assert set(vars(model)) == attributes
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert model.config.use_cache
    # The last checkpoint stays for the caller, who has the weights to save first.
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("step", [5, 6, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 7))])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, step):
    # 10 sequences by 4: 3 steps an epoch, so checkpoints fall inside and at the end of epochs; dropout draws too.
    settings = TrainSettings(3, 1e-2, 4, seed=7, save_steps=2)
    rows = sequences(10, None)
    whole = lora_model()
    expected = train(whole, rows, settings, tmp_path / "a", pad_token_id=PAD, description="x")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            train(lora_model(), rows, settings, tmp_path / "b", pad_token_id=PAD, description="x")
    resumed = lora_model()
    torch.rand(step)  # the state outside must not matter
    record = train(resumed, rows, settings, tmp_path / "b", pad_token_id=PAD, description="x")
    assert record["resumed_at"] == step // 2 * 2
    assert record["losses"] == expected["losses"]
    for name, value in trained(whole).items():
        assert torch.equal(trained(resumed)[name], value), name


@pytest.mark.parametrize("steps", [9, 7])
def test_a_run_killed_after_its_last_step_trains_nothing_again(tmp_path, monkeypatch, steps):
    """Before the caller has saved the weights, that is. 7 steps end in the middle of an epoch."""
    settings = TrainSettings(steps / 3, 1e-2, 4, seed=7, save_steps=2)
    rows = sequences(10, None)
    whole = lora_model()
    expected = train(whole, rows, settings, tmp_path, pad_token_id=PAD, description="x")
    assert expected["steps"] == steps
    kill_at(monkeypatch, steps)
    again = lora_model()
    before = states()
    record = train(again, rows, settings, tmp_path, pad_token_id=PAD, description="x")
    assert record["resumed_at"] == steps
    assert record["losses"] == expected["losses"]
    assert all(torch.equal(trained(again)[name], value) for name, value in trained(whole).items())
    assert not any(module.training for module in again.modules())
    assert states() == before


def test_a_kill_before_a_checkpoint_is_sealed_leaves_the_one_before(tmp_path, monkeypatch):
    settings = TrainSettings(3, 1e-2, 4, seed=7, save_steps=2)
    whole = lora_model()
    train(whole, sequences(), settings, tmp_path / "a", pad_token_id=PAD, description="x")
    seal = Seal.on_save

    def dying(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise Killed
        seal(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Seal, "on_save", dying)
        with pytest.raises(Killed):
            train(lora_model(), sequences(), settings, tmp_path / "b", pad_token_id=PAD, description="x")
    resumed = lora_model()
    assert train(resumed, sequences(), settings, tmp_path / "b", pad_token_id=PAD, description="x")["resumed_at"] == 4
    assert all(torch.equal(trained(resumed)[name], value) for name, value in trained(whole).items())


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (
            "spvmia_plugin.training.trainer.save_file",
            SafetensorError("Error while serializing: I/O error: No space left"),
        ),
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing")),
        ("transformers.trainer.TrainerState.save_to_json", FULL),
        ("spvmia_plugin.training.trainer.Path.write_text", FULL),
    ],
)
def test_a_full_disk_is_told_in_one_line_and_the_training_goes_on_later(tmp_path, monkeypatch, place, error):
    settings = TrainSettings(3, 1e-2, 4, save_steps=2)

    def refuse(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        with pytest.raises(SpvmiaError, match=r"mia_cache_dir.* expected a folder that can be written") as caught:
            train(lora_model(), sequences(), settings, tmp_path / "a", pad_token_id=PAD, description="x")
    assert "\n" not in str(caught.value)
    one, two = lora_model(), lora_model()
    train(one, sequences(), settings, tmp_path / "a", pad_token_id=PAD, description="x")
    train(two, sequences(), settings, tmp_path / "b", pad_token_id=PAD, description="x")
    assert all(torch.equal(trained(one)[name], value) for name, value in trained(two).items())


@pytest.mark.parametrize("damage", ["weights", "seal", "data", "settings"])
def test_a_checkpoint_that_does_not_fit_is_not_used(tmp_path, monkeypatch, damage):
    settings = TrainSettings(3, 1e-2, 4, save_steps=2)
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            train(lora_model(), sequences(), settings, tmp_path, pad_token_id=PAD, description="x")
    (checkpoint,) = (tmp_path / CHECKPOINTS).iterdir()
    rows = sequences()
    if damage == "weights":
        path = checkpoint / "trainable.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "seal":
        (checkpoint / "seal.json").unlink()
    elif damage == "data":
        rows = rows[::-1]
    else:
        settings = TrainSettings(3, 2e-2, 4, save_steps=2)
    record = train(lora_model(), rows, settings, tmp_path, pad_token_id=PAD, description="x")
    assert record["resumed_at"] == 0


def test_checkpoints_hold_what_is_trained_only(tmp_path, monkeypatch):
    kill_at(monkeypatch, 2)
    model = lora_model()
    with pytest.raises(Killed):
        train(model, sequences(), TrainSettings(1, 1e-2, 4, save_steps=2), tmp_path, pad_token_id=PAD, description="x")
    files = {path.name: path.stat().st_size for path in next((tmp_path / CHECKPOINTS).iterdir()).iterdir()}
    size = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert size < files["trainable.safetensors"] < size + 10_000


def test_full_fine_tuning_trains_every_parameter(tmp_path):
    model = tiny_llama(TOKENIZER)
    before = trained(model)
    train(model, sequences(), TrainSettings(1, 1e-2, 4), tmp_path, pad_token_id=PAD, description="x")
    assert all(not torch.equal(value, before[name]) for name, value in trained(model).items())


def test_accelerate_state_and_environment_are_those_of_the_harness(tmp_path, monkeypatch):
    import os

    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as under a launcher: this rank still trains alone
    monkeypatch.setenv("RANK", "0")
    environment, verbosity = dict(os.environ), logging.get_verbosity()
    train(lora_model(), sequences(), TrainSettings(1, 1e-2, 4), tmp_path, pad_token_id=PAD, description="x")
    assert dict(os.environ) == environment
    assert logging.get_verbosity() == verbosity
    assert accelerator.num_processes == 1
    assert accelerator.device.type == "cpu"


def test_settings_count_steps():
    settings = TrainSettings(epochs=1.5, lr=1, batch_size=4)
    assert settings.total_steps(10) == math.ceil(1.5 * 3)
    assert settings.checkpoint_interval(10) == 10
    assert settings.checkpoint_interval(4000) == 150
    assert TrainSettings(1, 1, 1, save_steps=0).checkpoint_interval(10**6) == 0


@pytest.mark.parametrize("rows", [[], [[1, 2, 3], [4]]])
def test_nothing_to_predict_is_an_error(tmp_path, rows):
    with pytest.raises(SpvmiaError, match="at least 2 tokens"):
        train(lora_model(), rows, TrainSettings(1, 1, 1), tmp_path, pad_token_id=PAD, description="reference")


def test_a_checkpoint_larger_than_memory_is_sealed_and_found_again(tmp_path: Path):
    """Digests of it are streamed: those of a 600 MB checkpoint took 600 MB."""
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    (folder / "trainable.safetensors").write_bytes(bytes(2**25))
    tracemalloc.start()
    Seal("run").on_save(SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=7), None)
    found = last_checkpoint(tmp_path, "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == folder
    assert peak < 2**22
