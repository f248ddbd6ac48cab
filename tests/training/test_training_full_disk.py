"""A disk that fills up during a training: one line, and the same training goes on once there is room."""

from __future__ import annotations

import random

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training import trainer as training
from spvmia_plugin.training.checkpoints import CHECKPOINTS
from spvmia_plugin.training.trainer import TrainSettings, train
from tests.disks import small_disk
from tests.training.test_training import PAD, lora_model, sequences, trained

SETTINGS = TrainSettings(3, 1e-2, 4, save_steps=2)


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_wherever_a_checkpoint_runs_out_of_room(tmp_path, monkeypatch, before):
    """With room left for nothing, for a part of a file, for some of the files: whatever library writes just then."""
    whole = lora_model()
    train(whole, sequences(), SETTINGS, tmp_path / "whole", pad_token_id=PAD, description="x")
    expected = trained(whole)
    draw = random.Random(before)
    size = sum(path.stat().st_size for path in (tmp_path / "whole" / CHECKPOINTS).rglob("*"))
    rooms = [0, *(4096 * k for k in (1, 3, 5)), *(draw.randrange(size + 20_000) for _ in range(2))]
    said = []
    for room in rooms:
        with small_disk(tmp_path / f"disk{room}", "8m") as disk, monkeypatch.context() as patch:
            step = training._Trainer.training_step

            def filling(self, *args, step=step, disk=disk, room=room, **kwargs):
                if self.state.global_step == 3:
                    disk.fill(room)
                return step(self, *args, **kwargs)

            if before:
                disk.fill(room)
            else:
                patch.setattr(training._Trainer, "training_step", filling)
            try:
                train(lora_model(), sequences(), SETTINGS, disk.place / "work", pad_token_id=PAD, description="x")
            except SpvmiaError as error:
                said.append(str(error))
            patch.undo()
            disk.free()
            model = lora_model()
            record = train(model, sequences(), SETTINGS, disk.place / "work", pad_token_id=PAD, description="x")
            assert record["resumed_at"] >= (0 if before else 2)
            assert all(torch.equal(value, expected[name]) for name, value in trained(model).items())
    assert len(said) >= 4
    assert all("expected a folder that can be written, got " in line and str(tmp_path) in line for line in said)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_finetune_on_a_disk_that_fills_up(tmp_path, monkeypatch, method):
    """After the training, with the checkpoints there, weights or manifest find no room: nothing is trained twice."""
    from spvmia_plugin.data.manifest import MANIFEST_NAME
    from spvmia_plugin.training import finetune as module
    from spvmia_plugin.training.config import FinetuneConfig
    from spvmia_plugin.training.finetune import UNFINISHED_NAME, finetune
    from tests.harness.conftest import write_jsonl
    from tests.tiny import save_tiny, tiny_texts

    base = save_tiny(tmp_path / "base")
    data = write_jsonl(tmp_path / "data.jsonl", tiny_texts(60, seed=5))
    with small_disk(tmp_path / "disk", "16m") as disk:
        config = FinetuneConfig(
            str(base), data, disk.place / "out", method=method, members=20, nonmembers=20, prompts=10, epochs=1,
            lora_rank=2, block_size=0, quiet=True,
        )  # fmt: skip
        train = training.train

        def then_fill(*args, **kwargs):
            record = train(*args, **kwargs)
            disk.fill(4096)
            return record

        with monkeypatch.context() as patch:
            patch.setattr(training, "train", then_fill)
            with pytest.raises(SpvmiaError, match="expected a folder that can be written"):
                finetune(config)
        disk.free()
        with monkeypatch.context() as patch:

            def no_room(*_, **__):
                raise OSError(28, "No space left on device")

            real = module.write_manifest
            patch.setattr(module, "write_manifest", lambda m, p: no_room() if p.name == MANIFEST_NAME else real(m, p))
            with pytest.raises(SpvmiaError, match="No space left"):
                finetune(config)
        assert not (disk.place / "out" / MANIFEST_NAME).exists()
        assert (disk.place / "out" / UNFINISHED_NAME).is_file()
        finetune(config)
        assert not (disk.place / "out" / "training").exists()
        from spvmia_plugin.data.manifest import read_manifest

        record = read_manifest(disk.place / "out").training
        assert record["resumed_at"] == record["steps"]
