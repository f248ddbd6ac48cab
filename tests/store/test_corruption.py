"""Flipped bytes, cut files and half-written batches are found and never used."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spvmia_plugin.store.folders import MANIFEST
from spvmia_plugin.store.store import Store
from tests.store.samples import bits, build, paraphrases, signals, some_signals


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def database_of(store: Store) -> Path:
    (path,) = store.root.glob("entries-*.sqlite")
    return path


def tamper(store: Store, statement: str, *values: object) -> None:
    store.close()
    with closing(sqlite3.connect(database_of(store))) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


@pytest.mark.parametrize("column", ["key", "kind", "checksum", "value"])
def test_one_flipped_bit_of_an_entry_loses_that_entry_alone(store: Store, column: str) -> None:
    values = some_signals(store, 5)
    store.signals.put(values)
    store.close()
    victim = list(values)[2]
    with closing(sqlite3.connect(database_of(store))) as connection, connection:
        query = f"SELECT {column} FROM entries WHERE key = ?"
        ((old,),) = connection.execute(query, (bytes.fromhex(victim),)).fetchall()
        raw = bytearray(old.encode() if isinstance(old, str) else old)
        raw[len(raw) // 2] ^= 1
        new = raw.decode() if isinstance(old, str) else bytes(raw)
        connection.execute(f"UPDATE entries SET {column} = ? WHERE key = ?", (new, bytes.fromhex(victim)))
    found = store.signals.get(values)
    assert set(found) == set(values) - {victim}
    assert store.corrupt_count == (0 if column == "key" else 1)  # under another key it is just not found
    report = store.verify()
    assert report.checked["entries"] == (5 if column == "key" else 4)
    assert report.removed == (["entries: 1 damaged"] if column == "key" else [])
    store.signals.put({victim: values[victim]})
    assert len(store.signals.get(values)) == 5


@pytest.mark.parametrize("wrong", [None, 7, 0.5, "text", b""])
def test_a_value_of_another_type_counts_as_damaged(store: Store, wrong: object) -> None:
    values = some_signals(store, 2)
    store.signals.put(values)
    victim = next(iter(values))
    if wrong is None:  # the schema forbids it; a damaged file needn't care
        tamper(store, "UPDATE entries SET checksum = 1 WHERE key = ?", bytes.fromhex(victim))
    else:
        tamper(store, "UPDATE entries SET value = ? WHERE key = ?", wrong, bytes.fromhex(victim))
    assert set(store.signals.get(values)) == set(values) - {victim}
    assert store.corrupt_count == 1


def test_an_entry_moved_to_another_key_is_not_taken_for_it(store: Store) -> None:
    first, second = store.key("json", i=1), store.key("json", i=2)
    store.json.put({first: "first"})
    tamper(store, "UPDATE entries SET key = ?", bytes.fromhex(second))
    assert store.json.get([first, second]) == {}
    assert store.corrupt_count == 1


def test_a_sound_entry_of_an_unknown_layout_is_recomputed(store: Store) -> None:
    key = store.key("json", i=1)
    store._entries.put("neighbours", [(key, b'[["of a later version"],0,0]')])
    assert store.neighbours.get([key]) == {}
    assert store.corrupt_count == 1


def test_flips_anywhere_in_the_file_give_recomputing_and_never_a_wrong_value(tmp_path: Path) -> None:
    with Store(tmp_path / "sound") as sound:
        values = some_signals(sound, 60)
        sound.signals.put(values)
    draw = random.Random(0)
    noticed = 0
    for trial in range(24):
        root = tmp_path / f"trial{trial}"
        shutil.copytree(sound.root, root)
        with Store(root) as store:
            path = database_of(store)
            for _ in range(3):
                flip(path, draw.randrange(100 if trial % 3 == 0 else path.stat().st_size), draw.randrange(8))
            found = store.signals.get(values)
            store.signals.put({key: value for key, value in values.items() if key not in found})
            store.verify()
            found = store.signals.get(values)
            assert all(bits(values[key]) == bits(value) for key, value in found.items())
            store.signals.put({key: value for key, value in values.items() if key not in found})
            assert len(store.signals.get(values)) == len(values)
            noticed += store.corrupt_count > 0
    assert noticed >= 8


@pytest.mark.parametrize("content", [b"", None])
def test_a_file_that_was_cut_is_replaced(store: Store, content: bytes | None) -> None:
    values = some_signals(store, 20)
    store.signals.put(values)
    store.close()
    path = database_of(store)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    found = store.signals.get(values)
    assert all(bits(values[key]) == bits(value) for key, value in found.items())
    assert not store.verify().removed or store.corrupt_count
    assert store.corrupt_count >= 1
    store.signals.put(values)
    assert len(store.signals.get(values)) == 20
    assert len(list(store.root.glob("entries-*.sqlite"))) == 1
    assert os.stat(database_of(store)).st_mode & 0o777 == 0o600


def test_a_process_with_the_replaced_file_open_goes_over_to_the_new_one(store: Store) -> None:
    values = some_signals(store, 3)
    store.signals.put(values)
    old = database_of(store)
    with Store(store.root) as other:
        other._entries.database._replace(old)
        other.signals.put(values)
        assert len(store.signals.get(values)) == 3
        store.json.put({store.key("json", i=1): 1})
        store.close()
        assert other.json.get([store.key("json", i=1)])
        assert not old.exists()


def test_a_damaged_write_ahead_log_loses_transactions_and_nothing_else(store: Store) -> None:
    values = some_signals(store, 30)
    for key, value in values.items():
        store.signals.put({key: value})
    copy = store.root.parent / "copy"
    shutil.copytree(store.root, copy)  # as after a kill: with its log
    (log,) = copy.glob("*-wal")
    flip(log, log.stat().st_size // 2)
    with Store(copy) as again:
        found = again.signals.get(values)
        assert 0 < len(found) < 30
        assert all(bits(values[key]) == bits(value) for key, value in found.items())
        again.signals.put(values)
        assert len(again.signals.get(values)) == 30


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", MANIFEST, "missing", "cut", "added"]
)
def test_a_damaged_reference_is_removed(store: Store, name: str) -> None:
    key = store.key("references", a=1)
    folder = build(store, key)
    weights = folder / "adapter_model.safetensors"
    if name == "missing":
        weights.unlink()
    elif name == "cut":
        os.truncate(weights, 100)
    elif name == "added":
        (folder / "adapter_model.bin").write_bytes(b"not ours")
    else:
        flip(folder / name, (folder / name).stat().st_size // 2)
    assert store.find_folder("references", key) is None
    assert not folder.exists()
    assert store.corrupt_count == 1
    build(store, key)
    assert store.find_folder("references", key) == folder


def test_a_reference_under_another_key_is_not_taken_for_it(store: Store) -> None:
    folder, other = build(store, store.key("references", a=1)), store.key("references", a=2)
    shutil.copytree(folder, folder.with_name(other))
    assert store.find_folder("references", other) is None


def test_files_that_the_system_drops_do_not_cost_a_reference(store: Store) -> None:
    key = store.key("references", a=1)
    (build(store, key) / ".DS_Store").write_bytes(b"x")
    assert store.find_folder("references", key)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_batch_of_self_prompts_is_dropped(store: Store, damage: str) -> None:
    corpus = store.corpus(store.key("corpus", a=1))
    corpus.append({0: "a", 1: "b"})
    corpus.append({2: "c \u2028 \ud800 \x00", 3: "d"})
    assert corpus.load() == {0: "a", 1: "b", 2: "c \u2028 \ud800 \x00", 3: "d"}
    victim = sorted(corpus.folder.iterdir())[0]
    if damage == "flip":
        flip(victim, victim.stat().st_size - 4)
    else:
        os.truncate(victim, 0 if damage == "empty" else victim.stat().st_size - 5)
    assert set(corpus.load()) == {2, 3}
    assert not victim.exists()
    assert store.corrupt_count == 1
    corpus.append({0: "a", 1: "b"})
    assert set(corpus.load()) == {0, 1, 2, 3}


def test_a_batch_that_was_being_written_is_not_read(store: Store) -> None:
    corpus = store.corpus(store.key("corpus", a=1))
    corpus.append({0: "a"})
    (corpus.folder / ".spvmia-tmp-0123").write_bytes(next(corpus.folder.iterdir()).read_bytes()[:20])
    assert corpus.load() == {0: "a"}
    assert store.corrupt_count == 0


@pytest.mark.parametrize("content", [b"", b"0" * 81 + b"\n", None])
def test_a_damaged_key_file_makes_everything_unreachable_and_nothing_wrong(store: Store, content: bytes | None) -> None:
    store.signals.put(some_signals(store, 3))
    old = store.key("json", i=1)
    build(store, store.key("references", a=1))
    store.close()
    if content is None:
        flip(store.root / "key", 5)
    else:
        (store.root / "key").write_bytes(content)
    with Store(store.root) as again:
        assert again.key("json", i=1) != old
        assert again.signals.get(some_signals(again, 3)) == {}
        assert again.find_folder("references", again.key("references", a=1)) is None
        report = again.verify()
        assert report.removed[0].startswith("key: damaged")
        assert "entries: 3 damaged" in report.removed
        assert again.summary()["kinds"]["signals"]["count"] == 0
        assert again.summary()["kinds"]["references"]["count"] == 0


def test_verify_finds_all_kinds_of_damage_and_names_no_text(store: Store) -> None:
    values = {store.key("json", i=i): i for i in range(4)}
    store.json.put(values)
    store.signals.put({store.key("signals", i=1): signals(1)})
    store.neighbours.put({store.key("neighbours", i=1): paraphrases(1)})
    key = store.key("references", a=1)
    flip(build(store, key) / "adapter_model.safetensors", 3)
    build(store, store.key("references", a=2))
    corpus = store.corpus(store.key("corpus", a=1))
    corpus.append({0: "secret words"})
    corpus.append({1: "more"})
    flip(sorted(corpus.folder.iterdir())[0], 40)
    tamper(store, "UPDATE entries SET value = x'00' WHERE key = ?", bytes.fromhex(next(iter(values))))
    report = store.verify()
    assert report.checked == {"entries": 6, "references": 2, "self_prompts": 2}
    assert report.removed == [
        "entries: 1 damaged",
        f"references/{key[:12]}: 'adapter_model.safetensors' has changed",
        f"self_prompts/{corpus.folder.name[:12]}: one batch is damaged",
    ]
    assert store.verify().removed == []
