"""What another version of the plugin, or somebody else, has in the store's folder survives whatever this one does."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spvmia_plugin.store import files
from spvmia_plugin.store.folders import MANIFEST
from spvmia_plugin.store.store import Store
from tests.store.samples import Clock, bits, build, signals, some_signals
from tests.store.test_cli import run


def database_of(store: Store) -> Path:
    (path,) = store.root.glob("entries-*.sqlite")
    return path


def content(root: Path) -> dict[str, bytes]:
    """Every file below a folder but for locks and SQLite's shared memory."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "locks" not in path.parts and not path.name.endswith(("-shm", "-wal"))
    }


def use_and_tidy(root: Path) -> Store:
    """All that a version does in a store, tidying up included."""
    with Store(root, size_limit_bytes=1, clock=Clock(9e9)) as store:
        store.prepare()
        store.signals.put(some_signals(store))
        build(store, store.key("references", a=1))
        store.corpus(store.key("corpus", a=1)).append({0: "a"})
    with Store(root, size_limit_bytes=1, clock=Clock(9.1e9)) as store:
        store.verify()
        store.evict()
        store.clear()
    return store


@pytest.mark.parametrize("newer", [False, True])
def test_two_versions_share_a_folder_and_neither_loses_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    """A plugin before or after this one: its tidying, eviction and clearing stop at its own."""
    mine, other = (1, 2) if newer else (2, 1)
    monkeypatch.setattr(files, "LAYOUT", mine)
    with Store(tmp_path) as store:
        values = some_signals(store)
        store.signals.put(values)
        key = store.key("references", a=1)
        build(store, key)
        corpus = store.corpus(store.key("corpus", a=1))
        corpus.append({0: "a"})
        unfinished = store.work_folder("references", store.key("references", a=2))
        (unfinished / "checkpoint").write_text("half")
    before = content(tmp_path)
    monkeypatch.setattr(files, "LAYOUT", other)
    with Store(tmp_path) as store:
        foreign = store.summary()["foreign"]
    assert {each["version"] for each in foreign} == {mine}
    assert sum(each["bytes"] for each in foreign) > 20_000
    use_and_tidy(tmp_path)
    after = content(tmp_path)
    assert {name: after.get(name) for name in before} == before
    monkeypatch.setattr(files, "LAYOUT", mine)
    with Store(tmp_path) as store:
        found = store.signals.get(values)
        assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in values.items()}
        assert store.find_folder("references", key)
        assert store.corpus(store.key("corpus", a=1)).load() == {0: "a"}
        assert store.corrupt_count == 0


def test_a_file_of_another_version_is_left_and_listed(store: Store) -> None:
    values = some_signals(store, 1680)
    store.signals.put(values)
    store.close()
    old = database_of(store)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA user_version = 2")
    size = old.stat().st_size
    assert f"{old.name}: " in run("show", "--cache-dir", str(store.root))
    shown = json.loads(run("show", "--json", "--cache-dir", str(store.root)))
    assert shown["foreign"] == [{"name": old.name, "version": 2, "bytes": size}]
    use_and_tidy(store.root)
    output = run("clear", "--yes", "--cache-dir", str(store.root))
    assert "of version 2, left alone" in output
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1680,)
        connection.execute("PRAGMA user_version = 1")
    for other in store.root.glob("entries-*"):
        if not other.name.startswith(old.name):
            other.unlink()
    assert len(store.signals.get(values)) == 1680


def test_the_file_of_the_plugin_before_versions_had_names_is_used(store: Store) -> None:
    values = some_signals(store, 5)
    store.signals.put(values)
    store.close()
    old = store.root / "entries-000001.sqlite"
    database_of(store).rename(old)
    assert len(store.signals.get(values)) == 5
    assert database_of(store) == old


def a_database_of_somebody_else(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE thesis (page TEXT)")


def no_database(path: Path) -> None:
    path.write_bytes(b"encrypted by a later version " * 1000)


@pytest.mark.parametrize("write", [a_database_of_somebody_else, no_database])
def test_what_is_not_ours_under_our_name_is_left(store: Store, write) -> None:
    store.signals.put(some_signals(store, 5))
    store.close()
    path = database_of(store)
    write(path)
    before = path.read_bytes()
    use_and_tidy(store.root)
    assert path.read_bytes() == before
    with Store(store.root) as again:
        again.signals.put(some_signals(again, 5))
        assert len(again.signals.get(some_signals(again, 5))) == 5
        assert again.corrupt_count == 0
    run("clear", "--other-versions", "--yes", "--cache-dir", str(store.root))
    assert not path.exists()
    assert len(store.signals.get(some_signals(store, 5))) == 5


@pytest.mark.parametrize(
    "text", [b'{"version": 2, "kdf": "argon2id", "salt": "00ff"}\n', b"0" * 300, b"2:" + b"A" * 80]
)
def test_a_key_of_another_format_is_left_and_ours_made_beside_it(store: Store, text: bytes) -> None:
    (store.root).mkdir()
    (store.root / "key").write_bytes(text)
    name = store.key("json", i=1)
    assert Store(store.root).key("json", i=1) == name
    assert (store.root / "key").read_bytes() == text
    assert (store.root / "key-v1").stat().st_mode & 0o777 == 0o600
    assert store.corrupt_count == 0
    assert [each["name"] for each in store.summary()["foreign"]] == ["key"]


@pytest.mark.parametrize("manifest", [None, b"\x93NUMPY", b'{"version": 2}', "sealed"])
def test_folders_as_we_never_make_them_are_left(store: Store, manifest) -> None:
    store.prepare()
    folder = store.root / "references" / ("ab" * 32)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"of a later version")
    batch = store.root / "self_prompts" / ("cd" * 32)
    batch.mkdir(parents=True)
    (batch / "batches.arrow").write_bytes(b"of a later version")
    (batch / f"00000000-{'0' * 16}.json").write_bytes(b'{"version": 2, "texts": ["of a later version"]}')
    if manifest == "sealed":  # by a version that keeps the key and lists more
        manifest = store._keys.seal(f"references/{folder.name}", b'{"files": [], "version": 2}')
    if manifest is not None:
        (folder / MANIFEST).write_bytes(manifest)
    before = {path: path.read_bytes() for path in (*folder.iterdir(), *batch.iterdir())}
    use_and_tidy(store.root)
    assert {path: path.read_bytes() for path in before} == before
    names = {each["name"] for each in store.summary()["foreign"]}
    assert names == {f"references/{folder.name}", f"self_prompts/{batch.name}"}
    run("clear", "--other-versions", "--yes", "--cache-dir", str(store.root))
    assert not folder.exists()
    assert not batch.exists()


def test_a_sound_entry_of_a_kind_that_a_later_version_knows_is_left(store: Store) -> None:
    key = store.key("gradients", i=1)
    store._entries.put("gradients", [(key, b"\x01\x02")])
    assert store.verify().removed == []
    assert store._entries.get("gradients", [key]) == {key: b"\x01\x02"}


def test_half_written_files_are_no_versions(store: Store) -> None:
    """A build that was killed, and a generation that was cut to nothing: the sound one before it is used."""
    key = store.key("signals", i=1)
    store.signals.put({key: signals(1)})
    (store.root / ".spvmia-tmp-0123").write_bytes(b"SQLite format 3\0 half")
    (store.root / "entries-v1-000007.sqlite").write_bytes(b"")
    store.close()
    with Store(store.root) as again:
        assert bits(again.signals.get([key])[key]) == bits(signals(1))
        assert again.corrupt_count == 1
        assert again.summary()["foreign"] == []
