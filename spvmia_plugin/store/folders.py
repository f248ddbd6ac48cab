"""Folders of the store: references, which are built once, and self-prompted text, a file a batch: the only text."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spvmia_plugin.store.files import (
    UNWRITABLE,
    area,
    cache_error,
    discard,
    if_writable,
    make_root,
    storage_errors,
    visible,
)
from spvmia_plugin.store.keys import Keys, looks_sealed
from spvmia_plugin.util.files import PRIVATE_FILE, PRIVATE_FOLDER, file_digest, private_folder, write_private

MANIFEST = ".spvmia-manifest"
"""File inside a finished folder: size and SHA-256 of each file, sealed with the store's key."""

_LOG = logging.getLogger(__name__)


class Locks:
    """One lock a key between processes; the process that holds one may take it again.

    Where nothing can be written a key is worked on without: what is finished can be read, and nothing be built.

    Attributes:
        unheld: why, by the keys that could not be locked.
    """

    def __init__(self, root: Path) -> None:
        self.unheld: dict[str, str] = {}
        self._root = root
        self._locks: dict[str, FileLock] = {}

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the lock; wait for as long as another process holds it."""
        with storage_errors(self._root), contextlib.ExitStack() as held:
            self.unheld.pop(key, None)
            try:
                lock = self._lock(key)
                try:
                    lock.acquire(timeout=1)
                except Timeout:
                    _LOG.info("mia_cache_dir: another process is building %s; waiting for it", key[:12])
                    lock.acquire()
                held.callback(lock.release)
            except OSError as error:
                self.unheld[key] = self._do_without(error)
            releasing = held.pop_all()
        with releasing:
            yield

    @contextmanager
    def try_hold(self, key: str) -> Iterator[bool]:
        """Hold the lock if it is free; gives whether nobody else holds it."""
        with storage_errors(self._root), contextlib.ExitStack() as held:
            free = True
            try:
                lock = self._lock(key)
                lock.acquire(timeout=0)
                held.callback(lock.release)
            except Timeout:
                free = False
            except OSError as error:
                self._do_without(error)
            releasing = held.pop_all()
        with releasing:
            yield free

    def _do_without(self, error: OSError) -> str:
        """Why there can be no lock, where nothing can be written. Raises `error` otherwise, and where no store is."""
        if error.errno not in UNWRITABLE or not (self._root / "key").exists():
            raise error
        return error.strerror or type(error).__name__

    def _lock(self, key: str) -> FileLock:
        if key not in self._locks:
            make_root(self._root)
            folder = private_folder(self._root / "locks")
            self._locks[key] = FileLock(folder / f"{key}.lock", mode=PRIVATE_FILE)
        return self._locks[key]


class Folders:
    """Finished folders under `<kind>/<key>`, unfinished ones under `work/<kind>/<key>`.

    Attributes:
        corrupt_count: folders found damaged, and removed, since the store was opened.
    """

    def __init__(self, root: Path, keys: Keys, locks: Locks, clock: Callable[[], float]) -> None:
        self.corrupt_count = 0
        self._root = root
        self._keys = keys
        self._locks = locks
        self._clock = clock

    def find(self, kind: str, key: str) -> Path | None:
        """The finished folder, every file checked; None if there is none or it was damaged (then it is removed)."""
        folder = self._root / area(kind) / key
        with storage_errors(self._root):
            if not folder.is_dir():
                return None
            with if_writable():
                self._drop_leftovers(folder)
            if (fault := self.fault(folder)) is None:
                touch(folder, self._clock())
                return folder
            self.corrupt_count += 1
            _LOG.warning("mia_cache_dir: %s/%s is damaged (%s); it will be built again", kind, key[:12], fault)
            with if_writable(), self._locks.try_hold(key) as held:
                if held:  # otherwise somebody is replacing it just now
                    discard(folder)
        return None

    def work(self, kind: str, key: str) -> Path:
        """The folder to build in; what a killed process left there is still there."""
        if key in self._locks.unheld:
            raise cache_error(self._root, self._locks.unheld[key])
        with storage_errors(self._root):
            make_root(self._root)
            private_folder(self._root / area("work"))
            private_folder(self._root / area("work") / kind)
            folder = private_folder(self._root / area("work") / kind / key)
            touch(folder, self._clock())
        return folder

    def commit(self, kind: str, key: str, drop: Sequence[str]) -> Path:
        """Make the unfinished folder a finished one, in one rename; see `Store.commit_folder`."""
        source, target = self._root / area("work") / kind / key, self._root / area(kind) / key
        with storage_errors(self._root):
            private_folder(target.parent)
            dropped = sorted({path.name for pattern in drop for path in source.glob(pattern)})
            files = _seal_files(source, set(dropped))
            manifest = json.dumps({"dropped": dropped, "files": files}, sort_keys=True).encode()
            write_private(source / MANIFEST, self._keys.seal(self._context(target), manifest))
            discard(target)
            source.rename(target)
            self._drop_leftovers(target)
            touch(target, self._clock())
        return target

    def drop(self, kind: str, key: str) -> None:
        """Remove a finished folder, where that can be."""
        with storage_errors(self._root), if_writable():
            discard(self._root / area(kind) / key)

    def _drop_leftovers(self, folder: Path) -> None:
        # Removed after the rename: a kill before it must still find the checkpoints, to resume from.
        manifest = self._manifest(folder)
        for name in manifest["dropped"] if manifest else ():
            if (folder / name).exists():
                discard(folder / name)

    def _manifest(self, folder: Path) -> dict[str, dict[str, list[object]]] | None:
        try:
            sealed = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        payload = self._keys.unseal(self._context(folder), sealed)
        return json.loads(payload) if payload is not None else None

    @staticmethod
    def _context(folder: Path) -> str:
        return f"{folder.parent.name}/{folder.name}"

    def is_foreign(self, folder: Path) -> bool:
        """Whether a finished folder has no manifest as we write it, not even a damaged one. We never make such."""
        try:
            sealed = (folder / MANIFEST).read_bytes()
        except OSError:
            return True
        payload = self._keys.unseal(self._context(folder), sealed) if looks_sealed(sealed) else b"[]"
        return payload is not None and set(json.loads(payload)) != {"dropped", "files"}

    def fault(self, folder: Path) -> str | None:
        """What is wrong with a finished folder, in words; None if nothing is."""
        manifest = self._manifest(folder)
        if manifest is None:
            return "its manifest is missing or damaged"
        present = {name for name in _names(folder) if not _hidden(name)}
        listed = manifest["files"]
        if extra := present - set(listed):
            return f"{min(extra)!r} does not belong to it"
        for name, (size, digest) in sorted(listed.items()):
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                return f"{name!r} is missing or cut"
            if file_digest(path) != digest:
                return f"{name!r} has changed"
        return None


def touch(folder: Path, now: float) -> None:
    """Note the last use of a folder, a hint for eviction: not where nothing can be written."""
    with if_writable():
        os.utime(folder, (now, now))


def _seal_files(folder: Path, dropped: set[str]) -> dict[str, list[object]]:
    """Make a folder private and durable; returns size and checksum of each file that stays."""
    files: dict[str, list[object]] = {}
    for name in _names(folder):
        path = folder / name
        path.chmod(PRIVATE_FILE)
        if Path(name).parts[0] in dropped or name == MANIFEST:
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if not _hidden(name):
            files[name] = [path.stat().st_size, file_digest(path)]
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(PRIVATE_FOLDER)
    return files


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _hidden(name: str) -> bool:
    """Whether no library would load it: `.DS_Store`, `.nfs...`, our own manifest."""
    return any(part.startswith(".") for part in Path(name).parts)


SELF_PROMPTS = "self_prompts"

_BATCH = re.compile(r"\d{8,}-[0-9a-f]{16}\.json")
"""Names of our batches. Another file in the folder is none of ours."""


class Corpus:
    """The texts generated from one target with one set of settings, as far as they are there.

    Attributes:
        corrupt_count: batches found damaged, and removed.
    """

    def __init__(
        self, root: Path, key: str, keys: Keys, clock: Callable[[], float], grown: Callable[[int], None]
    ) -> None:
        self.corrupt_count = 0
        self.folder = root / area(SELF_PROMPTS) / key
        self._root = root
        self._keys = keys
        self._clock = clock
        self._grown = grown

    def load(self) -> dict[int, str]:
        """Texts by index, of all whole batches written so far; damaged batches are removed.

        Raises:
            SpvmiaError: the store can't be read.
        """
        texts: dict[int, str] = {}
        with storage_errors(self._root):
            for path in self.batches():
                batch = self.read(path)
                if batch is None:
                    self.corrupt_count += 1
                    _LOG.warning("mia_cache_dir: a batch of self-prompts is damaged; it will be generated again")
                    with if_writable():
                        discard(path)
                for index, text in (batch or {}).items():
                    texts.setdefault(index, text)  # written by two processes, it is the same text; the first file wins
            if texts:
                touch(self.folder, self._clock())
        return texts

    def append(self, texts: Mapping[int, str]) -> None:
        """Write one batch, whole or not at all.

        Raises:
            SpvmiaError: disk full, or folder not writable.
        """
        if not texts:
            return
        payload = json.dumps({str(index): text for index, text in sorted(texts.items())}).encode()
        with storage_errors(self._root):
            sealed = self._keys.seal(self._context, payload)
            make_root(self._root)
            private_folder(self.folder.parent)
            private_folder(self.folder)
            write_private(self.folder / f"{min(texts):08d}-{sealed[:16].decode()}.json", sealed)
        self._grown(len(sealed))

    def batches(self) -> list[Path]:
        """The files of the batches."""
        return [path for path in visible(self.folder) if _BATCH.fullmatch(path.name)]

    def read(self, path: Path) -> dict[int, str] | None:
        """The texts of one batch, or None if it is damaged. A batch that has just gone is empty."""
        try:
            # A pipe in its place, which reading would wait for, is damage as any other.
            content = path.read_bytes() if path.is_file() or not path.exists() else b""
            payload = self._keys.unseal(self._context, content)
        except FileNotFoundError:
            return {}
        return None if payload is None else {int(index): text for index, text in json.loads(payload).items()}

    def is_foreign(self) -> bool:
        """Whether something lies in the folder that is no batch of ours, not even a damaged one."""
        ours = set(self.batches())
        return any(path not in ours or not looks_sealed(_beginning(path)) for path in visible(self.folder))

    @property
    def _context(self) -> str:
        return f"{SELF_PROMPTS}/{self.folder.name}"


def _beginning(path: Path) -> bytes:
    try:
        if not path.is_file():  # reading a pipe would wait
            return b""
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
