"""Manifests of conversations tell all that a row holds; of earlier versions what is said, and the audit says so."""

from __future__ import annotations

import copy
import dataclasses
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.checks.preconditions import check_preconditions
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.fingerprint import fingerprint, held_by
from spvmia_plugin.data.from_manifest import of_manifest
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, manifest_fingerprint, read_manifest, write_manifest
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.data.packing import whole_documents
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import read_documents
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Conversation, Record
from spvmia_plugin.trainers.building import Rendering, Written, build_manifest
from spvmia_plugin.trainers.declared import Reading, read_declared
from tests.data.families import family_tokenizer
from tests.tiny import tiny_texts

KEY = "ab" * 32
TOOLS = [{"type": "function", "function": {"name": "price"}}]
Row = dict[str, Any]
Edit = Callable[[list[Row]], None]


def chats() -> list[Row]:
    texts = iter(tiny_texts(4 * 60, seed=3, words=(3, 7)))
    roles = ("user", "assistant", "user", "assistant")
    return [{"messages": [{"role": role, "content": next(texts)} for role in roles]} for _ in range(60)]


def preferences(seed: int) -> list[Row]:
    texts = iter(tiny_texts(75, seed=seed, words=(3, 9)))
    return [{"prompt": next(texts), "chosen": f" {next(texts)}", "rejected": f" {next(texts)}"} for _ in range(25)]


def changed(folder: Path, edit: Edit) -> None:
    """The rows of `of_chats` in the folder, edited."""
    rows = chats()
    edit(rows)
    saved(folder / "chat.jsonl", rows)


def saved(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of_chats(folder: Path) -> Manifest:
    """A manifest as `spvmia finetune` writes it: 20 rows of each class, of which the second canary was left out."""
    data = saved(folder / "chat.jsonl", chats())
    found = whole_documents(read_documents(data, "text", option="--data").documents).records
    classes = {"members": found[:22], "nonmembers": found[22:44], "prompts": found[44:58], "canaries": found[58:]}
    records = {
        name: tuple(
            dataclasses.replace(record, is_member=name == "members" or (name == "canaries" and i == 0))
            for i, record in enumerate(of_class)
        )
        for name, of_class in classes.items()
    }
    origin = DataOrigin(str(data), "text", 0, "random", 0, "messages", "completion", 200)
    mark = manifest_fingerprint(KEY, records)
    return Manifest("org/base", "lora", origin, {"epochs": 1.0}, {}, records, KEY, mark)


def of_before(manifest: Manifest, folder: Path) -> Manifest:
    """The same as versions before format 5 wrote it: the fingerprint of what is said, no hash of a rejected answer."""
    labels = {"members": "member", "nonmembers": "nonmember", "prompts": "prompt", "candidate": "candidate"}
    held = (
        (labels.get(name) or f"canary {record.is_member}", record.text)
        for name, of_class in manifest.records.items()
        for record in of_class
    )
    key = bytes.fromhex(manifest.fingerprint_key)
    path = folder / MANIFEST_NAME
    write_manifest(dataclasses.replace(manifest, fingerprint=fingerprint(key, held)), path)
    told = json.loads(path.read_text())
    told["format"] = 4 if manifest.sources else 3
    for name in manifest.sources:
        for row, record in zip(told[name], manifest.records[name], strict=True):
            row["hash"] = hmac.digest(key, content_of_before(record).encode(), "sha256").hex()
    path.write_text(json.dumps(told))
    return read_manifest(path)


def content_of_before(record: Record) -> str:
    held = record.conversation
    assert held is not None
    told = [list(held.messages), held.prompt, held.plain, held.tools, held.options]
    return f"conversation\0{json.dumps(told, sort_keys=True)}"


def read_written(manifest: Manifest, folder: Path) -> Manifest:
    write_manifest(manifest, folder / MANIFEST_NAME)
    return read_manifest(folder)


def audited(manifest: Manifest) -> AuditData:
    config = AuditConfig.from_metadata({}, {})
    return of_manifest(manifest, config, {}, lambda: family_tokenizer("chatml"))


def a_turn(rows: list[Row]) -> None:
    rows[0]["messages"] += [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "More."}]


