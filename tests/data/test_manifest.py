from __future__ import annotations

import dataclasses
import functools
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.data.fingerprint import derived_key, fingerprint, user_key
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, manifest_fingerprint, read_manifest, write_manifest
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import read_documents
from spvmia_plugin.data.split import Packer, deal
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Record
from tests.data.builders import corpus, documents, word_tokenize
from tests.tiny import tiny_texts

KEY = "ab" * 32


def make_manifest(
    data: Path, n_documents: int = 200, *, pool: Sequence[Document] | None = None, **changes: Any
) -> tuple[Manifest, dict[str, tuple[Record, ...]]]:
    """A manifest over `data`, which holds `pool` or a corpus of `n_documents`, and the records it names."""
    wanted = {"members": 25, "nonmembers": 24, "prompts": 10, "canaries": 8}
    pool = pool or documents(tiny_texts(n_documents), data.name)
    dealt, _ = deal(pool, Packer(16, word_tokenize), wanted, seed=0)
    dealt["canaries"] = tuple(dataclasses.replace(r, is_member=i % 2 == 0) for i, r in enumerate(dealt["canaries"]))
    manifest = Manifest(
        base_model="org/base",
        method="lora",
        data=DataOrigin(str(data), "text", 16, "random", 0),
        settings={"epochs": 10.0},
        versions={"torch": "2"},
        records=dealt,
        fingerprint_key=KEY,
        fingerprint=manifest_fingerprint(KEY, dealt),
        training={"losses": [1.0]},
    )
    return dataclasses.replace(manifest, **changes), dealt


def read_written(manifest: Manifest, folder: Path) -> Manifest:
    write_manifest(manifest, folder / MANIFEST_NAME)
    return read_manifest(folder)


def test_a_manifest_survives_the_file_and_is_private(tmp_path: Path) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    path = tmp_path / MANIFEST_NAME
    write_manifest(manifest, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert next(iter(json.loads(path.read_text()))) == "PRIVATE"
    assert "do not publish" in path.read_text().splitlines()[1]
    bare = {name: tuple(dataclasses.replace(r, text="") for r in records) for name, records in manifest.records.items()}
    assert read_manifest(path) == dataclasses.replace(manifest, records=bare)
    assert read_manifest(tmp_path).path == path
    assert KEY not in repr(manifest)


@pytest.mark.parametrize("spec", ["data", "data/*.jsonl"])
def test_a_manifest_of_shards_finds_every_text_again(tmp_path: Path, spec: str) -> None:
    """Rows of different shards have the same number, in ids; pieces count them through."""
    (tmp_path / "data").mkdir()
    for number in range(4):
        corpus(tmp_path / "data" / f"{number}.jsonl", 50, seed=number)
    pool = read_documents(tmp_path / spec, "text", option="--data").documents
    manifest, dealt = make_manifest(tmp_path / spec, pool=pool)
    assert {entry.id.partition(":")[0] for entry in manifest.records["members"]} == {f"data/{n}.jsonl" for n in "0123"}
    rebuilt, _ = rebuild(manifest, {})
    assert {name: tuple(records) for name, records in rebuilt.items()} == dealt
    corpus(tmp_path / "data" / "00.jsonl", 5, seed=9)
    with pytest.raises(SpvmiaError, match="expected the data the target was fine-tuned on, but "):
        rebuild(manifest, {})


def test_rewriting_keeps_the_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    path = tmp_path / MANIFEST_NAME
    path.write_text("old")
    path.chmod(0o644)
    write_manifest(manifest, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_texts_are_rebuilt_without_a_tokenizer(tmp_path: Path) -> None:
    manifest, dealt = make_manifest(corpus(tmp_path / "d.jsonl", 200))
    rebuilt, whole = rebuild(read_written(manifest, tmp_path), {})
    assert {name: tuple(records) for name, records in rebuilt.items()} == dealt
    rows = {piece.row for block in dealt["members"] for piece in block.pieces}
    assert {d.id for d in whole["members"]} == {f"d.jsonl:{row}" for row in rows}


def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    manifest, dealt = make_manifest(corpus(tmp_path / "d.jsonl", 200))
    write_manifest(manifest, tmp_path / MANIFEST_NAME)
    written = (tmp_path / MANIFEST_NAME).read_text()
    for word in dealt["members"][0].text.split()[1:]:
        assert f" {word} " not in written


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "it cannot be read as JSON"),
        ("[]", "it has no 'fingerprint_key'"),
        ('{"a": 1}', "it has no 'fingerprint_key'"),
        ('{"fingerprint_key": "", "format": 9}', "expected format 1, 2, 3, 4 or 5, got 9; use the version"),
        ('{"fingerprint_key": "", "format": 1}', "a value is missing or of another type (KeyError)"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(content)
    with pytest.raises(SpvmiaError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"mia_manifest: {path}: expected")
    assert expected in str(caught.value)


@pytest.mark.parametrize("key", ["members", "data", "fingerprint_key", "canaries"])
def test_a_damaged_value_is_an_error(tmp_path: Path, key: str) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    path = tmp_path / MANIFEST_NAME
    content = manifest.to_json() | {key: [{"id": "x"}]}
    path.write_text(json.dumps(content))
    with pytest.raises(SpvmiaError, match="a value is missing or of another type"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        *((("data", "spec"), value, "data.spec") for value in (5, None, ["a"])),
        *((("data", key), 5, f"data.{key}") for key in ("column", "split", "template")),
        (("data", "block_size"), "16", "data.block_size"),
        (("data", "block_size"), -16, "data.block_size"),
        *(((key,), 5, key) for key in ("base_model", "method", "fingerprint", "tokenizer", "frame", "settings")),
        *(((key,), [], key) for key in ("base_model", "versions", "training")),
        (("frame",), {"before": ["1"], "after": []}, "frame.before"),
        (("frame",), {"before": [], "after": 5}, "frame.after"),
        (("settings",), {"canary_kind": ["a"]}, "settings.canary_kind"),
        (("members", 0, "pieces"), [], "members.pieces"),
        (("nonmembers", 3, "pieces"), [["1", 0, 9]], "nonmembers.pieces"),
        (("prompts", 0, "pieces"), [[1.5, 0, 9]], "prompts.pieces"),
        (("canaries", 0, "text"), ["SECRET"], "canaries.text"),
    ],
)
def test_what_is_of_another_type_is_named(tmp_path: Path, place: tuple[Any, ...], value: Any, key: str) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    content = json.loads(json.dumps(manifest.to_json()))
    *way, last = place
    functools.reduce(lambda part, step: part[step], way, content)[last] = value
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(SpvmiaError) as caught:
        read_manifest(tmp_path)
    assert f" as {key}" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("spec", ["x" * 5000, "a\0b", "~nobody-of-that-name/d.jsonl", "shards/\ud800*.jsonl"])
def test_data_at_a_place_that_cannot_be(tmp_path: Path, spec: str) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    manifest = dataclasses.replace(manifest, data=dataclasses.replace(manifest.data, spec=spec))
    with pytest.raises(SpvmiaError, match=r"^mia_manifest: .*: expected a path as data.spec, .* got .*; name the data"):
        rebuild(read_written(manifest, tmp_path), {})


def test_no_manifest_there(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"mia_manifest: expected a manifest .* got no file at"):
        read_manifest(tmp_path / "x.json")


def test_a_moved_file_asks_for_its_new_place_and_is_found_there(tmp_path: Path) -> None:
    data = corpus(tmp_path / "d.jsonl", 200)
    manifest, dealt = make_manifest(data)
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(SpvmiaError, match=r"d.jsonl, got no such file; .* with mia_dataset_path"):
        rebuild(manifest, {})
    rebuilt, _ = rebuild(manifest, {}, str(tmp_path / "elsewhere.jsonl"))
    assert tuple(rebuilt["prompts"]) == dealt["prompts"]


def test_changed_data_are_refused(tmp_path: Path) -> None:
    data = corpus(tmp_path / "d.jsonl", 200)
    manifest, dealt = make_manifest(data)
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:50]))
    with pytest.raises(SpvmiaError, match=r"mia_manifest: .*d.jsonl: .* row \d+ is missing or shorter"):
        rebuild(manifest, {})
    row = dealt["nonmembers"][0].pieces[0].row
    lines[row - 1] = lines[row - 1].replace(" a", " b").replace(" the", " teh")
    data.write_text("".join(lines))
    with pytest.raises(SpvmiaError, match="texts or labels differ from its fingerprint"):
        rebuild(manifest, {})


