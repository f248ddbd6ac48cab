"""What is declared: data sets in memory, and input that cannot be right."""

from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path

import pytest

from spvmia_plugin import MembershipManifest
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.trainers import places

from .conftest import chats, pairs, texts, written

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def test_a_column_that_is_called_otherwise(tmp_path):
    made = {name: [{"body": row["text"]} for row in texts(60, seed)] for name, seed in (("m", 1), ("n", 2))}
    named = [written(tmp_path / f"{name}.jsonl", rows) for name, rows in made.items()]
    with pytest.raises(SpvmiaError, match=r"expected a column 'text', got 'body'; .* text_column= of the trainer's"):
        MembershipManifest(*named)
    assert MembershipManifest(*named, text_column="body")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"members": None},
            "members=: expected a file, hf:NAME or datasets.Dataset of records that are trained on, got",
        ),
        ({"nonmembers": None}, "nonmembers=: expected a file, hf:NAME or datasets.Dataset of records like them that"),
        ({"nonmembers": "same"}, "members=: {0}, row 1: expected a column 'label', got 'messages'"),
        ({"nonmembers": "copy"}, "nonmembers=: copy.jsonl:1 is the same text as members.jsonl:1 of the members"),
        ({"prompts": "some"}, "prompts=: some.jsonl:1 is the same text as nonmembers.jsonl:1 of the nonmembers"),
        ({"nonmembers": "texts"}, "nonmembers=: expected rows of the format messages as the members are, got text"),
        ({"members": "few"}, "members=: expected at least 20 different records, got 7"),
        ({"nonmembers": "few"}, "nonmembers=: expected at least 20 different records beside the prompts, got 6"),
        ({"members": "nowhere.jsonl"}, "members=: "),
        ({"members": 7}, "members=: expected a file, a folder, a pattern, hf:NAME or a datasets.Dataset"),
        ({"members": ["a.jsonl", "b.jsonl"]}, "members=: expected a file, a folder, a pattern, hf:NAME"),
        ({"members": "stream"}, "members=: expected data that can be read twice, got a stream (IterableDataset)"),
        ({"format": "chat"}, "format=: expected one of auto, text"),
        ({"loss_on": "answers"}, "loss_on=: expected one of auto, all, completion, got 'answers'"),
    ],
)
def test_bad_input(split, tmp_path, change, expected):
    rows = chats(90)
    members, nonmembers = split(rows)
    given = {"members": members, "nonmembers": nonmembers, **change}
    if "stream" in change.values():
        from datasets import IterableDataset

        given["members"] = IterableDataset.from_generator(lambda: iter(rows[:30]))
    made = {
        "same": lambda: members,
        "copy": lambda: written(tmp_path / "copy.jsonl", rows[:30]),
        "some": lambda: written(tmp_path / "some.jsonl", rows[30:50]),
        "texts": lambda: written(tmp_path / "texts.jsonl", texts(60)),
        "few": lambda: written(tmp_path / "few.jsonl", chats(8, seed=9)[:7]),
    }
    for name, value in given.items():
        if isinstance(value, str) and value in made:
            given[name] = made[value]()
    with pytest.raises(SpvmiaError) as caught:
        MembershipManifest(**given)
    assert str(caught.value).startswith(expected.format(members))
    assert "\n" not in str(caught.value)


def test_data_sets_in_memory_are_kept_for_their_owner_outside_of_the_output(sft, tmp_path, capsys):
    from datasets import Dataset

    rows = chats(90)
    data = Dataset.from_list(rows).train_test_split(test_size=60, seed=1)
    sft(data["train"].to_list(), [MembershipManifest(data["train"], data["test"], strict=True)])
    manifest = read_manifest(tmp_path / "out")
    records, _ = rebuild(manifest, {})
    assert [list(each.conversation.messages) for each in records["members"]] == data["train"]["messages"]
    kept = [Path(source.spec) for source in manifest.sources.values()]
    assert len(set(kept)) == 2
    for path in kept:
        assert path.parent == tmp_path / "data" / "spvmia" / "rows"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert f"kept for the audit in {path} (0600)" in capsys.readouterr().err or path != kept[0]
    said = rows[0]["messages"][1]["content"]
    assert not [path for path in (tmp_path / "out").rglob("*.json*") if said in path.read_text()]


def test_a_data_set_on_disk_is_named_with_its_rows_there(sft, tmp_path, monkeypatch):
    from datasets import Dataset, load_from_disk

    rows = texts(90)
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    data = load_from_disk(tmp_path / "saved").shuffle(seed=3)
    members, nonmembers = data.select(range(30)), data.select(range(30, 90))
    sft(members.to_list(), [MembershipManifest(members, nonmembers, strict=True)])
    manifest = read_manifest(tmp_path / "out")
    assert {source.spec for source in manifest.sources.values()} == {
        str(next((tmp_path / "saved").glob("data-*.arrow")))
    }
    assert not (tmp_path / "data" / "spvmia" / "rows").exists()
    records, _ = rebuild(manifest, {})
    assert [each.text for each in records["members"]] == list(members["text"])
    assert {each.text for each in records["nonmembers"]} | {each.text for each in records["prompts"]} == set(
        nonmembers["text"]
    )


