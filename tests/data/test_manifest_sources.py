"""Manifests whose classes have sources of their own (format 4): written, read, and rows found again by number and "
"hash."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from spvmia_plugin.data.manifest import (
    MANIFEST_NAME,
    ClassSource,
    content_hash,
    read_manifest,
    rebuild,
    unit_hash,
    write_manifest,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Record
from spvmia_plugin.trainers.building import Rendering, Written, build_manifest
from spvmia_plugin.trainers.declared import Reading, read_declared
from tests.tiny import tiny_texts

KEY = b"k" * 32


def rows(n, seed=1):
    return [{"text": text, "who": i // 2} for i, text in enumerate(tiny_texts(n, seed=seed))]


def saved(path, held):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in held))
    return str(path)


@pytest.fixture
def made(tmp_path):
    """A manifest of texts, and its files."""
    given = {
        "members": saved(tmp_path / "data" / "m.jsonl", rows(40)),
        "nonmembers": saved(tmp_path / "data" / "n.jsonl", rows(60, seed=2)),
        "candidate": saved(tmp_path / "data" / "c.jsonl", rows(9, seed=3)),
    }
    declared = read_declared(given, Reading("text", "auto", "who", False, tmp_path, KEY), seed=0)
    written = Written("trainer", "org/base", "lora", {"epochs": 1.0}, {}, {"data": "matched"}, 0)
    manifest = build_manifest(declared, Rendering("all", 64, end_token=True), written, None, KEY)
    (tmp_path / "out").mkdir()
    write_manifest(manifest, tmp_path / "out" / MANIFEST_NAME)
    return read_manifest(tmp_path / "out"), tmp_path


def test_it_survives_the_file(made):
    manifest, folder = made
    assert {name: len(of_class) for name, of_class in manifest.records.items()} == {
        "members": 40,
        "nonmembers": 44,
        "prompts": 16,  # of whole units: two rows each
        "canaries": 0,
        "candidate": 9,
    }
    write_manifest(manifest, folder / "again.json")
    assert read_manifest(folder / "again.json") == dataclasses.replace(manifest, path=None)
    assert (folder / "again.json").read_bytes() == (folder / "out" / MANIFEST_NAME).read_bytes()


def test_rows_are_found_by_number_and_held_against_their_hash(made):
    manifest, folder = made
    records, documents = rebuild(manifest, {})
    assert [each.text for each in records["members"]] == [row["text"] for row in rows(40)]
    assert [each.id for each in records["candidate"]] == [f"c.jsonl:{i}" for i in range(1, 10)]
    assert all(each.conversation == Conversation.of_text(each.text) for each in records["nonmembers"])
    assert len(documents["prompts"]) == 16
    path = folder / "data" / "m.jsonl"
    lines = path.read_text().splitlines()
    saved(path, [*rows(40)[:2], {"text": "secret words"}, *rows(40)[3:]])
    with pytest.raises(SpvmiaError, match=r"m\.jsonl: .*row 3 of the members has changed or gone") as caught:
        rebuild(manifest, {})
    assert "secret" not in str(caught.value)
    path.write_text("\n".join(lines[:30]) + "\n")
    with pytest.raises(SpvmiaError, match=r"rows 31, 32, 33, 34, 35 and 5 more of the members have changed or gone"):
        rebuild(manifest, {})


def test_a_changed_label_is_seen(made):
    manifest, _ = made
    moved = {"members": manifest.records["members"][1:], "nonmembers": manifest.records["nonmembers"]}
    marks = {**manifest.marks, "members": manifest.marks["members"][1:]}
    with pytest.raises(SpvmiaError, match="texts or labels differ from its fingerprint"):
        rebuild(dataclasses.replace(manifest, records={**manifest.records, **moved}, marks=marks), {})


def test_where_files_went(made):
    manifest, folder = made
    (folder / "data").rename(folder / "new")
    with pytest.raises(SpvmiaError, match=r"m\.jsonl, got no such file"):
        rebuild(manifest, {})
    assert rebuild(manifest, {}, str(folder / "new"))
    with pytest.raises(SpvmiaError, match=r"^mia_dataset_path: expected a folder with c\.jsonl, m\.jsonl, n\.jsonl"):
        rebuild(manifest, {}, str(folder / "new" / "m.jsonl"))
    one = ClassSource(str(folder / "gone.jsonl"), "text")
    only = {name: manifest.records[name] if name == "members" else () for name in manifest.records}
    marks = {name: manifest.marks[name] if name == "members" else () for name in manifest.marks}
    alone = dataclasses.replace(manifest, sources={"members": one}, records=only, marks=marks)
    with pytest.raises(SpvmiaError, match="texts or labels differ"):  # of other classes; the rows are found
        rebuild(alone, {}, str(folder / "new" / "m.jsonl"))


@pytest.mark.parametrize("key", ["sources", "marks", "weights", "trainer", "written_by", "data"])
def test_a_damaged_value_is_an_error(made, key):
    _, folder = made
    path = folder / "out" / MANIFEST_NAME
    told = json.loads(path.read_text())
    if key == "marks":
        del told["members"][0]["hash"]
    elif key == "data":
        told["data"]["end_token"] = "yes"
    elif key == "sources":
        del told["sources"]["prompts"]
    elif key == "weights":
        told["weights"] = 3
    else:
        del told[key]
    path.write_text(json.dumps(told))
    with pytest.raises(SpvmiaError, match="a value is missing or of another type"):
        read_manifest(path)


def test_hashes_depend_on_all_that_a_trainer_gets_and_on_the_key():
    def held(**changes):
        given = {"messages": ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), **changes}
        return Record("x", "a\nb", True, "x", (), Conversation(**given))

    key = KEY.hex()
    found = [
        content_hash(key, held()),
        content_hash("00" * 32, held()),
        content_hash(key, held(tools=({"name": "t"},))),
        content_hash(key, held(prompt=1)),
        content_hash(key, held(options={"thinking": True})),
        content_hash(key, Record("x", "a\nb", True, "x")),
    ]
    assert len(set(found)) == len(found)
    turned = ({"content": "a", "role": "user"}, {"content": "b", "role": "assistant"})
    assert content_hash(key, held(messages=turned)) == found[0]
    assert unit_hash(key, None) is None
    assert unit_hash(key, 3) == unit_hash(key, 3) != unit_hash(key, 4)
    assert Path(__file__).name not in found[0]
