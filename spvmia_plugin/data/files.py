"""The files behind what a user names: one, a folder of shards, a pattern; opened safely, decompressed on the way."""

from __future__ import annotations

import bz2
import errno
import glob
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import as_path, label

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".ndjson", ".tsv", ".arrow", ".feather")
"""Endings of files with texts."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings after these, and what they are called."""

EXPECTED = f"{' '.join(KINDS)} (also compressed, {' '.join(COMPRESSIONS)})"

LABEL = "label"
"""The column that says who is a member where one file holds both classes: 1 is a member, 0 is none."""

GROWTH, FREE_GROWTH = 200, 64 * 2**20
"""A file of so many bytes may hold more than so many times its size only up to `FREE_GROWTH` characters."""

_SPECIAL = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def split_ending(path: Path) -> tuple[str, str]:
    """The kind of a file and its compression, both as endings in lower case: `.jsonl` and `.gz`, or `""`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""
    return kind, compression


class Growth:
    """Counts what a file turns into, so that a small one does not fill the memory."""

    def __init__(self, file: SourceFile, size: int) -> None:
        self._file = file
        self._left = max(FREE_GROWTH, GROWTH * size)

    def add(self, amount: int) -> None:
        """Count so many bytes or characters.

        Raises:
            SpvmiaError: they are too many for the file's size.
        """
        self._left -= amount
        if self._left < 0:
            raise self._file.error(
                f"expected at most {GROWTH} times the file's size of content, got more",
                "decompress the file yourself, or take out repeated rows",
            )


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted."""

    def __init__(self, stream: Any, growth: Growth) -> None:
        self._stream, self._growth = stream, growth

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._growth.add(len(data))
        buffer[: len(data)] = data
        return len(data)


def _decompressed(stream: IO[bytes], compression: str) -> Any:
    """What decompresses a stream."""
    if compression == ".bz2":  # pyarrow's stops at an empty part among several
        return bz2.BZ2File(stream)
    import pyarrow as pa

    return pa.CompressedInputStream(stream, COMPRESSIONS[compression])


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: where it lies.
        option: what the user calls it (`mia_members`).
    """

    path: Path
    option: str

    def error(self, problem: str, remedy: str, row: int | None = None) -> SpvmiaError:
        """An error about the file, or about a row of it."""
        place = f"{self.path}" if row is None else f"{self.path}, row {row}"
        return SpvmiaError(f"{self.option}: {place}: {problem}; {remedy}")

    def not_utf8(self, row: int) -> SpvmiaError:
        """The error for a row of other bytes."""
        return self.error(
            "expected UTF-8, got other bytes",
            "convert the file to UTF-8 (UTF-16 is read where a byte-order mark says so)",
            row,
        )

    def size(self) -> int:
        """Its bytes on disk; 0 if it is not there."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file's bytes, decompressed.

        Raises:
            SpvmiaError: it is no regular file, cannot be read, is damaged, or grows without measure.
        """
        compression = split_ending(self.path)[1]
        try:
            with open(self._descriptor(), "rb") as stream:
                if not compression:
                    yield stream
                    return
                growth = Growth(self, os.fstat(stream.fileno()).st_size)
                with _decompressed(stream, compression) as plain:
                    yield io.BufferedReader(_Counted(plain, growth))
        except (OSError, EOFError) as error:
            if not isinstance(error, OSError) or error.errno is None:  # the decompressor's own
                raise self.error(f"expected a whole {compression} file, got a damaged one", "write it anew") from error
            raise self.error(f"expected a readable file, got {error.strerror or 'an error'}", "check it") from error

    def _descriptor(self) -> int:
        """Open a regular file: reading anything else could wait or go on for ever."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise self.error("expected a file, got no such file", "check the path") from error
            if error.errno == errno.ENXIO:  # a socket
                raise self.error("expected a regular file, got a socket", "check the path") from error
            raise
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            what = next((name for is_kind, name in _SPECIAL.items() if is_kind(mode)), "something else")
            raise self.error(f"expected a regular file, got {what}", "name a file, or save the data to one first")
        return descriptor


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
    must be of one kind. A pattern has `*`, `?`, `[...]` and `**`; a file or folder that is really called so wins. Links
    to folders are followed, and no folder is read twice.

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
        shards = _once(shard for shard in _fitting(Path(spec)) if not shard.path.is_dir())
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
    for place, folders, names in _walk(folder, (".", "_"), fail):
        found += [place / name for name in names if not name.startswith((".", "_"))]
        seen += len(folders) + len(names)
        if seen > MOST_FILES:
            raise SpvmiaError(
                f"{option}: {folder}: expected a folder of shards, got more than {MOST_FILES:,} entries below "
                "it; name the folder that holds the shards, or a pattern"
            )
    return [path for path in found if split_ending(path)[0]]