def test_a_slice_whose_place_in_its_file_nobody_knows_is_kept(tmp_path, monkeypatch):
    from datasets import Dataset, load_from_disk

    Dataset.from_list(texts(90)).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    data = load_from_disk(tmp_path / "saved")
    data = data.select(range(30, 90))  # one piece of the table: no indices
    made = MembershipManifest(data.select(range(30)), data.select(range(30, 60)))
    for side in made._declared.sides.values():
        found = side.lines is not None
        spec = Path(side.source.spec)
        assert found == (spec.suffix == ".jsonl")
        for document in side.documents:
            if found:
                assert json.loads(side.lines[int(document.id.rpartition(":")[2]) - 1])["text"] == document.text


def test_prompts_and_completions_in_memory(tmp_path):
    from datasets import Dataset

    made = MembershipManifest(Dataset.from_list(pairs(30)), Dataset.from_list(pairs(40, seed=5)))
    assert made._declared.kind == "prompt_completion"
    with pytest.raises(SpvmiaError, match=r"^members=: the data set: expected a column 'text', got 'question'"):
        MembershipManifest(Dataset.from_list([{"question": "a"}] * 30), Dataset.from_list(pairs(40, seed=5)))


def test_equal_rows_of_one_side_count_once(split):
    rows = texts(90)
    made = MembershipManifest(*split([*rows[:30], *rows[:10], *rows[30:]], 40))
    side = made._declared.sides["members"]
    assert (len(side.documents), side.duplicates) == (30, 10)


def test_folders_are_those_of_platformdirs(monkeypatch, tmp_path):
    import platformdirs

    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable)
    assert str(places.cache_folder()) == platformdirs.user_cache_dir("spvmia")
    assert str(places.data_folder()) == platformdirs.user_data_dir("spvmia")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(places.cache_folder()) == platformdirs.user_cache_dir("spvmia")


def test_a_folder_that_cannot_be_made(split, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpvmiaError, match=r"^(data_dir|mia_cache_dir): expected a folder that can be written"):
        MembershipManifest(*split(texts(90)), data_dir=tmp_path / "file" / "x")


def test_one_key_for_one_user(split):
    rows = texts(90)
    members, nonmembers = split(rows)
    one, other = MembershipManifest(members, nonmembers), MembershipManifest(members, nonmembers)
    assert one._key == other._key
    assert stat.S_IMODE((places.cache_folder() / "fingerprint.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {4: float("nan")},
            "members=: the data set, row 5: expected a text or a whole number in column 'who', got nothing",
        ),
        ({9: None}, "members=: the data set, row 10: expected a text or a whole number in column 'who', got nothing"),
        (
            {9: 100.0},
            "unit_column: expected each unit of column 'who' in one class, got 1 that stand in both, with 1 row",
        ),
    ],
)
def test_units_of_data_sets_in_memory(change, expected):
    from datasets import Dataset

    rows = texts(90)
    who = [change.get(i, float(i // 3)) for i in range(30)]
    members = Dataset.from_dict({"text": [row["text"] for row in rows[:30]], "who": who})
    nonmembers = Dataset.from_list([{**row, "who": 100 + i // 3} for i, row in enumerate(rows[30:])])
    with pytest.raises(SpvmiaError) as caught:
        MembershipManifest(members, nonmembers, unit_column="who")
    assert str(caught.value).startswith(expected)


def test_rows_that_are_kept_do_not_say_whose_they_are(tmp_path):
    from datasets import Dataset

    rows = [{**row, "who": f"SECRET-{i // 3}"} for i, row in enumerate(texts(90))]
    callback = MembershipManifest(Dataset.from_list(rows[:30]), Dataset.from_list(rows[30:]), unit_column="who")
    kept = callback._declared.keep_rows()
    assert len(kept) >= 2
    assert not any("SECRET" in path.read_text() for path in kept)


@pytest.mark.parametrize("unit_column", [None, "who", "text"])
def test_rows_that_are_kept_have_their_group(tmp_path, unit_column):
    """Of those that are audited; whom they belong to is kept as a hash alone, unless it is the text itself."""
    from datasets import Dataset

    rows = [{**row, "who": f"SECRET-{i // 3}", "lang": "de" if i % 6 < 3 else "en"} for i, row in enumerate(texts(120))]
    held_out = [{"text": row["text"], "who": row["who"]} for row in rows[90:]]
    sides = [Dataset.from_list(each) for each in (rows[:30], rows[30:90], held_out)]
    callback = MembershipManifest(*sides, unit_column=unit_column, group_column="lang")
    for path in callback._declared.keep_rows():
        kept = [json.loads(line) for line in path.read_text().splitlines()]
        expected = {"text"} if path.name.startswith("prompts") else {"text", "lang"}
        assert {frozenset(row) for row in kept} == {frozenset(expected)}
    if unit_column == "who":
        with pytest.raises(SpvmiaError, match="members=: the data set: expected a column 'region'"):
            MembershipManifest(*sides, group_column="region")
        nobody = Dataset.from_list([{**row, "lang": None if i == 3 else "de"} for i, row in enumerate(rows[:30])])
        with pytest.raises(SpvmiaError, match=r"members=: the data set, row 4: .*'lang'"):
            MembershipManifest(nobody, *sides[1:], group_column="lang")
