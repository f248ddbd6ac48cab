"""The benchmark of conversations: its paired intervals, what it refuses, and the whole of it on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.metrics.roc import auroc
from tests.benchmarks.test_dpo import chat_model, chats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import chat


def test_the_gain_over_a_twin_is_paired_over_records():
    rng = np.random.default_rng(0)
    labels = np.arange(200) < 100
    shared = 3 * rng.normal(size=200)  # what both scores know of a record, however much that is
    base, own = shared + labels, shared + 1.5 * labels
    low, high = chat.paired(own, base, labels, np.arange(200), draws=500)
    assert low < auroc(own, labels) - auroc(base, labels) < high
    assert high - low < 0.03  # unpaired it would be some .11
    assert chat.paired(own, own, labels, np.arange(200), draws=20) == (0, 0)


def test_attacks_that_lack_a_twin_are_refused_before_the_training(tmp_path, monkeypatch, capsys):
    given = [f"--{name}={tmp_path / name}" for name in ("output", "model", "chat", "instruct")]
    monkeypatch.setattr(sys, "argv", ["chat.py", *given, "--attacks", "loss", "ez", "wbc", "spv_wbc"])
    with pytest.raises(SystemExit):
        chat.main()
    assert "--attacks: expected lira_base, spv_ez among them" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # what TRL and peft still call it by
def test_the_whole_of_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl", reason="it comes with the extra 'trl'")
    given = ["--output", str(tmp_path / "out"), "--chat", str(chats(tmp_path / "chat.jsonl", 80)), "--instruct", "none"]
    given += ["--model", chat_model(tmp_path / "model"), "--records", "24"]
    given += ["--cells", "chat, reply", "chat, plain text"]
    attacks = ["loss", "lira_base", "ez", "wbc", "spv_ez", "spv_wbc"]
    monkeypatch.setattr(sys, "argv", ["chat.py", *given, "--attacks", *attacks])
    chat.main()
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "chat.json").read_text())
    assert set(found) == {"chat, reply", "chat, plain text"}
    assert set(found["chat, reply"]["attacks"]) == {*attacks, "log-prob difference"}
    assert found["chat, reply"]["equal"]["records"] == 24
    assert found["chat, reply"]["equal"]["largest_difference"] < 1e-4
    assert found["chat, reply"]["equal"]["other_token_counts"] == 0
    assert "chat, reply: [24, 24]; self-prompts " in said
