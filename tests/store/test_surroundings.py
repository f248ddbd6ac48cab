"""Modes under any umask, full disks, folders that can't be written."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store import database
from spvmia_plugin.store.database import Database
from spvmia_plugin.store.files import LAYOUT
from spvmia_plugin.store.store import Store
from tests.refusing import refuse_folders
from tests.store.samples import bits, build, signals, some_signals

ROOT = Path(__file__).parents[2]


def fill(store: Store) -> None:
    store.signals.put(some_signals(store))
    build(store, store.key("references", a=1))
    store.work_folder("references", store.key("references", a=2))
    store.corpus(store.key("corpus", a=1)).append({0: "a"})
    with store.lock(store.key("references", a=3)):
        pass


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_only_the_owner_can_read_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "new" / "store")
        fill(store)
        paths = [tmp_path / "new", *(tmp_path / "new").rglob("*")]  # with the write-ahead log open
        names = {path.name for path in paths}
        assert {"key", *(f"entries-v1-000001.sqlite{suffix}" for suffix in ("", "-wal", "-shm"))} <= names
        for path in paths:
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        store.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_after_a_minute_what_was_kept_lies_in_the_file_itself(tmp_path: Path, monkeypatch, seconds: float) -> None:
    """A machine that loses power may lose the write-ahead log: what the file alone holds by then stays."""
    monkeypatch.setattr(database, "FOLD_SECONDS", seconds)
    store = Store(tmp_path / "store")
    fill(store)
    copy = tmp_path / "copy.sqlite"
    # By another process: to close the file in this one would take SQLite's locks on it away.
    subprocess.run(["cp", tmp_path / "store" / "entries-v1-000001.sqlite", copy], check=True)
    with contextlib.closing(sqlite3.connect(copy)) as alone:
        (count,) = alone.execute("SELECT count(*) FROM entries").fetchone()
    store.close()
    assert count == (len(some_signals(store)) if seconds == 0 else 0)


def test_an_existing_empty_folder_is_made_private_and_a_shared_one_left(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    for folder in (own, shared):
        folder.mkdir()
        folder.chmod(0o755)
    (shared / "thesis.txt").write_text("mine")
    for folder in (own, shared):
        with Store(folder) as store:
            fill(store)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "self_prompts").stat().st_mode) == 0o700
    assert stat.S_IMODE((shared / "key").stat().st_mode) == 0o600


def test_nothing_is_created_before_the_first_use(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        assert store.summary()["total_bytes"] == 0
        assert store.verify().removed == []
        assert sum(count for count, _ in store.clear().removed.values()) == 0
        assert store.signals.get(["0" * 64]) == {}
        assert store.find_folder("references", "0" * 64) is None
        assert store.corpus("0" * 64).load() == {}
    assert not (tmp_path / "store").exists()


def test_the_default_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in Store().root.parents
    assert Store("~/x").root == tmp_path / "x"


OPERATIONS = {
    "key": lambda store: store.key("k", a=1),
    "text_hash": lambda store: store.text_hash("private text"),
    "prepare": lambda store: store.prepare(),
    "put": lambda store: store.signals.put({"0" * 64: signals(0)}),
    "append": lambda store: store.corpus("0" * 64).append({0: "private text"}),
    "work": lambda store: store.work_folder("references", "0" * 64),
    "lock": lambda store: store.lock("0" * 64).__enter__(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, operation: str, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folders(monkeypatch, reason)
    with pytest.raises(SpvmiaError) as caught:
        OPERATIONS[operation](Store(tmp_path / "store"))
    message = str(caught.value)
    assert message.startswith("mia_cache_dir: expected a folder that can be written")
    assert os.strerror(reason) in message
    assert str(tmp_path / "store") in message
    assert "private text" not in message


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpvmiaError, match="mia_cache_dir"):
            Store(root).prepare()


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_batch_leaves_the_old_ones_and_no_rest(
    store: Store, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = store.corpus(store.key("corpus", a=1))
    corpus.append({0: "a"})

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr("spvmia_plugin.util.files.open", lambda *a: refuse(), raising=False)
        else:
            patch.setattr(os, step, refuse)
        with pytest.raises(SpvmiaError, match="No space left"):
            corpus.append({1: "b"})
    assert corpus.load() == {0: "a"}
    assert len(list(corpus.folder.iterdir())) == 1


DISK_FULL = """
import resource, sys
from pathlib import Path
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store.store import Store
from spvmia_plugin.store.database import Database
from tests.refusing import refuse_folders
from tests.store.samples import bits, build, signals

