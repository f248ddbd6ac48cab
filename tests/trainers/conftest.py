"""Small trainings by other people's trainers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.harness.conftest import TEMPLATE
from tests.tiny import save_tiny, tiny_texts


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory):
    """A tiny model whose chat template marks what the assistant writes."""
    folder = save_tiny(tmp_path_factory.mktemp("base") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Of the user: keys and kept rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def chats(n, seed=3):
    rng = random.Random(seed)
    texts = iter(tiny_texts(6 * n, seed=seed, words=(3, 9)))
    rows = []
    for _ in range(n):
        turns = [{"role": "system", "content": "Be short."}]
        for _ in range(rng.randint(1, 3)):
            turns += [{"role": "user", "content": next(texts)}, {"role": "assistant", "content": next(texts)}]
        rows.append({"messages": turns})
    return rows


def texts(n, seed=3):
    return [{"text": text} for text in tiny_texts(n, seed=seed, words=(5, 40))]


def pairs(n, seed=3):
    made = tiny_texts(2 * n, seed=seed, words=(3, 12))
    return [{"prompt": one + " ", "completion": other} for one, other in zip(made[::2], made[1::2], strict=True)]


def preferences(n, seed=3):
    """Prompts with the answer that is chosen and the one that is not."""
    others = pairs(n, seed + 8)
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(pairs(n, seed), others, strict=True)
    ]


def written(path: Path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def split(tmp_path):
    """Members and non-members of a kind in files: `split(chats(90))` gives 30 and 60."""

    def make(rows, members=30):
        return (
            written(tmp_path / "private" / "members.jsonl", rows[:members]),
            written(tmp_path / "private" / "nonmembers.jsonl", rows[members:]),
        )

    return make


def arguments(folder, **changes):
    """Of any trainer: one epoch on the CPU, silent."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "logging_steps": 2,
        "save_strategy": "epoch",
        **changes,
    }


@pytest.fixture
def sft(chat_base, tmp_path):
    """`sft(rows, callbacks, **SFTConfig's)` trains an adapter by TRL and saves it; returns the trainer."""
    pytest.importorskip("trl", reason="it comes with the extra 'trl'")

    def run(rows, callbacks, *, model=None, peft=True, folder="out", train=True, **changes):
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(
            model=str(model or chat_base),
            args=SFTConfig(**arguments(tmp_path / folder, **{"max_length": 96, **changes})),
            processing_class=AutoTokenizer.from_pretrained(chat_base),
            train_dataset=rows if hasattr(rows, "take") else Dataset.from_list(rows),
            peft_config=LoraConfig(r=4, target_modules="all-linear") if peft else None,
            callbacks=callbacks,
        )
        if train:
            trainer.train()
            trainer.save_model()
        return trainer

    return run


@pytest.fixture
def dpo(chat_base, tmp_path):
    """`dpo(rows, callbacks)` trains an adapter on preferences by TRL and saves it."""
    pytest.importorskip("trl", reason="it comes with the extra 'trl'")

    def run(rows, callbacks):
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import DPOConfig, DPOTrainer

        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(chat_base),
            args=DPOConfig(**arguments(tmp_path / "out", max_length=96)),
            processing_class=AutoTokenizer.from_pretrained(chat_base),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(r=4, target_modules="all-linear"),
            callbacks=callbacks,
        )
        trainer.train()
        trainer.save_model()

    return run


def emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
