"""Names in the store's folder, by the version of what lies under them: what another version wrote is never touched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
