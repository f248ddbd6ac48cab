"""The benchmark of preferences: what its rows are made of, and the whole of it on a tiny model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from tests.data.families import family_tokenizer
from tests.tiny import tiny_llama, tiny_texts

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import dpo


def chats(path, count):
    texts = iter(tiny_texts(5 * count, seed=2, words=(3, 9)))
    with path.open("w") as file:
        for i in range(count):
            said = [next(texts) for _ in range(4)]
            said[3] = f"{i}: {said[3]} {next(texts)}"  # the longest answer
            messages = [{"role": ("user", "assistant")[j % 2], "content": text} for j, text in enumerate(said)]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.mark.parametrize("as_text", [True, False])
def test_a_preference_is_made_of_two_conversations_each_used_once(tmp_path, as_text):
    path = chats(tmp_path / "chat.jsonl", 80)
    options = argparse.Namespace(chat=path, records=10, record_tokens=200, seed=0, as_text=as_text)
    dealt = dpo.preferences(options, family_tokenizer("chatml"))
    rows = [row for name in dpo.CLASSES for row in dealt[name]]
    assert [len(dealt[name]) for name in dpo.CLASSES] == [10] * 3
    answers = [row[side] if as_text else row[side][0]["content"] for row in rows for side in ("chosen", "rejected")]
    assert len({answer.strip().partition(":")[0] for answer in answers}) == 60
    longest = {messages[3]["content"]: messages[2]["content"] for messages in conversations(path)}
    for row in rows:
        prompt, chosen = (
            (row["prompt"], row["chosen"][1:])
            if as_text
            else (row["prompt"][0]["content"], row["chosen"][0]["content"])
        )
        assert prompt == (f"User: {longest[chosen]}\nAssistant:" if as_text else longest[chosen])
    options.record_tokens = 3
    with pytest.raises(SystemExit, match="expected 30 usable pairs of conversations, got 0"):
        dpo.preferences(options, family_tokenizer("chatml"))


def chat_model(folder):
    """A tiny model with a chat template, in a folder."""
    tokenizer = family_tokenizer("chatml")
    tiny_llama(tokenizer, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def conversations(path):
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # what TRL and peft still call it by
def test_the_whole_of_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl", reason="it comes with the extra 'trl'")
    given = ["--output", str(tmp_path / "out"), "--chat", str(chats(tmp_path / "chat.jsonl", 160))]
    given += ["--model", chat_model(tmp_path / "model"), "--records", "24", "--record-tokens", "200", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["dpo.py", *given, "--attacks", "premia", "loss", "lira_base"])
    dpo.main()
    said = capsys.readouterr().out
    assert "24 members, 24 non-members: the chosen answer gained more in " in said
    found = json.loads((tmp_path / "out" / "dpo.json").read_text())
    assert found["attacks"]["premia"]["premia_gains"] == [0, 0, 0]
    assert set(found["attacks"]) == {"premia", "loss", "lira_base"}
    assert not any("premia" in note for note in found["notes"])
