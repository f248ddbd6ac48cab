"""A store on a full or read-only file system serves what it holds, and says in one line what it cannot do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import filelock
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store import database
from spvmia_plugin.store.store import Store
from tests.disks import small_disk
from tests.store.samples import bits, build, signals, some_signals

LINE = "mia_cache_dir: expected a folder that can be written, got "
KEPT = "what is stored there is kept, and the same command continues from it"


def warm(root: Path) -> None:
    """What an audit needs, closed as after a run."""
    with Store(root) as store:
        store.signals.put(some_signals(store))
        build(store, store.key("references", a=1))
        store.corpus(store.key("corpus", a=1)).append({0: "a"})


def read_all(root: Path) -> Store:
    """Everything that a warm audit does with a store."""
    with Store(root, clock=lambda: 4e9) as store:
        store.prepare()
        values = some_signals(store)
        for _ in range(2):
            found = store.signals.get(values)
            assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in values.items()}
        key, prompts = store.key("references", a=1), store.key("corpus", a=1)
        with store.lock(key):
            assert store.find_folder("references", key)
        with store.lock(prompts):
            assert store.corpus(prompts).load() == {0: "a"}
        assert store.summary()["kinds"]["signals"]["count"] >= 40
        assert store.verify().removed == []
        assert store.corrupt_count == 0
    return store


def refuse_all(root: Path) -> None:
    """What needs room ends in one line, and nothing of it is there afterwards."""
    store = Store(root)
    store.prepare()
    key, corpus = store.key("references", a=2), store.corpus(store.key("corpus", a=1))
    large = {store.key("signals", i=i): signals(i, 4000) for i in range(100, 140)}

    def begin() -> None:
        with store.lock(key):
            (store.work_folder("references", key) / "x").write_bytes(b"x" * 9000)

    for attempt in (lambda: store.signals.put(large), lambda: corpus.append({1: "b" * 9000})):
        with pytest.raises(SpvmiaError) as caught:
            attempt()
        assert str(caught.value).startswith(LINE)
        assert KEPT in str(caught.value)
    with pytest.raises((SpvmiaError, OSError)):  # the file is the caller's own
        begin()
    assert store.signals.get(large) == {}
    assert corpus.load() == {0: "a"}
    assert store.find_folder("references", key) is None
    store.close()


@pytest.mark.parametrize("leave", [0, 4096, 16384])
def test_a_full_disk(tmp_path: Path, leave: int) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        root = disk.place / "store"
        warm(root)
        disk.fill(leave)
        read_all(root)
        disk.free()
        disk.fill()
        refuse_all(root)
        disk.free()
        with Store(root) as store:  # there is room again
            build(store, store.key("references", a=2))
            store.signals.put({store.key("signals", i=100): signals(100, 4000)})
        read_all(root)


@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_disk(tmp_path: Path, killed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Of a killed process the write-ahead log is read too."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        root = disk.place / "store"
        warm(root)
        if killed and (child := os.fork()) == 0:
            last = Store(root)
            last.signals.put({last.key("signals", i="last"): signals(1)})
            os._exit(0)
        elif killed:
            os.waitpid(child, 0)
        disk.freeze()
        with Store(root) as store:
            assert len(store.signals.get([store.key("signals", i="last")])) == killed
        if not killed:
            read_all(root)
            assert caplog.messages == [
                f"mia_cache_dir: {root} cannot be written: what it holds is used, and nothing is kept"
            ]
            refuse_all(root)


def test_a_full_or_read_only_disk_without_a_store(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk.place / "store").mkdir()
        disk.freeze()
        with pytest.raises(SpvmiaError, match="Read-only file system") as caught:
            Store(disk.place / "store").prepare()
        assert KEPT not in str(caught.value)
        with pytest.raises(SpvmiaError, match="Read-only file system"), Store(disk.place / "store").lock("0" * 64):
            pass


def test_damage_on_a_read_only_disk_counts_as_absent(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        root = disk.place / "store"
        warm(root)
        (weights,) = root.glob("references/*/adapter_model.safetensors")
        weights.write_bytes(b"cut")
        (batch,) = root.glob("self_prompts/*/*.json")
        batch.write_bytes(batch.read_bytes()[:-2])
        (file,) = root.glob("entries-*.sqlite")
        connection = sqlite3.connect(file)
        connection.execute("UPDATE entries SET checksum = x'00' WHERE id = 1")
        connection.commit()
        connection.close()
        disk.freeze()
        with Store(root) as store:
            assert len(store.signals.get(some_signals(store))) == 39
            assert store.find_folder("references", store.key("references", a=1)) is None
            assert store.corpus(store.key("corpus", a=1)).load() == {}
            assert store.corrupt_count == 3


@pytest.mark.parametrize("reason", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_whatever_refuses_a_write(tmp_path: Path, reason: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, where nothing can be mounted: every call that writes says so."""
    root = tmp_path / "store"
    warm(root)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    def open_for_reading(path: Path, mode: str = "mode=rw") -> sqlite3.Connection:
        if mode == "mode=rw":
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, mode)

    real = database._open
    for name in ("mkdir", "utime", "chmod", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("spvmia_plugin.store.files.open", refuse, raising=False)
    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    monkeypatch.setattr(database, "_open", open_for_reading)
    read_all(root)
    refuse_all(root)


def test_an_audit_is_not_lost_because_the_store_cannot_be_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store", size_limit_bytes=100)

    def refuse(*_: object, **__: object) -> None:
        raise SpvmiaError("mia_cache_dir: no room")

    monkeypatch.setattr(store._upkeep, "evict", refuse)
    store.signals.put(some_signals(store))
    store.close()
    assert caplog.messages == ["mia_cache_dir: no room"]
    with Store(store.root) as again:
        assert len(again.signals.get(some_signals(again))) == 40
