"""The store's folder: names by the version of what lies under them, and files written whole or not at all.

What another version wrote is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import PRIVATE_FOLDER, TEMPORARY, private_folder

LAYOUT = 1
"""Version of everything the store writes, and the one number to raise with any change to it.

It stands in the name of the database and of every folder (but for 1, whose folders had their names before versions
did), and in the database's `user_version`. So plugins of several versions share one store's folder, each with what it
wrote itself.
"""

AREAS = ("references", "self_prompts", "work")
"""Folders of folders. `locks` is common to all versions: there is nothing in a lock."""

SIDE_FILES = ("", "-wal", "-shm", "-journal")
"""What SQLite puts beside a database, by what it appends to the name."""

_DATABASE = re.compile(r"entries-(?:v(\d{1,6})-)?(\d{1,9})\.sqlite")
_VERSIONED = re.compile(rf"({'|'.join(AREAS)}|key)-v(\d{{1,6}})")
_OURS = re.compile(rf"key|locks|{'|'.join(AREAS)}|fingerprint\.key|entries-.*\.sqlite.*|\.spvmia-.*")


@dataclass(frozen=True)
class Foreign:
    """Something in the store's folder that this version did not write, and leaves alone.

    Attributes:
        name: path below the store's folder.
        version: of the store's layout that wrote it, None if it does not say.
        size: bytes.
    """

    name: str
    version: int | None
    size: int


def area(name: str) -> str:
    """The folder's name in this version: `references`, or `references-v2`."""
    return name if LAYOUT == 1 else f"{name}-v{LAYOUT}"


def database_name(generation: int) -> str:
    """Name of this version's database."""
    return f"entries-v{LAYOUT}-{generation:06d}.sqlite"


def generation_of(path: Path) -> int:
    """The generation in a database's name."""
    match = _DATABASE.fullmatch(path.name)
    return int(match[2]) if match else 0


def databases(root: Path) -> list[Path]:
    """Files of any version that are named as databases, the last generation last."""
    return sorted((p for p in root.glob("entries-*.sqlite") if _DATABASE.fullmatch(p.name)), key=generation_of)


def version_in_name(path: Path) -> int:
    """The version in a database's name; names from before versions stood in them are version 1's."""
    match = _DATABASE.fullmatch(path.name)
    return int(match[1] or 1) if match else 0


def other_places(root: Path) -> Iterator[tuple[Path, int]]:
    """(folder or key, version) of the other versions in a store."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        match = _VERSIONED.fullmatch(path.name)
        if match and path.name not in {*map(area, AREAS), f"key-v{LAYOUT}"}:
            yield path, int(match[2])
        elif LAYOUT != 1 and path.name in AREAS:
            yield path, 1


def is_store_name(name: str) -> bool:
    """Whether a name in a folder is one that a store of any version uses."""
    return bool(_OURS.fullmatch(name) or _VERSIONED.fullmatch(name))


KEY = re.compile("[0-9a-f]{64}")
"""A name as `Store.key` makes them."""

TRASH = ".spvmia-trash-"
"""Prefix of folders that are being removed."""

UNWRITABLE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}
"""What a file system says that can be read, and not written."""


def cache_error(root: Path, reason: str) -> SpvmiaError:
    """What users see when the store can't be read or written."""
    if "locked" in reason:
        return SpvmiaError(
            f"mia_cache_dir: expected a store that no other process keeps to itself, got {reason!r} in {root} for over "
            "a minute; wait for that process or stop it, or name another folder with mia_cache_dir"
        )
    kept = "; what is stored there is kept, and the same command continues from it" if (root / "key").exists() else ""
    return SpvmiaError(
        f"mia_cache_dir: expected a folder that can be written, got {reason!r} in {root}; "
        f"free space or correct the permissions there, or name another folder with mia_cache_dir{kept}"
    )


@contextlib.contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line that names `mia_cache_dir`."""
    try:
        yield
    except OSError as error:
        raise cache_error(root, error.strerror or type(error).__name__) from error


def make_root(root: Path) -> None:
    """Create the store's folder, or take an existing one.

    An existing folder is made private only if nothing but a store is in it: somebody who names a shared folder
    (`/tmp`) must not find it closed. What the store puts inside is private in any case.
    """
    if not root.is_dir():
        private_folder(root)
    elif root.stat().st_mode & 0o077 and all(is_store_name(path.name) for path in root.iterdir()):
        with contextlib.suppress(OSError):  # somebody else's folder, not ours to close; or a read-only one
            root.chmod(PRIVATE_FOLDER)


def discard(path: Path) -> None:
    """Remove a file or a folder. A folder is renamed first, so that nobody finds half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    trash = path.parent / f"{TRASH}{secrets.token_hex(8)}"
    try:
        path.rename(trash)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(trash, ignore_errors=True)


def sweep(area: Path, older_than: float) -> None:
    """Remove what killed processes left unfinished in a folder before the time `older_than`, in seconds."""
    if not area.is_dir():
        return
    for path in area.iterdir():
        if path.name.startswith((TEMPORARY, TRASH)):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < older_than:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def visible(folder: Path) -> list[Path]:
    """The finished contents of a folder, sorted by name; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def keyed(area: Path) -> list[Path]:
    """What lies under a key of ours. Anything else in a folder that a user named is none of ours to remove."""
    return [path for path in visible(area) if KEY.fullmatch(path.name)]


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder. Files that vanish meanwhile count nothing."""
    if path.is_dir():
        return sum(tree_size(Path(entry.path)) for entry in _entries(path))
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.is_symlink()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def if_writable() -> Iterator[None]:
    """For what may be left undone where nothing can be written: last uses, the removal of what is damaged."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
