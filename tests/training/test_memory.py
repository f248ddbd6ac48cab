"""Trainings whose steps memory does not hold: the same weights in less of it, or one line that says what to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training import memory
from spvmia_plugin.training.finetune import estimate
from spvmia_plugin.training.memory import PROBED, InMemory, _kept_by_a_step, available_memory, keeps_no_activations
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

    def check(self, _, arguments):
        if len(arguments[0]) == 1:  # of the one text by which is measured what a step keeps
            return
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
    shortage, before = Memory(tight, after=after), states()
    record = run(tight, tmp_path / "b")
    assert states() == before
    assert record["recomputes"] is True
    assert record["losses"] == expected["losses"]
    of_plain = trained(plain)
    assert all(torch.equal(value, of_plain[name]) for name, value in trained(tight).items())
    assert shortage.calls == after + 1 + 2 * (record["steps"] - after)  # each step's forward pass twice, from then on
    assert not keeps_no_activations(tight)


@pytest.mark.parametrize("is_able", [True, False])
def test_what_does_not_fit_so_either_is_one_line_with_what_to_do(tmp_path, monkeypatch, is_able):
    model = lora_model()
    Memory(model, after=0, ever=False)
    if not is_able:  # to do without its activations
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


def kept_naively(model, tokens):
    """The same by what the nodes of the graph hold: bytes of all, and of the largest."""
    ids = torch.zeros((1, tokens), dtype=torch.long)
    loss = model(input_ids=ids, labels=ids).loss
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen, held, todo = set(), {}, [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [each for each, _ in node.next_functions]
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in own:
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(held.values()), max(held.values())


@pytest.mark.parametrize("make", [lora_model, full_model])
def test_what_a_step_keeps_is_measured_and_grows_with_its_tokens(make):
    model, before = make(), torch.get_rng_state()
    for tokens in (16, 32):
        every, largest = kept_naively(model, tokens)
        assert _kept_by_a_step(model, tokens) == pytest.approx(every + 2 * largest, rel=0.01)
    assert _kept_by_a_step(model, 32) == pytest.approx(2 * _kept_by_a_step(model, 16), rel=0.15)
    torch.set_rng_state(before)
    _kept_by_a_step(model, 8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [lora_model, full_model])
def test_where_a_cpu_would_be_short_of_memory_no_activations_are_kept_from_the_start(tmp_path, monkeypatch, make):
    rows = sequences(10, None)
    longest = max(map(len, rows))
    assert longest < PROBED
    needed = 4 * _kept_by_a_step(make(), longest)
    plain, tight = make(), make()
    monkeypatch.setattr(memory, "available_memory", lambda: needed * 1.43)
    assert "recomputes" not in run(plain, tmp_path / "a")
    monkeypatch.setattr(memory, "available_memory", lambda: needed * 1.42)
    assert run(tight, tmp_path / "b")["recomputes"] is True
    of_plain = trained(plain)
    assert all(torch.equal(value, of_plain[name]) for name, value in trained(tight).items())
    assert not keeps_no_activations(tight)


@pytest.mark.parametrize(
    ("most", "taken", "parts", "expected"),
    [
        ("max\n", "5\n", "anon 5\ninactive_file 0\n", 10_000),
        ("1000\n", "400\n", "anon 300\ninactive_file 100\nactive_file 0\n", 700),
        ("1000\n", "400\n", "anon 400\n", 600),
        ("90000\n", "400\n", "anon 400\n", 10_000),
        (None, "5\n", "anon 5\n", 10_000),
    ],
)
def test_the_memory_of_a_container_is_what_its_group_may_take(tmp_path, monkeypatch, most, taken, parts, expected):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    for name, content in (("max", most), ("current", taken), ("stat", parts)):
        if content is not None:
            (tmp_path / f"memory.{name}").write_text(content)
    assert available_memory(tmp_path) == expected
