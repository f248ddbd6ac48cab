"""One SQLite file that several processes write, and that is replaced when it turns out to be damaged."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from filelock import FileLock

from spvmia_plugin.store.files import (
    PRIVATE_FILE,
    TEMPORARY,
    cache_error,
    make_folder,
    make_root,
    storage_errors,
    tree_size,
)

T = TypeVar("T")

BUSY_SECONDS = 60.0
"""How long one process waits for another's transaction. Transactions are short: milliseconds, rarely a second."""

_SCHEMA_VERSION = 1
_SCHEMA = f"""
PRAGMA page_size = 8192;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, used INTEGER NOT NULL,
    size INTEGER NOT NULL, checksum BLOB NOT NULL, value BLOB NOT NULL
);
CREATE INDEX entries_by_use ON entries (used, kind, size);
PRAGMA user_version = {_SCHEMA_VERSION};
"""

# What SQLite says when the surroundings are at fault. Anything else that it says means that the file is damaged.
_SURROUNDINGS = ("full", "disk i/o", "readonly", "unable to open", "locked", "locking protocol", "out of memory")
_CALLER = (sqlite3.ProgrammingError, sqlite3.NotSupportedError)


class _OtherLayout(sqlite3.DatabaseError):
    """The file has no schema, or that of another version."""


class Database:
    """The entries' file `entries-<generation>.sqlite`.

    A damaged file is replaced by one of the next generation instead of being written anew under its name: a process
    that still has the old one open would otherwise delete the new one's write-ahead log when it closes.

    Attributes:
        corrupt_count: how often the file was found damaged and replaced.
    """

    def __init__(self, root: Path) -> None:
        self.corrupt_count = 0
        self._root = root
        self._path: Path | None = None
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one consistent view. It runs again, on an empty file, if the file is damaged."""
        return self._run("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction, all or nothing. It runs again, on an empty file, if the file is damaged.

        Raises:
            SpvmiaError: disk full, folder not writable, or locked by another process for over a minute.
        """
        return self._run("BEGIN IMMEDIATE", work)

    def shrink(self) -> None:
        """Give freed pages back to the file system."""
        self._run(None, _vacuum)

    def exists(self) -> bool:
        """Whether there is a file, without making one."""
        return bool(self._generations())

    def size(self) -> int:
        """Bytes of the file with its write-ahead log."""
        return sum(tree_size(path) for path in self._root.glob("entries-*.sqlite*"))

    def close(self) -> None:
        """Close the connection, which also folds the write-ahead log into the file."""
        if self._connection is not None and self._pid == os.getpid():
            with contextlib.suppress(sqlite3.Error):  # a damaged file can't be folded; the next reader replaces it
                self._connection.close()
        self._connection = self._path = None

    def _run(self, begin: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        for _attempt in range(3):
            try:
                with storage_errors(self._root):
                    return _transaction(self._connect(), begin, work)
            except _CALLER:
                raise
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the message may quote damaged names
                path = self._path
                if path is None or (path.exists() and not _damaged(error, path)):
                    self.close()  # whoever is told need not know that there is a connection
                    raise cache_error(self._root, str(error)) from error
                self._replace(path)
        raise cache_error(self._root, "a file that is damaged again as soon as it is written")

    def _connect(self) -> sqlite3.Connection:
        if self._pid != os.getpid():  # a connection must not be used, or even closed, across a fork
            self._connection, self._pid = None, os.getpid()
        if self._connection is not None and self._path is not None and self._path.exists():
            return self._connection
        self.close()
        generations = self._generations()
        self._path = path = generations[-1] if generations else self._create(None)
        with contextlib.suppress(FileNotFoundError, PermissionError):  # just replaced, or not ours
            path.chmod(PRIVATE_FILE)
        self._connection = connection = _open(path)
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
            raise _OtherLayout("the file has another layout")
        return connection

    def _generations(self) -> list[Path]:
        return sorted(self._root.glob("entries-*.sqlite"))

    def _replace(self, damaged: Path) -> None:
        self.close()
        if not damaged.exists():  # another process has replaced it
            return
        self.corrupt_count += 1
        with storage_errors(self._root):
            self._create(damaged)

    def _create(self, damaged: Path | None) -> Path:
        """Make the next generation, complete before it gets its name, unless another process already has."""
        make_root(self._root)
        lock = make_folder(self._root / "locks") / "entries.lock"
        with FileLock(lock, mode=PRIVATE_FILE):
            generations = self._generations()
            if generations and generations[-1] != damaged:
                return generations[-1]
            number = int(generations[-1].stem.removeprefix("entries-")) + 1 if generations else 1
            path = self._root / f"entries-{number:06d}.sqlite"
            _build(self._root / f"{TEMPORARY}{secrets.token_hex(8)}", path)
            for old in generations:
                for suffix in ("", "-wal", "-shm", "-journal"):
                    old.with_name(old.name + suffix).unlink(missing_ok=True)
            return path


def _damaged(error: Exception, path: Path) -> bool:
    message = str(error).lower()
    if "readonly" in message:  # a flipped bit in the header says so too
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return not any(words in message for words in _SURROUNDINGS)


def _open(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite never creates the file itself, since it would follow the umask. Its -wal and -shm copy our mode.
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    connection.text_factory = bytes  # damaged text need not be UTF-8, and must not end the query
    return connection


def _build(temporary: Path, path: Path) -> None:
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    try:
        with contextlib.closing(_open(temporary)) as connection:
            connection.executescript(_SCHEMA)
        os.replace(temporary, path)
    except BaseException:
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        raise


def _transaction(connection: sqlite3.Connection, begin: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
    if begin is None:
        return work(connection)
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")
        raise
    return result


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page: this one steps to the end
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
