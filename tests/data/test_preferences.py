"""Preferences from files to records: which side is the record, what makes two rows the same, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.data.documents import describe
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.sources import read_documents
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Conversation
from tests.data.families import family_tokenizer
from tests.data.test_load import config, load
from tests.tiny import tiny_texts

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def rows_of(count: int, seed: int) -> list[Row]:
    texts = iter(tiny_texts(3 * count, seed=seed, words=(3, 9)))
    return [{"prompt": next(texts), "chosen": f" {next(texts)}", "rejected": f" {next(texts)}"} for _ in range(count)]


def files_of(folder: Path, **rows: list[Row]) -> dict[str, Path]:
    paths = {}
    for number, name in enumerate(("members", "nonmembers", "prompts")):
        paths[name] = folder / f"{name}.jsonl"
        held = rows.get(name) or rows_of(25, number)
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in held))
    return paths


def loaded(folder: Path, options: dict[str, Any] | None = None, **rows: list[Row]) -> AuditData:
    settings = config(**files_of(folder, **rows), **(options or {}))
    return load(settings, tokenizer=lambda: family_tokenizer("chatml"))


def test_the_record_is_the_chosen_side(tmp_path: Path) -> None:
    rows = rows_of(25, 7)
    data = loaded(tmp_path, members=rows)
    assert (data.format, data.block_size, data.renderer.loss_on) == ("preference", 0, "completion")
    record = next(each for each in data.records if each.id == "members.jsonl:3")
    assert record.cluster == record.id
    assert record.text == f"{rows[2]['prompt']}\n{rows[2]['chosen']}"
    assert record.conversation is not None
    assert record.conversation.rejected == ({"role": "assistant", "content": rows[2]["rejected"]},)
    tokenizer = family_tokenizer("chatml")
    assert record.rendered is not None
    assert record.rendered.rejected is not None
    for side, rendered in (("chosen", record.rendered), ("rejected", record.rendered.rejected)):
        opening, whole = (
            tokenizer(text)["input_ids"] for text in (rows[2]["prompt"], rows[2]["prompt"] + rows[2][side])
        )
        assert rendered.token_ids == (*whole, tokenizer.eos_token_id)
        assert rendered.counted == (*[False] * len(opening), *[True] * (len(whole) - len(opening) + 1))
    assert all(each.rendered is not None and each.rendered.rejected is not None for each in data.prompts)


def test_rows_with_one_chosen_side_are_one_document(tmp_path: Path) -> None:
    rows = rows_of(25, 7)
    data = loaded(tmp_path, members=[*rows, {**rows[0], "rejected": " something else"}])
    assert len(data.members) == 25
    assert data.provenance["counts"]["duplicate_documents"] == 1  # type: ignore[index]
    with pytest.raises(SpvmiaError, match="mia_nonmembers"):
        loaded(tmp_path, members=rows, nonmembers=[{**rows[0], "rejected": " else"}, *rows_of(24, 8)])


def test_other_rejected_answers_are_other_data(tmp_path: Path) -> None:
    rows = rows_of(25, 7)
    one, same = loaded(tmp_path, members=rows), loaded(tmp_path, members=rows)
    other = loaded(tmp_path, members=[{**rows[0], "rejected": " something else"}, *rows[1:]])
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_of_two_equal_answers_the_chosen_one_is_scored_all_the_same(tmp_path: Path) -> None:
    rows = rows_of(25, 7)
    data = loaded(tmp_path, members=[{**rows[0], "rejected": rows[0]["chosen"]}, *rows[1:]])
    rendered = next(each.rendered for each in data.records if each.id == "members.jsonl:1")
    assert rendered is not None
    assert rendered.rejected is not None
    assert (rendered.reason, rendered.rejected.reason) == (None, "the chosen and the rejected answer are the same")
    assert rendered.rejected.token_ids == rendered.token_ids


def test_options_that_have_no_meaning_for_preferences(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_loss_on: expected completion for preferences, .*, got all; leave it"):
        loaded(tmp_path, {"loss_on": "all"})
    assert loaded(tmp_path, {"loss_on": "completion"}).renderer.loss_on == "completion"
    with pytest.raises(SpvmiaError, match=r"^mia_block_size: expected 0 for conversations"):
        loaded(tmp_path, {"block_size": 32})
    with pytest.raises(SpvmiaError, match=r"^mia_nonmembers: expected rows of the format preference as in the other"):
        loaded(tmp_path, nonmembers=[{"prompt": "a", "completion": f" {i}"} for i in range(25)])
    with pytest.raises(SpvmiaError, match="row 2: expected 'rejected', got none; correct or remove the row"):
        loaded(tmp_path, members=[*rows_of(1, 1), {"prompt": "SECRET", "chosen": "SECRET", "rejected": None}])


def talk(chosen: str, rejected: str) -> Conversation:
    said = [{"role": role, "content": text} for role, text in (("user", "Where?"), ("assistant", chosen))]
    return Conversation(tuple(said), prompt=1, rejected=({"role": "assistant", "content": rejected},))


@pytest.mark.parametrize(("chosen", "rejected"), [("In Paris.", "far " * 90), ("far " * 90, "In Paris.")])
def test_each_side_is_cut_by_itself(chosen: str, rejected: str) -> None:
    tokenizer = family_tokenizer("chatml")
    whole, cut = (Renderer(tokenizer, "completion", tokens).render(talk(chosen, rejected)) for tokens in (1000, 100))
    for full, short in ((whole, cut), (whole.rejected, cut.rejected)):
        assert full is not None
        assert short is not None
        assert short.token_ids == full.token_ids[:100]
        assert short.counted == full.counted[:100]
        assert short.reason is None
    assert {len(side.token_ids) > 100 for side in (whole, whole.rejected) if side is not None} == {True, False}


def test_a_prompt_that_fills_the_record_leaves_both_sides_without_a_score() -> None:
    rendered = Renderer(family_tokenizer("chatml"), "completion", 8).render(talk("yes", "no"))
    assert rendered.rejected is not None
    assert rendered.reason == rendered.rejected.reason == "no scored tokens: the answer begins after 8 tokens"


def test_the_prompt_ends_where_the_first_of_the_two_sides_leaves_it() -> None:
    """The end of the prompt and the beginning of the chosen answer are one token: from there on both sides count."""
    tokenizer = family_tokenizer("chatml")
    word = max((each[1:] for each in tokenizer.get_vocab() if each[0] == "Ġ" and each[1:].isascii()), key=len)
    said = ({"role": "user", "content": f"x {word[:3]}"}, {"role": "assistant", "content": word[3:]})
    conversation = Conversation(said, 1, plain=True, rejected=({"role": "assistant", "content": " 7"},))
    prompt, chosen, rejected = (tokenizer(f"x {each}")["input_ids"] for each in (word[:3], word, f"{word[:3]} 7"))
    start = next(i for i, (one, other) in enumerate(zip(prompt, chosen, strict=False)) if one != other)
    assert rejected[: len(prompt)] == prompt
    assert start < len(prompt)  # so the rejected side alone would count less
    rendered = Renderer(tokenizer, "completion", 60).render(conversation)
    assert rendered.rejected is not None
    for side in (rendered, rendered.rejected):
        assert side.counted == (*[False] * start, *[True] * (len(side.token_ids) - start))


def test_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(3, 1)))
    line = describe(read_documents(path, "text", option="mia_members"), "p.jsonl")
    assert line == "p.jsonl: 3 preferences (preference: a chosen and a rejected answer), as texts"