def a_turn_of_every_nonmember(rows: list[Row]) -> None:
    for row in rows[22:44]:
        row["messages"].append({"role": "assistant", "content": "7 40 blue"})


def a_sentence(rows: list[Row]) -> None:
    rows[3]["messages"][-1]["content"] += " And one more."


def a_blank(rows: list[Row]) -> None:
    rows[3]["messages"][-1]["content"] += " "


def a_call(rows: list[Row]) -> None:
    rows[3]["messages"][-1]["tool_calls"] = [{"function": {"name": "price", "arguments": {}}}]


def a_role(rows: list[Row]) -> None:
    rows[59]["messages"][0]["role"] = "system"


def all_roles(rows: list[Row]) -> None:
    for message in (each for row in rows for each in row["messages"]):
        message["role"] = {"user": "assistant", "assistant": "user"}[message["role"]]


def tools(rows: list[Row]) -> None:
    rows[0]["tools"] = TOOLS


def no_tools(rows: list[Row]) -> None:
    """An empty list: Llama 3.1's template prints another system turn for it than for none."""
    rows[0]["tools"] = []


def options(rows: list[Row]) -> None:
    rows[0]["chat_template_kwargs"] = {"enable_thinking": False}


def a_border(rows: list[Row]) -> None:
    first, second, *others = rows[50]["messages"]
    rows[50]["messages"] = [{**first, "content": f"{first['content']}\n{second['content']}"}, *others]


GROWN = [a_turn, a_turn_of_every_nonmember, a_sentence, a_blank, a_call]
SAYS_THE_SAME = [a_role, all_roles, tools, no_tools, options, a_border]


@pytest.mark.parametrize("edit", [*GROWN, *SAYS_THE_SAME], ids=lambda edit: edit.__name__)
def test_whatever_has_changed_about_a_row_is_refused(tmp_path: Path, edit: Edit) -> None:
    manifest = read_written(of_chats(tmp_path), tmp_path)
    changed(tmp_path, edit)
    with pytest.raises(SpvmiaError, match=r"^mia_manifest: .*conversations or labels differ from its fingerprint; res"):
        rebuild(manifest, {})


def test_what_stands_otherwise_and_holds_the_same_is_no_change(tmp_path: Path) -> None:
    manifest = read_written(of_chats(tmp_path), tmp_path)
    rows = [
        {"tools": None, "messages": [dict(reversed([*message.items(), ("name", None)])) for message in row["messages"]]}
        for row in chats()
    ]
    saved(tmp_path / "chat.jsonl", rows)
    records, _ = rebuild(manifest, {})
    assert [len(of_class) for of_class in records.values()] == [22, 22, 14, 2]
    data = audited(manifest)
    assert "not_in_manifest" not in data.provenance
    assert "manifest_holds_less" not in {finding.code for finding in check_preconditions(data)}


def test_it_is_of_a_format_of_its_own_and_one_of_text_is_not(tmp_path: Path) -> None:
    manifest = of_chats(tmp_path)
    read_written(manifest, tmp_path)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["format"] == 5
    texts = {name: tuple(without(each) for each in of_class) for name, of_class in manifest.records.items()}
    origin = DataOrigin(manifest.data.spec, "text", 0, "random", 0)
    assert dataclasses.replace(manifest, data=origin, records=texts).to_json()["format"] == 1
    # Nobody's texts are other data than before.
    assert manifest_fingerprint(KEY, texts) == manifest_fingerprint(KEY, texts, by_words=True)
    ended = [dataclasses.replace(each, conversation=Conversation.of_text(each.text)) for each in texts["members"]]
    assert list(map(held_by, ended)) == [each.text for each in texts["members"]]


def without(record: Record) -> Record:
    return dataclasses.replace(record, conversation=None)


# Of earlier versions


def test_one_of_an_earlier_version_is_read_and_the_audit_says_what_it_does_not_hold(tmp_path: Path) -> None:
    manifest = of_before(of_chats(tmp_path), tmp_path)
    assert len(rebuild(manifest, {})[0]["members"]) == 22
    write_manifest(manifest, tmp_path / "again.json")
    assert read_manifest(tmp_path / "again.json") == manifest
    (found,) = [each for each in check_preconditions(audited(manifest)) if each.code == "manifest_holds_less"]
    assert found.severity == "note"
    assert "does not hold roles, borders of turns, tools or options of the chat template: whether" in found.message


