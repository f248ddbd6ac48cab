"""What a spec means in files: one, a folder of shards, or a pattern; in which order, and how ids call them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spvmia_plugin.data.source_file import EXPECTED, split_ending
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import as_path, label

SHARD_REMEDY = "check the path; a folder or a pattern such as 'shards/*.jsonl' names several files"


MOST_FILES = 100_000
"""So many files and folders below one folder are looked through: somebody named `/` by mistake."""


@dataclass(frozen=True)
class Shard:
    """One file of a spec.

    Attributes:
        path: where it lies, absolute.
        depth: how many of the last parts of the path make its name: one, and for shards those below the folder they
            were found in and that folder too.
    """

    path: Path
    depth: int = 1


def find_shards(spec: str | Path, option: str) -> list[Shard]:
    """The files that a spec names, sorted by path: one file, those below a folder, or those that fit a pattern.

    In a folder, names that begin with a dot or an underscore are left out, and so are files of other kinds; all shards
    must be of one kind. A pattern has `*`, `?`, `[...]` and `**`; a file or folder that is really called so wins.

    Raises:
        SpvmiaError: there is none, or a folder holds several kinds.
    """
    path = as_path(spec, option).absolute()
    if path.is_dir():
        found = sorted(_below(path, option), key=os.fsencode)
        kinds = sorted({split_ending(file)[0] for file in found})
        if len(kinds) != 1:
            remedy = f"name them with a pattern, such as '{path.name}/*{kinds[0]}'" if kinds else "check the path"
            raise SpvmiaError(
                f"{option}: {path}: expected a folder with files of one kind, ending in {EXPECTED}, got "
                f"{' and '.join(kinds) or 'none'}; {remedy}"
            )
        return [Shard(file, len(file.relative_to(path).parts) + 1) for file in found]
    if is_pattern(spec):
        fitting = (shard for shard in _fitting(Path(spec)) if not shard.path.is_dir())
        shards = sorted(fitting, key=lambda shard: os.fsencode(shard.path))
        if not shards:
            raise SpvmiaError(f"{option}: {path}: expected files that fit the pattern, got none; {SHARD_REMEDY}")
        return shards
    return [Shard(path)]


def is_pattern(spec: str | Path) -> bool:
    """Whether a spec is a pattern, and no file or folder of that very name."""
    return glob.has_magic(str(spec)) and not Path(spec).expanduser().exists()


def absolute_spec(spec: str) -> str:
    """The spec from the root, so that it means the same from any folder."""
    path = Path(spec).expanduser()
    if path.is_absolute() or not is_pattern(spec):
        return str(path.absolute())
    return str(Path(glob.escape(str(Path.cwd()))) / path)


def is_there(spec: str) -> bool:
    """Whether a spec names anything that exists."""
    path = Path(spec).expanduser()
    return path.exists() or (is_pattern(spec) and next(_fitting(path), None) is not None)


def shard_names(shards: Iterable[Shard]) -> dict[Path, str]:
    """What ids call each file: the last parts of its path, and folders before them where two would be called the same.

    Raises:
        SpvmiaError: two different files that cannot be told apart in UTF-8.
    """
    depths: dict[Path, int] = {}
    for shard in shards:
        depths[shard.path] = max(shard.depth, depths.get(shard.path, 0))
    while True:
        names = {path: label("/".join(path.parts[-depth:])) for path, depth in depths.items()}
        taken = Counter(names.values())
        same = [path for path in depths if taken[names[path]] > 1]
        if not same:
            return names
        longer = {path: depths[path] + 1 for path in same if depths[path] < len(path.parts)}
        if not longer:
            raise SpvmiaError(f"{names[same[0]]}: expected files of different names, got two; rename one of them")
        depths |= longer


def _below(folder: Path, option: str) -> Sequence[Path]:
    """Files of our kinds below a folder. What is no regular file is kept, for its error: no shard goes missing.

    Raises:
        SpvmiaError: a folder that cannot be listed, or so many files that it was hardly meant.
    """

    def fail(error: OSError) -> None:
        raise SpvmiaError(
            f"{option}: {error.filename}: expected a folder that can be listed, got {error.strerror}; check it"
        ) from error

    found = []
    seen = 0
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [Path(place, name) for name in names if not name.startswith((".", "_"))]
        seen += len(folders) + len(names)
        if seen > MOST_FILES:
            raise SpvmiaError(
                f"{option}: {folder}: expected a folder of shards, got more than {MOST_FILES:,} entries below "
                "it; name the folder that holds the shards, or a pattern"
            )
    return [path for path in found if split_ending(path)[0]]


def _fitting(pattern: Path) -> Iterator[Shard]:
    """What fits a pattern. Folders before the first part that is one are taken by name, whatever signs are in it."""
    pattern = pattern.expanduser()
    base = Path(pattern.anchor) if pattern.is_absolute() else Path.cwd()
    parts = [part for part in pattern.parts if part != pattern.anchor]
    while len(parts) > 1 and (plain := _plain(parts[0])) is not None:
        base /= plain
        parts = parts[1:]
    for name in glob.iglob("/".join(parts), root_dir=base, recursive=True):
        yield Shard(base / name, len(Path(name).parts) + 1)


def _plain(part: str) -> str | None:
    """The only name that a part of a pattern fits, None if it fits several."""
    plain = re.sub(r"\[([*?[])\]", r"\1", part)
    return plain if glob.escape(plain) == part else None
