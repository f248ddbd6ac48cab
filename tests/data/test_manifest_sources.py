"""Manifests whose classes have sources of their own (format 4): written, read, and rows found again by number and "
"hash."""

from __future__ import annotations

import dataclasses
import functools
import hmac
import json
from pathlib import Path

import pytest

from spvmia_plugin.checks.preconditions import check_preconditions
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.fingerprint import content_hash
from spvmia_plugin.data.load import load_audit_data
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.data.origin import ClassSource
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.units import Belonging, BelongingInClear, unit_hash, unit_name
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Record
from spvmia_plugin.trainers.building import NO_CUT, Rendering, Written, build_manifest
from spvmia_plugin.trainers.declared import Reading, read_declared
from tests.data.builders import NoTokenizer
from tests.tiny import tiny_texts

KEY = b"k" * 32


def rows(n, seed=1):
    return [{"text": text, "who": 1000 * seed + i // 2} for i, text in enumerate(tiny_texts(n, seed=seed))]


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


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("trainer", "notes"), 5, "trainer.notes"),
        (("trainer", "notes"), ["a", 5], "trainer.notes"),
        (("members", 0, "unit"), ["SECRET"], "members.unit"),
        (("nonmembers", 1, "hash"), 5, "nonmembers.hash"),
        (("sources", "members", "spec"), ["SECRET"], "sources.members.spec"),
        (("sources", "prompts", "column"), None, "sources.prompts.column"),
        (("weights",), ["SECRET"], "weights"),
    ],
)
def test_what_is_of_another_type_is_named(made, place, value, key):
    _, folder = made
    path = folder / "out" / MANIFEST_NAME
    told = json.loads(path.read_text())
    *way, last = place
    functools.reduce(lambda part, step: part[step], way, told)[last] = value
    path.write_text(json.dumps(told))
    with pytest.raises(SpvmiaError, match=rf"of another type \(expected .* as {key}, got .*\)") as caught:
        read_manifest(path)
    assert "SECRET" not in str(caught.value)


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
    assert Path(__file__).name not in found[0]


# Whose the records are
@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def declared_of(tmp_path, **who):
    """What is read of 40 members, 60 non-members and candidate rows, each with whose it is."""
    given = {}
    for seed, (name, n) in enumerate({"members": 40, "nonmembers": 60, "candidate": 9}.items(), 1):
        found = zip(rows(n, seed=seed), who.get(name, [f"{name} {i // 2}" for i in range(n)]), strict=True)
        given[name] = saved(tmp_path / "data" / f"{name}.jsonl", [{**row, "who": unit} for row, unit in found])
    return read_declared(given, Reading("text", "auto", "who", False, tmp_path, KEY), seed=0)


def written_of(tmp_path, **who):
    trainer = {"data": "matched", "unit_column": "who"}
    written = Written("trainer", "org/base", "lora", {"epochs": 1.0}, {}, trainer, 0)
    return build_manifest(declared_of(tmp_path, **who), Rendering("all", NO_CUT), written, None, KEY)


@pytest.mark.parametrize("value", ["p1", " p1\t", 7, 7.0, "7"])
def test_a_unit_has_one_name_wherever_it_is_read(tmp_path, value):
    manifest = written_of(tmp_path, members=[value] * 40)
    key = bytes.fromhex(manifest.fingerprint_key)
    (unit,) = {mark.unit for mark in manifest.marks["members"]}
    assert unit_name(unit) == Belonging("who", key=key).unit_of(value)
    # What manifests of earlier versions hold of a unit that was written cleanly.
    assert unit == hmac.digest(key, f"unit\0{str(value).strip().removesuffix('.0')}".encode(), "sha256").hex()
    assert unit == unit_hash(key, BelongingInClear("who").unit_of(value))


@pytest.mark.parametrize("name", ["members", "candidate"])
@pytest.mark.parametrize(
    ("unit", "got"), [(None, "nothing"), ("", "nothing"), (" ", "white space"), (["a"], "a list"), ({"a": 1}, "a dict")]
)
def test_a_row_without_a_unit_is_refused_with_its_number(tmp_path, name, unit, got):
    n = {"members": 40, "candidate": 9}[name]
    units = [f"{name} {i}" for i in range(n)]
    with pytest.raises(
        SpvmiaError,
        match=rf"^{name}=: .*{name}\.jsonl, row 3: expected a text or a whole number in .*'who', got {got};",
    ):
        declared_of(tmp_path, **{name: [*units[:2], unit, *units[3:]]})


