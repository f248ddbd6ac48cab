"""A reference trained through the backend: killed and resumed, alone among several processes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.records import Rendered
from spvmia_plugin.signals import Role
from spvmia_plugin.training import lora
from tests.launch import two_processes
from tests.models.models import assert_same, fingerprint, harness_lm, save_base
from tests.tiny import tiny_texts
from tests.training.test_training import Killed, kill_at

TEXTS = tiny_texts(3, words=(4, 9))
CONFIG = AuditConfig(reference_epochs=60.0, reference_lr=1e-2, reference_batch=4, lora_rank=2, lora_dropout=0.1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_base(folder)
    return folder


def make(models, kind="lora", config=CONFIG):
    lm = harness_lm(models, kind)
    return lm, HFBackend(lm, config, str(models / "base"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_killed_training_leaves_the_target_alone_and_resumes_to_the_same_bits(models, monkeypatch, tmp_path, kind):
    lm, backend = make(models, kind)
    before = fingerprint(lm.model)
    expected = backend.train_reference(TEXTS, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 55)
        with pytest.raises(Killed):
            backend.train_reference(TEXTS, tmp_path / "resumed")
    assert_same(before, fingerprint(lm.model))
    _, other = make(models, kind)
    record = other.train_reference(TEXTS, tmp_path / "resumed")
    assert record["resumed_at"] == 50
    assert record["losses"] == expected["losses"]
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_texts_too_short_to_learn_from(models, tmp_path):
    _, backend = make(models, config=AuditConfig(reference_epochs=1.0))
    assert backend.train_reference(["a", "", *TEXTS], tmp_path)["texts"] == 3
    with pytest.raises(SpvmiaError, match="at least 2 tokens"):
        backend.train_reference(["a", ""], tmp_path)


def rendered(ids, counted):
    return Rendered(tuple(ids), tuple(counted))


def test_a_reference_on_conversations_is_trained_on_these_very_tokens(models, tmp_path, monkeypatch):
    _, backend = make(models, config=AuditConfig(reference_epochs=1.0, max_length=12))
    calls = []

    def remember(model, sequences, settings, output_dir, *, counted=None, **options):
        calls.append((sequences, counted))
        return {"resumed_at": 0, "steps": 1, "tokens": 5, "seconds": 0.0}

    monkeypatch.setattr(lora, "train", remember)
    ids = [*range(10, 30)]
    given = [
        rendered(ids, [i % 3 == 1 for i in range(20)]),
        rendered(ids, [i > 15 for i in range(20)]),  # counts beyond the context alone
        rendered(ids[:5], [True, *[False] * 4]),
        rendered((), ()),
        rendered(ids[:2], [False, True]),
    ]
    record = backend.train_reference(["words"] * 5, tmp_path, rendered=given)
    assert calls == [([ids[:12], ids[:2]], [given[0].counted[:12], (False, True)])]
    assert (record["texts"], record["without_loss"], record["left_out"]) == (2, 3, 0)
    with pytest.raises(SpvmiaError, match=r"mia_loss_on: expected conversations with tokens that carry loss .* got 2"):
        backend.train_reference(["words"] * 2, tmp_path, rendered=given[1:3])
    backend._unknown[Role.BASE] = frozenset({29, 11})
    with pytest.raises(SpvmiaError, match="mia_reference: expected texts to train on that the base can read"):
        backend.train_reference(["words"] * 2, tmp_path, rendered=[given[0], given[4]])


def test_conversations_and_their_masks_teach(models, tmp_path):
    _, backend = make(models, config=dataclasses.replace(CONFIG, reference_epochs=30.0))
    ids = [backend.encode(text)[:8] for text in TEXTS]
    given = [rendered(row, [i > 4 for i in range(len(row))]) for row in ids]
    record = backend.train_reference(TEXTS, tmp_path, rendered=given)
    assert record["losses"][-1] < record["losses"][0] - 0.1
    assert record["tokens_with_loss"] == 30 * sum(len(row) - 5 for row in ids)
    assert backend.cost(Role.REFERENCE).training_tokens == record["tokens"] == 30 * sum(map(len, ids))


def test_an_architecture_without_default_targets_names_the_option(models, tmp_path, monkeypatch):
    lm, backend = make(models)
    monkeypatch.setattr(lm.model.config, "model_type", "novel")
    with pytest.raises(SpvmiaError, match="mia_lora_targets"):
        backend.train_reference(TEXTS, tmp_path)


def test_a_model_over_several_devices_is_not_trained_by_several_processes(models, monkeypatch):
    _, backend = make(models, config=dataclasses.replace(CONFIG, reference_parallel=True))
    backend.processes = 2
    model = backend._roles.host().model
    monkeypatch.setattr(model, "hf_device_map", {"": "cpu"}, raising=False)
    backend.check_training()
    monkeypatch.setattr(model, "hf_device_map", {"model": 0, "lm_head": 1}, raising=False)
    with pytest.raises(SpvmiaError, match=r"mia_reference_parallel: expected a model .* got one on 2 \(parallelize"):
        backend.check_training()


WORKER = """
import sys
from pathlib import Path
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
from tests.training.test_lora import CONFIG, TEXTS, make
if accelerator.is_main_process:
    make(Path(sys.argv[1]))[1].train_reference(TEXTS, Path(sys.argv[2]))
accelerator.wait_for_everyone()
assert accelerator.num_processes == 2
assert (Path(sys.argv[2]) / "adapter_model.safetensors").exists()
"""


@pytest.mark.slow
def test_one_of_two_processes_trains_what_one_alone_trains(models, tmp_path):
    make(models)[1].train_reference(TEXTS, tmp_path / "alone")
    assert two_processes(["-c", WORKER, str(models), str(tmp_path / "two")]) == [(0, ""), (0, "")]
    alone, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("alone", "two"))
    assert all(torch.equal(value, two[key]) for key, value in alone.items())
