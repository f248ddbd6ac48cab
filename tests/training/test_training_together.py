"""Several processes train one model together: the steps of one process, resumable, written by the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.trainer import TrainSettings, train
from spvmia_plugin.util.processes import first_says, one_of
from tests.launch import two_processes
from tests.training.test_training import PAD, lora_model, masks, sequences, trained

SETTINGS = {"epochs": 3, "lr": 1e-2, "batch_size": 4, "save_steps": 2}

WORKER = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from spvmia_plugin.training import trainer as training
from spvmia_plugin.util.processes import first_says
from tests.launch import two_processes
from tests.training.test_training import PAD, lora_model, masks, sequences, trained
from tests.training.test_training_together import SETTINGS

order = json.loads(sys.argv[1])
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
assert accelerator.num_processes == 2
assert first_says({"from": rank}, 2) == {"from": 0}
step = training._Trainer.training_step

losses = []

def dying(self, *args, **kwargs):
    if self.state.global_step == order["dies"] and rank in order["who"]:
        os._exit(7)
    losses.append(step(self, *args, **kwargs))
    return losses[-1]

training._Trainer.training_step = dying
model = lora_model(order["dropout"])
environment = dict(os.environ)
settings = training.TrainSettings(**SETTINGS, processes=2)
folder = Path(order["folder"])
texts = sequences(order["texts"], None) * order.get("repeat", 1)
counted = masks(texts) if order.get("masked") else None
record = training.train(model, texts, settings, folder, counted=counted, pad_token_id=PAD, description="x")
assert dict(os.environ) == environment
assert accelerator.num_processes == 2
accelerator.wait_for_everyone()
last_loss = losses[-1].item()
torch.save({"weights": trained(model), "record": record, "last_loss": last_loss}, f"{folder}.{rank}")
"""


NOT_OURS = {"ACCELERATE_MIXED_PRECISION": "bf16"}
"""What a launcher says that no reference depends on."""


def launch(**order: Any) -> list[tuple[int, str]]:
    """Exit status of each of two processes, and what it said on stderr."""
    whole = {"dies": None, "who": [0, 1], "dropout": 0.0, **order}
    return two_processes(["-c", WORKER, json.dumps(whole)], NOT_OURS)


FINE = [(0, ""), (0, "")]


def result(folder: Path, rank: int) -> dict[str, Any]:
    return dict(torch.load(f"{folder}.{rank}"))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_two_processes_make_the_steps_of_one(tmp_path: Path, masked: bool) -> None:
    """Texts of different lengths: the loss is the mean over all tokens of the batch, not over the processes' means."""
    model, texts, settings = lora_model(0.0), sequences(12, None), TrainSettings(**SETTINGS)
    counted = masks(texts) if masked else None
    alone = train(model, texts, settings, tmp_path / "one", counted=counted, pad_token_id=PAD, description="x")
    assert launch(folder=str(tmp_path / "two"), texts=12, masked=masked) == FINE
    first, second = (result(tmp_path / "two", rank) for rank in (0, 1))
    for name, value in trained(model).items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
    assert first["record"]["losses"] == second["record"]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert {key: first["record"][key] for key in ("steps", "tokens")} == {
        key: alone[key] for key in ("steps", "tokens")
    }


@pytest.mark.slow
def test_killed_together_they_resume_to_the_same_bits(tmp_path: Path) -> None:
    """With dropout, so with the random state of each process; 10 texts do not divide by 4."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert launch(folder=str(whole), texts=10, dropout=0.2) == FINE
    assert [status for status, _ in launch(folder=str(resumed), texts=10, dropout=0.2, dies=5)] == [7, 7]
    assert launch(folder=str(resumed), texts=10, dropout=0.2) == FINE
    for rank in (0, 1):
        expected, found = result(whole, rank), result(resumed, rank)
        assert found["record"]["resumed_at"] == 4
        assert found["record"]["losses"] == expected["record"]["losses"]
        assert all(torch.equal(value, found["weights"][name]) for name, value in expected["weights"].items())


@pytest.mark.slow
def test_each_process_draws_its_own_dropout(tmp_path: Path) -> None:
    """Four times the same text: without dropout of their own both processes would have the same loss."""
    launch(folder=str(tmp_path / "x"), texts=1, repeat=4, dropout=0.5)
    losses = {result(tmp_path / "x", rank)["last_loss"] for rank in (0, 1)}
    assert len(losses) == 2


@pytest.mark.slow
def test_one_that_dies_is_told_by_the_other(tmp_path: Path) -> None:
    (status, said), (died, _) = launch(folder=str(tmp_path), texts=12, dies=1, who=[1])
    assert (status, died) == (1, 7)
    assert "several processes: expected all 2 to finish, got a broken connection: another one has failed" in said


def test_one_process_says_it_to_itself() -> None:
    assert first_says({"a": 1}, 1) == {"a": 1}


def test_a_process_that_is_gone_is_told() -> None:
    with pytest.raises(SpvmiaError, match="expected all 3 to finish, got a broken connection"), one_of(3):
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(RuntimeError, match="out of memory"), one_of(3):
        raise RuntimeError("CUDA out of memory")