@pytest.mark.parametrize("others", ["p1", "p1 "])
def test_a_unit_in_both_classes_is_refused_before_anything_is_trained(tmp_path, others):
    with pytest.raises(
        SpvmiaError,
        match=r"^unit_column: expected each unit of column 'who' in one class, got 1 that stand in both, with 40 rows "
        "of the members and 60 of",
    ) as caught:
        declared_of(tmp_path, members=["p1"] * 40, nonmembers=[others] * 60)
    assert "p1" not in str(caught.value)


def test_whole_numbers_are_one_unit_however_a_table_wrote_them(tmp_path):
    with pytest.raises(SpvmiaError, match="got 3 that stand in both"):
        declared_of(tmp_path, members=[i % 3 for i in range(40)], nonmembers=[float(i % 3) for i in range(60)])


def test_no_unit_shows_in_what_is_declared(tmp_path):
    declared = declared_of(tmp_path)
    assert declared.sides["members"].documents[0].unit == "members 0"
    assert "members 0" not in repr(declared)


# What an audit makes of them
def audited(manifest, folder, **options):
    write_manifest(manifest, folder / MANIFEST_NAME)
    config = AuditConfig.from_metadata({f"mia_{name}": value for name, value in options.items()})
    return load_audit_data(config, "custom", registry=None, tokenizer=NoTokenizer(), target_dirs=[folder])


def test_candidate_rows_of_units_that_are_used_are_left_out_and_counted(tmp_path):
    """A candidate reference that has learnt a person calibrates that person away."""
    manifest = written_of(tmp_path, candidate=["members 3"] * 4 + ["nonmembers 5 "] * 2 + ["other"] * 3)
    data = audited(manifest, tmp_path)
    assert len(data.candidate) == 3
    assert data.provenance["counts"]["candidate_of_used_units"] == 6
    assert data.unit_column == "who"
    untouched = audited(written_of(tmp_path), tmp_path)
    assert len(untouched.candidate) == 9
    assert untouched.provenance["counts"]["candidate_of_used_units"] == 0
    assert audited(manifest, tmp_path, candidate="none").candidate == ()


def test_candidate_rows_of_such_units_alone_are_refused(tmp_path):
    with pytest.raises(
        SpvmiaError, match=r"^mia_manifest: .*: expected candidate rows of units that are used for nothing else, got 9"
    ):
        audited(written_of(tmp_path, candidate=["members 3"] * 9), tmp_path)


def test_another_candidate_file_is_held_against_the_units_of_the_manifest(tmp_path):
    manifest = written_of(tmp_path)
    path = saved(
        tmp_path / "data" / "other.jsonl", [{**row, "who": f"members {i}"} for i, row in enumerate(rows(30, 9))]
    )
    data = audited(manifest, tmp_path, candidate=path)
    assert data.provenance["counts"]["candidate_of_used_units"] == 20
    assert len(data.candidate) == 10


def test_an_older_manifest_with_rows_of_nobody_loads_and_is_known_by_that(tmp_path):
    """It has no name of the column, and some of its rows no unit: the audit says so in place of a number by unit."""
    manifest = written_of(tmp_path)
    marks = {name: tuple(marks) for name, marks in manifest.marks.items()}
    first, *others = marks["members"]
    older = dataclasses.replace(
        manifest,
        trainer={"data": "matched"},
        marks={**marks, "members": (dataclasses.replace(first, unit=None), *others)},
    )
    data = audited(older, tmp_path)
    assert (data.unit_column, [record.unit for record in data.members].count(None)) == ("unit", 1)
    (finding,) = (each for each in check_preconditions(data) if each.code == "units_incomplete")
    assert finding.details["count"] == 1
    # Whose the rows of another file are cannot be told without the column's name.
    other = saved(tmp_path / "data" / "other.jsonl", [{"text": row["text"]} for row in rows(30, 9)])
    assert len(audited(older, tmp_path, candidate=other).candidate) == 30
