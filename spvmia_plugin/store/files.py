"""Files and folders that only their owner can read, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store.layout import is_store_name

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600

KEY = re.compile("[0-9a-f]{64}")
"""A name as `Store.key` makes them."""

TEMPORARY = ".spvmia-tmp-"
"""Prefix of files that are being written; a killed process leaves them, nothing ever reads them."""
TRASH = ".spvmia-trash-"
"""Prefix of folders that are being removed."""

UNWRITABLE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}
"""What a file system says that can be read, and not written."""


def cache_error(root: Path, reason: str) -> SpvmiaError:
    """What users see when the store can't be read or written."""
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
        _make_missing(root)
    elif root.stat().st_mode & 0o077 and all(is_store_name(path.name) for path in root.iterdir()):
        with contextlib.suppress(OSError):  # somebody else's folder, not ours to close; or a read-only one
            root.chmod(PRIVATE_FOLDER)


def make_folder(folder: Path) -> Path:
    """Create a folder inside the store, and make it private whatever the umask or an earlier hand did."""
    if not folder.is_dir():
        _make_missing(folder)
    elif folder.stat().st_mode & 0o777 != PRIVATE_FOLDER:
        folder.chmod(PRIVATE_FOLDER)
    return folder


def _make_missing(folder: Path) -> None:
    if not folder.parent.is_dir():
        _make_missing(folder.parent)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        if not folder.is_dir():  # a file is in the way; otherwise another process was faster
            raise
        return
    folder.chmod(PRIVATE_FOLDER)  # an unusual umask may have taken rights from the owner too


def write_private(path: Path, data: bytes) -> None:
    """Write a whole file with mode 0600, or leave what was there."""
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with open(descriptor, "wb") as file:
            os.chmod(temporary, PRIVATE_FILE)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
