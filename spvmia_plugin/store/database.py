"""One SQLite file that several processes write, and that is replaced when it turns out to be damaged."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote
from weakref import WeakSet

from filelock import FileLock

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store import files
from spvmia_plugin.store.files import SIDE_FILES, Foreign, cache_error, make_root, storage_errors, tree_size
from spvmia_plugin.util.files import PRIVATE_FILE, TEMPORARY, private_folder

T = TypeVar("T")

BUSY_SECONDS = 60.0
"""How long one process waits for another's transaction. Transactions are short: milliseconds, rarely a second."""

CACHE_KB = 64_000
"""Memory for pages of the file that are in use."""
CHECKPOINT_PAGES = 16_000
"""Pages in the write-ahead log (128 MB) at which it is folded into the file. Keys are random, and each entry
changes a page of its own in a large index: the longer that waits, the fewer of them are written twice (1.2 million
entries: with 4,000 pages a third more of the processor, 60 % more of the clock)."""
FOLD_SECONDS = 60.0
"""After so long it is folded with whatever is in it: only then it is safe from a machine that loses power."""

_SCHEMA = """
PRAGMA page_size = 8192;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, used INTEGER NOT NULL,
    size INTEGER NOT NULL, checksum BLOB NOT NULL, value BLOB NOT NULL
);
CREATE INDEX entries_by_use ON entries (used, kind, size);
"""
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES, _USER_VERSION = 100, slice(60, 64)

_MODES = ("mode=rw", "mode=ro", "mode=ro&immutable=1")
"""How the file is opened; the next where the file system lets nothing be written. The last ignores the write-ahead log,
which SQLite cannot read without writing where the log's index is gone."""

# What SQLite says when the surroundings are at fault. Anything else that it says means that the file is damaged.
_SURROUNDINGS = ("full", "disk i/o", "readonly", "unable to open", "locked", "locking protocol", "out of memory")
_UNWRITABLE = ("full", "disk i/o", "readonly", "unable to open")
_CALLER = (sqlite3.ProgrammingError, sqlite3.NotSupportedError)

_Inode = tuple[int, int]
"""Device and number: which file it is, whatever its name."""