@pytest.mark.parametrize("edit", GROWN, ids=lambda edit: edit.__name__)
def test_one_of_an_earlier_version_notices_rows_that_say_more(tmp_path: Path, edit: Edit) -> None:
    manifest = of_before(of_chats(tmp_path), tmp_path)
    changed(tmp_path, edit)
    with pytest.raises(SpvmiaError, match=r"^mia_manifest: .*chat\.jsonl: .* but row \d+ is longer; restore the file"):
        rebuild(manifest, {})


def test_what_is_refused_of_other_words_is_refused_of_one_of_an_earlier_version(tmp_path: Path) -> None:
    manifest = of_before(of_chats(tmp_path), tmp_path)
    rows = chats()
    rows[5]["messages"][1]["content"] = rows[5]["messages"][1]["content"].swapcase()
    saved(tmp_path / "chat.jsonl", rows)
    with pytest.raises(SpvmiaError, match="conversations or labels differ from its fingerprint"):
        rebuild(manifest, {})


# With sources


def declared(folder: Path, **rows: list[Row]) -> Manifest:
    """A manifest as `spvmia manifest` and the callback make it."""
    given = {name: str(saved(folder / f"{name}.jsonl", of_class)) for name, of_class in rows.items()}
    found = read_declared(given, Reading("text", "auto", None, False, folder, b"k" * 32), seed=0)
    written = Written("trainer", "org/base", "lora", {"epochs": 1.0}, {}, {"data": "matched"}, 0)
    return build_manifest(found, Rendering("completion", 400), written, None, b"k" * 32)


@pytest.fixture
def pairs(tmp_path: Path) -> Manifest:
    return declared(tmp_path, members=preferences(0), nonmembers=preferences(1), prompts=preferences(2))


def other_rejected(folder: Path) -> None:
    rows = copy.deepcopy(preferences(0))
    for row in rows[:3]:
        row["rejected"] = " completely other words"
    saved(folder / "members.jsonl", rows)


def test_a_rejected_answer_is_a_part_of_the_row(pairs: Manifest, tmp_path: Path) -> None:
    manifest = read_written(pairs, tmp_path)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["format"] == 5
    assert len(rebuild(manifest, {})[0]["members"]) == 25
    before = audited(manifest).fingerprint
    other_rejected(tmp_path)
    with pytest.raises(SpvmiaError, match="rows 1, 2, 3 of the members have changed or gone"):
        rebuild(manifest, {})
    assert audited(of_before(pairs, tmp_path)).fingerprint != before


def test_one_of_preferences_of_an_earlier_version_says_that_it_has_the_chosen_side_alone(
    pairs: Manifest, tmp_path: Path
) -> None:
    manifest = of_before(pairs, tmp_path)
    assert manifest.by_words
    other_rejected(tmp_path)
    data = audited(manifest)
    (found,) = [each for each in check_preconditions(data) if each.code == "manifest_holds_less"]
    assert "does not hold rejected answers: whether" in found.message
    rows = preferences(0)
    rows[4]["chosen"] += "!"
    saved(tmp_path / "members.jsonl", rows)
    with pytest.raises(SpvmiaError, match="row 5 of the members has changed or gone"):
        rebuild(manifest, {})


def test_one_of_messages_with_sources_of_an_earlier_version_held_everything(tmp_path: Path) -> None:
    rows = chats()
    made = declared(tmp_path, members=rows[:20], nonmembers=rows[20:40], prompts=rows[40:])
    manifest = of_before(made, tmp_path)
    assert manifest.by_words
    assert "not_in_manifest" not in audited(manifest).provenance
    tools(rows)
    saved(tmp_path / "members.jsonl", rows[:20])
    for each in (manifest, read_written(made, tmp_path)):
        with pytest.raises(SpvmiaError, match="row 1 of the members has changed or gone"):
            rebuild(each, {})