store = Store(Path(sys.argv[1]))
small = {store.key("signals", i=i): signals(i) for i in range(10)}
large = {store.key("signals", i=i): signals(i, 4000) for i in range(10, 40)}
store.signals.put(small)
corpus = store.corpus(store.key("corpus", a=1))
key = store.key("references", a=1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # from here on a file can't grow beyond this
for attempt in (
    lambda: store.signals.put(large),
    lambda: corpus.append({0: "t" * 300_000}),
):
    try:
        attempt()
    except SpvmiaError as error:
        assert str(error).startswith("mia_cache_dir: expected a folder that can be written, got "), error
    else:
        raise SystemExit("written where there is no room")
assert {k: bits(v) for k, v in store.signals.get(small).items()} == {k: bits(v) for k, v in small.items()}
assert store.signals.get(large) == {}
assert corpus.load() == {}
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.signals.put(large)
corpus.append({0: "t" * 300_000})
assert {k: bits(v) for k, v in store.signals.get(large).items()} == {k: bits(v) for k, v in large.items()}
assert len(corpus.load()) == 1
assert store.verify().removed == []
assert store.corrupt_count == 0
"""


def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", DISK_FULL, str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_reading_works_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    values = some_signals(store)
    store.signals.put(values)
    store.close()
    later = Store(store.root, clock=lambda: 4e9)

    def refuse(*_: object) -> None:
        raise SpvmiaError("mia_cache_dir: no space")

    monkeypatch.setattr(later._entries.database, "write", refuse)
    found = later.signals.get(values)
    later.close()  # the last uses can't be written: no reason to fail
    assert {key: bits(value) for key, value in found.items()} == {key: bits(value) for key, value in values.items()}


def test_a_pipe_in_the_store_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """In the place of the entries, of the key, and of what was kept of self-prompts."""
    for name in (f"entries-v{LAYOUT}-000001.sqlite", "key"):
        root = tmp_path / name
        root.mkdir()
        os.mkfifo(root / name)
        with Store(root) as store:
            store.signals.put(some_signals(store))
            assert len(store.signals.get(list(some_signals(store)))) == len(some_signals(store))
        assert stat.S_ISFIFO((root / name).lstat().st_mode)
    with Store(tmp_path / "corpus") as store:
        key = store.key("corpus", a=1)
        store.corpus(key).append({0: "a"})
        (batch,) = store.corpus(key).batches()
        batch.unlink()
        os.mkfifo(batch)
        assert store.corpus(key).read(batch) is None
        assert not store.corpus(key).is_foreign()  # as one that was cut to nothing


def test_a_store_that_another_process_keeps_to_itself_is_called_that(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with Store(tmp_path / "store") as store:
        store.signals.put(some_signals(store))
        (path,) = (tmp_path / "store").glob("entries*.sqlite")
    holding = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE')"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{holding}; print(1, flush=True); sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        message = "expected a store that no other process keeps to itself, got 'database is locked' .* wait for that"
        with Store(tmp_path / "store") as store, pytest.raises(SpvmiaError, match=message):
            store.signals.put(some_signals(store, start=500))
    finally:
        other.communicate(b"")


def test_the_store_imports_no_torch() -> None:
    heavy = ("torch", "transformers", "lm_eval")
    code = f"import sys, spvmia_plugin.store.store; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0


def test_an_error_leaves_no_connection_behind(tmp_path: Path) -> None:
    """Python 3.13 warns of a connection that nobody closed, and who is told of a full disk has nothing to close."""

    def full(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    opened = Database(tmp_path / "store")
    with pytest.raises(SpvmiaError, match=r"mia_cache_dir: .*full"):
        opened.write(full)
    assert opened._connection is None
    assert opened.write(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
    opened.close()