def _walk(
    top: Path, hidden: tuple[str, ...], fail: Callable[[OSError], object] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it, each once, with the names of folders and files in each.

    Links are followed, and two may lead to one folder, or round in a circle: a folder has the name that no link is in,
    where there is one.

    Args:
        top: the folder to begin with.
        hidden: beginnings of names of folders that are passed over.
        fail: told of a folder that cannot be listed; such are passed over without.
    """
    seen, waiting = set(), [top]
    for begin in waiting:
        for place, folders, names in os.walk(begin, onerror=fail):  # which follows no links by itself
            about = os.stat(place)
            folders[:] = sorted((name for name in folders if not name.startswith(hidden)), key=os.fsencode)
            if (about.st_dev, about.st_ino) in seen:
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            waiting += [link for name in folders if (link := Path(place, name)).is_symlink()]
            yield Path(place), folders, names


def _once(shards: Iterable[Shard]) -> list[Shard]:
    """A pattern's shards, sorted by path, each of them once: of names by which links lead to it, the plainest."""
    found: dict[object, Shard] = {}
    identities: dict[Path, tuple[object, bool]] = {}
    for shard in sorted(shards, key=lambda shard: os.fsencode(shard.path)):
        folder = shard.path.parent
        if folder not in identities:
            real = os.path.realpath(folder)
            identities[folder] = real, real == os.path.abspath(folder)
        real_folder, is_plain = identities[folder]
        called = real_folder, shard.path.name
        if called not in found or (is_plain and not identities[found[called].path.parent][1]):
            found[called] = shard
    return sorted(found.values(), key=lambda shard: os.fsencode(shard.path))


def _fitting(pattern: Path) -> Iterator[Shard]:
    """What fits a pattern. Folders before the first part that is one are taken by name, whatever signs are in it."""
    pattern = pattern.expanduser()
    base = Path(pattern.anchor) if pattern.is_absolute() else Path.cwd()
    parts = [part for part in pattern.parts if part != pattern.anchor]
    while len(parts) > 1 and (plain := _plain(parts[0])) is not None:
        base /= plain
        parts = parts[1:]
    for name in _expanded(base, Path(), parts):
        yield Shard(base / name, len(name.parts) + 1)


def _expanded(base: Path, before: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What the parts of a pattern fit below a folder, as paths from `base`.

    Not `glob` for `**`: where links lead round in a circle, that goes round until names are too long for the system.
    """
    if not parts:
        yield before
    elif parts[0] == "**":
        for place, folders, names in _walk(base / before, (".",)):
            inner = place.relative_to(base)
            if parts[1:]:
                yield from _expanded(base, inner, parts[1:])
            else:
                yield from (inner / name for name in (*folders, *names) if not name.startswith("."))
    else:
        for name in glob.iglob(parts[0], root_dir=base / before):
            yield from _expanded(base, before / name, parts[1:])


def _plain(part: str) -> str | None:
    """The only name that a part of a pattern fits, None if it fits several."""
    plain = re.sub(r"\[([*?[])\]", r"\1", part)
    return plain if glob.escape(plain) == part else None