def test_changed_labels_are_refused(tmp_path: Path) -> None:
    manifest, _ = make_manifest(corpus(tmp_path / "d.jsonl", 200))
    one, *others = manifest.records["canaries"]
    flipped = {**manifest.records, "canaries": (dataclasses.replace(one, is_member=not one.is_member), *others)}
    with pytest.raises(SpvmiaError, match="texts or labels differ"):
        rebuild(dataclasses.replace(manifest, records=flipped), {})
    records = manifest.records
    swapped = {**records, "members": records["nonmembers"], "nonmembers": records["members"]}
    with pytest.raises(SpvmiaError, match="texts or labels differ"):
        rebuild(dataclasses.replace(manifest, records=swapped), {})


def test_fingerprints_depend_on_texts_labels_and_key_and_not_on_order() -> None:
    entries = [("member", "a"), ("nonmember", "b")]
    base = fingerprint(b"k", entries)
    assert fingerprint(b"k", entries[::-1]) == base
    assert len(base) == 64
    others = [
        fingerprint(b"K", entries),
        fingerprint(b"k", [("nonmember", "a"), ("member", "b")]),
        fingerprint(b"k", [*entries, ("member", "a")]),
        fingerprint(b"k", [("member", "a"), ("nonmember", "c")]),
    ]
    assert len({base, *others}) == 5


def test_the_users_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "spvmia"
    key = user_key(root)
    assert user_key(root) == key
    assert len(key) == 32
    assert stat.S_IMODE((root / "fingerprint.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert user_key(tmp_path / "other") != key
    assert derived_key(key, "a") != derived_key(key, "b")


def test_a_bad_cache_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpvmiaError, match="mia_cache_dir: expected a folder that can be written, got"):
        user_key(tmp_path / "file")
    (tmp_path / "fingerprint.key").write_bytes(b"short")
    with pytest.raises(SpvmiaError, match=r"mia_cache_dir: expected 32 bytes in .*fingerprint.key, got 5; remove"):
        user_key(tmp_path)
