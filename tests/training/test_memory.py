"""Trainings whose steps memory does not hold: the same weights in less of it, or one line that says what to do."""

from __future__ import annotations

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.finetune import estimate
from spvmia_plugin.training.memory import InMemory, keeps_no_activations
from spvmia_plugin.training.trainer import TrainSettings, train
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.tiny import tiny_llama

from .test_training import PAD, TOKENIZER, lora_model, sequences, states, trained

SETTINGS = TrainSettings(3, 1e-2, 4, seed=7, save_steps=0)


def full_model():
    with isolated_rng(0), quiet_libraries():
        return tiny_llama(TOKENIZER).train()


class Memory:
    """What a model's layers may take: from some layer's call on, no more activations are kept.

    It ends in the middle of a forward pass, after dropout has drawn.
    """

    def __init__(self, model, *, after: int, ever: bool = True) -> None:
        self.calls, self.after, self.ever = 0, after, ever
        self.model = model
        (layer,) = [module for name, module in model.named_modules() if name.endswith("layers.1.mlp")]
        layer.register_forward_pre_hook(self.check)

    def check(self, *_):
        self.calls += 1
        fits = keeps_no_activations(self.model) and self.ever
        if self.calls > self.after and not fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def run(model, folder):
    return train(model, sequences(10, None), SETTINGS, folder, pad_token_id=PAD, description="x")


@pytest.mark.parametrize("make", [lora_model, full_model])
@pytest.mark.parametrize("after", [0, 4])
def test_a_step_that_does_not_fit_is_done_again_to_the_same_bits(tmp_path, make, after):
    plain, tight = make(), make()
    expected = run(plain, tmp_path / "a")
    assert "recomputes" not in expected
    memory, before = Memory(tight, after=after), states()
    record = run(tight, tmp_path / "b")
    assert states() == before
    assert record["recomputes"] is True
    assert record["losses"] == expected["losses"]
    of_plain = trained(plain)
    assert all(torch.equal(value, of_plain[name]) for name, value in trained(tight).items())
    assert memory.calls == after + 1 + 2 * (record["steps"] - after)  # each step's forward pass twice, from then on
    assert not keeps_no_activations(tight)


@pytest.mark.parametrize("ever", [True, False])
def test_what_does_not_fit_so_either_is_one_line_with_what_to_do(tmp_path, monkeypatch, ever):
    model = lora_model()
    Memory(model, after=0, ever=False)
    if ever:  # a model that keeps its activations whatever it is told
        monkeypatch.setattr(type(model.base_model.model), "supports_gradient_checkpointing", False)
    with pytest.raises(SpvmiaError, match=r"^out of memory: .* 4 texts of \d+ tokens at once, got none; lower mia_"):
        run(model, tmp_path)
    assert not keeps_no_activations(model)


def test_other_errors_are_what_they_are():
    with pytest.raises(RuntimeError, match=r"^a shape$"):
        InMemory(lora_model()).run(lambda: (_ for _ in ()).throw(RuntimeError("a shape")), (1, 2))


def test_no_step_is_done_twice_where_other_processes_wait_for_it():
    model, calls = lora_model(), []

    def step():
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(SpvmiaError, match=r"out of memory: .* 3 texts of 7 tokens"):
        InMemory(model, alone=False).run(step, (3, 7))
    assert len(calls) == 1


def test_a_model_that_keeps_no_activations_already_stays_so():
    model = lora_model()
    model.base_model.model.model.layers[1].gradient_checkpointing = True
    in_memory = InMemory(model)
    with pytest.raises(SpvmiaError, match="out of memory"):
        in_memory.run(lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")), (1, 2))
    in_memory.restore()
    assert keeps_no_activations(model)


def test_the_estimate_before_it_fits_too():
    model = lora_model()
    Memory(model, after=0)
    assert estimate(model, sequences(), SETTINGS).startswith("estimate: ")
    assert not keeps_no_activations(model)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