class Database:
    """The entries' file `entries-v<layout>-<generation>.sqlite`.

    Files of other versions, by their name or by what stands in them, are left alone, and so is what is no SQLite file
    under a name of ours.

    A damaged file is replaced by one of the next generation instead of being written anew under its name: a process
    that still has the old one open would otherwise delete the new one's write-ahead log when it closes.

    Attributes:
        corrupt_count: how often the file was found damaged, and replaced or left aside.
    """

    def __init__(self, root: Path) -> None:
        self.corrupt_count = 0
        self._root = root
        self._path: Path | None = None
        self._connection: sqlite3.Connection | None = None
        self._mode = 0
        self._pid = os.getpid()
        self._folded = time.monotonic()
        self.inode: _Inode | None = None  # while SQLite has the file open
        _DATABASES.add(self)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one consistent view. It runs again, on an empty file, if the file is damaged.

        Works where nothing can be written, too.
        """
        return self._run("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction, all or nothing. It runs again, on an empty file, if the file is damaged.

        Raises:
            SpvmiaError: disk full, folder not writable, or locked by another process for over a minute.
        """
        if self._mode:  # there may be room again
            self.close()
            self._mode = 0
        result = self._run("BEGIN IMMEDIATE", work)
        if time.monotonic() - self._folded >= FOLD_SECONDS:
            self._folded = time.monotonic()
            with contextlib.suppress(SpvmiaError):  # what was to be kept is kept
                self._run(None, _fold)
        return result

    def shrink(self) -> None:
        """Give freed pages back to the file system."""
        self._run(None, _vacuum)

    def exists(self) -> bool:
        """Whether there is a file, without making one."""
        return self._current() is not None

    def size(self) -> int:
        """Bytes of the file with its write-ahead log."""
        current = self._current()
        return _size(current) if current else 0

    def foreign(self) -> list[Foreign]:
        """The databases in the folder that are not this version's."""
        current = self._current()
        return [
            Foreign(path.name, _version(path), _size(path)) for path in files.databases(self._root) if path != current
        ]

    def close(self) -> None:
        """Close the connection, which also folds the write-ahead log into the file."""
        if self._connection is not None and self._pid == os.getpid():
            with contextlib.suppress(sqlite3.Error):  # a damaged file can't be folded; the next reader replaces it
                self._connection.close()
        self._connection = self._path = self.inode = None

    def _run(self, begin: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        for _attempt in range(3 + len(_MODES)):
            try:
                with storage_errors(self._root):
                    return _transaction(self._connect(), begin, work)
            except _CALLER:
                raise
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the message may quote damaged names
                path = self._path
                if path is not None and begin == "BEGIN" and self._open_for_reading(error):
                    continue
                if path is None or self._mode or (path.exists() and not _damaged(error, path)):
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
        self._path = path = self._current() or self._create(None)
        with contextlib.suppress(OSError):  # just replaced, not ours, or nothing can be written
            path.chmod(PRIVATE_FILE)
        self.inode = _inode(path)
        self._connection = connection = _open(path, _MODES[self._mode])
        connection.execute("PRAGMA synchronous = NORMAL")
        # Keys lie anywhere in the index: a batch touches hundreds of its pages, and the next one many of the same.
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # reads the file: only now it is open
        return connection

    def _open_for_reading(self, error: Exception) -> bool:
        """Go over to the next way of opening if nothing can be written; false if there is none, or that is not why."""
        message = str(error).lower()
        if self._mode + 1 == len(_MODES) or not any(words in message for words in _UNWRITABLE):
            return False
        if self._mode == 0 and self._path is not None and self._path.exists() and _damaged(error, self._path):
            return False
        self.close()
        self._mode += 1
        return True

    def _current(self) -> Path | None:
        """This version's file, of the last generation."""
        ours = [path for path in files.databases(self._root) if _is_ours(path)]
        return ours[-1] if ours else None

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
        lock = private_folder(self._root / "locks") / "entries.lock"
        with FileLock(lock, mode=PRIVATE_FILE):
            present = files.databases(self._root)
            others = [path for path in present if _is_ours(path) and path != damaged]
            if damaged is not None and _is_ours(damaged):
                remove_database(damaged)
            if others:
                return others[-1]
            self.corrupt_count += any(map(_is_no_database, present))
            path = self._root / files.database_name(max(map(files.generation_of, present), default=0) + 1)
            _build(self._root / f"{TEMPORARY}{secrets.token_hex(8)}", path)
            return path


_DATABASES: WeakSet[Database] = WeakSet()
"""Those of this process. What SQLite has open of them is this version's, and nobody else may open it: closing a file
takes away all locks that the process has on it (POSIX), SQLite's among them. Another process that closes the database
then takes itself for the last one and deletes the write-ahead log, and what this one writes from then on is lost
without a word (sqlite.org/howtocorrupt, 2.2). Locks are the process's, and so is this."""


def remove_database(path: Path) -> None:
    """Remove a database with what SQLite puts beside it."""
    for suffix in SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return sum(tree_size(path.with_name(path.name + suffix)) for suffix in SIDE_FILES)


def _is_ours(path: Path) -> bool:
    """Whether a database is this version's, by its name and by what stands in it. An empty one was cut, and is ours."""
    if files.version_in_name(path) != files.LAYOUT or _is_special(path):
        return False
    return _version(path) == files.LAYOUT or not tree_size(path)


def _is_no_database(path: Path) -> bool:
    """Whether something else stands under a name of ours."""
    is_named_so = files.version_in_name(path) == files.LAYOUT
    return is_named_so and (_is_special(path) or (_version(path) is None and tree_size(path) > 0))


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device, which reading would wait for."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _version(path: Path) -> int | None:
    """The version in a database, or None if there is no SQLite file (any more).

    Read from the header, so that a file of another version is not even opened: opening one may change it.
    """
    if _is_special(path):
        return None
    try:
        inode = _inode(path)
        if inode is not None and any(each.inode == inode for each in _DATABASES):
            return files.LAYOUT
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    return int.from_bytes(header[_USER_VERSION], "big") if header.startswith(_MAGIC) else None


def _inode(path: Path) -> _Inode | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _damaged(error: Exception, path: Path) -> bool:
    message = str(error).lower()
    if "readonly" in message:  # a flipped bit in the header says so too
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return not any(words in message for words in _SURROUNDINGS)


def _open(path: Path, mode: str = _MODES[0]) -> sqlite3.Connection:
    # mode=rw: SQLite never creates the file itself, since it would follow the umask. Its -wal and -shm copy our mode.
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    connection.text_factory = bytes  # damaged text need not be UTF-8, and must not end the query
    return connection


def _build(temporary: Path, path: Path) -> None:
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    try:
        with contextlib.closing(_open(temporary)) as connection:
            connection.executescript(f"{_SCHEMA}PRAGMA user_version = {files.LAYOUT};")
        os.replace(temporary, path)
    except BaseException:
        remove_database(temporary)
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


def _fold(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # waits for nobody


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page: this one steps to the end
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
