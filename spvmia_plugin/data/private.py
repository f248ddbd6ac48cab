"""Folders and files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def private_folder(path: Path) -> Path:
    """Make `path`, and what is missing above it, readable by the owner alone; a folder that exists keeps its parents.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    path.chmod(FOLDER_MODE)
    return path


def write_private(path: Path, content: bytes | Iterable[bytes], *, replace: bool = True) -> None:
    """Write a whole file at once with mode 0600: readers see the old file or the new one, never half of one.

    Args:
        path: the file; its folder exists.
        content: what it holds, at once or piece by piece.
        replace: whether an existing file is replaced; otherwise it is kept and nothing is written.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        elif not path.exists():
            _link(part, path)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, path: Path) -> None:
    """Give `part` its final name unless another process was first."""
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        part.replace(path)
