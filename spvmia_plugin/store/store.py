"""The store: what an audit has computed, by everything that would change it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Neighbours
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store.database import remove_database
from spvmia_plugin.store.entries import (
    Decode,
    Entries,
    EntryView,
    decode_json,
    decode_neighbours,
    decode_signals,
    encode_json,
    encode_neighbours,
    encode_signals,
)
from spvmia_plugin.store.files import (
    KEY,
    Foreign,
    area,
    databases,
    discard,
    keyed,
    make_root,
    other_places,
    storage_errors,
    sweep,
    tree_size,
)
from spvmia_plugin.store.folders import SELF_PROMPTS, Corpus, Folders, Locks
from spvmia_plugin.store.keys import Keys
from spvmia_plugin.util.files import user_cache

_LOG = logging.getLogger(__name__)

SIZE_LIMIT_BYTES = 20 * 2**30

_DECODERS: dict[str, Decode] = {
    "signals": decode_signals,
    "neighbours": decode_neighbours,
    "json": decode_json,
}
ENTRY_KINDS = tuple(_DECODERS)
FOLDER_KINDS = ("references",)
KINDS = (*ENTRY_KINDS, *FOLDER_KINDS, SELF_PROMPTS)


class Store:
    """Token signals, paraphrases, JSON values, references and self-prompted text, kept between runs.

    Nothing is created before the first use. Every value carries a keyed checksum: what is damaged or half-written
    counts as absent, is deleted, and shows in `corrupt_count`. Several processes may use one store at once.

    Attributes:
        root: the store's folder.
        signals: `TokenSignals` by key (`get(keys)`, `put(mapping)`).
        neighbours: `Neighbours` by key.
        json: JSON values by key. They must hold no text of a record.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        size_limit_bytes: int = SIZE_LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Name the store; nothing is read or written yet.

        Args:
            root: the folder (`mia_cache_dir`), None for the user's cache directory.
            size_limit_bytes: above it the least recently used goes, though never what was used since this object was
                made, or in the last hour by any process.
            clock: seconds since the epoch.
        """
        self.root = user_cache(root, utf8=True)
        self._limit = size_limit_bytes
        self._clock = clock
        self._opened = clock()
        self._unchecked_bytes = 0
        self._keys = Keys(self.root)
        self._entries = Entries(self.root, self._keys, clock)
        self._locks = Locks(self.root)
        self._folders = Folders(self.root, self._keys, self._locks, clock)
        self._corpora: dict[str, Corpus] = {}
        self._upkeep = Upkeep(
            self.root, FOLDER_KINDS, self._keys, self._entries, self._folders, self._locks, self.corpus
        )
        self.signals: EntryView[TokenSignals] = EntryView(
            self._entries, "signals", encode_signals, decode_signals, self._grown
        )
        self.neighbours: EntryView[Neighbours] = EntryView(
            self._entries, "neighbours", encode_neighbours, decode_neighbours, self._grown
        )
        self.json: EntryView[Any] = EntryView(self._entries, "json", encode_json, decode_json, self._grown)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def corrupt_count(self) -> int:
        """How much was found damaged, and removed, since this object was made."""
        corpora = sum(corpus.corrupt_count for corpus in self._corpora.values())
        return self._keys.corrupt_count + self._entries.corrupt_count + self._folders.corrupt_count + corpora

    def prepare(self) -> None:
        """Create the folder and its key now, so that a bad `mia_cache_dir` is told before long work.

        Where nothing can be written, a store that is there serves what it holds, and that is told in a line.

        Raises:
            SpvmiaError: the folder can't be written, and holds no store.
        """
        try:
            with storage_errors(self.root):
                make_root(self.root)
                self._keys.secret  # noqa: B018 - made on access
            self._entries.database.write(lambda connection: None)
        except SpvmiaError:
            if not self._is_readable():
                raise
            _LOG.warning("mia_cache_dir: %s cannot be written: what it holds is used, and nothing is kept", self.root)

    def _is_readable(self) -> bool:
        """Whether there is a store of ours, and it can be read."""
        try:
            with storage_errors(self.root):
                if not (self._keys.path.exists() and self._entries.database.exists()):
                    return False
                self._keys.secret  # noqa: B018 - read, for it is there
            self._entries.summary()
        except SpvmiaError:
            return False
        return True

    def key(self, kind: str, /, **parts: object) -> str:
        """Name a value by everything that would change it, as 64 hexadecimal digits.

        Args:
            kind: what it is; equal parts of different kinds get different names.
            **parts: JSON-ready. Private text only as `text_hash`, though the name is keyed as well.

        Raises:
            SpvmiaError: the store's key can't be read or made.
        """
        with storage_errors(self.root):
            return self._keys.name(kind, parts)

    def keys(self, kind: str, varying: str, /, **fixed: object) -> Callable[[str], str]:
        """What names values of which one part varies, as `key` does: the others are written once for all of them.

        Args:
            kind: as for `key`.
            varying: name of the part that is given for each, as JSON with keys in order and no spaces.
            **fixed: the other parts.

        Raises:
            SpvmiaError: the store's key can't be read or made.
        """
        with storage_errors(self.root):
            return self._keys.names(kind, varying, fixed)

    def text_hash(self, text: str) -> str:
        """Keyed hash of a text: of no use for guessing it without the store's key file.

        Raises:
            SpvmiaError: the store's key can't be read or made.
        """
        with storage_errors(self.root):
            return self._keys.text(text)

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Context manager: only one process at a time works on `key`; the others wait, then find it finished.

        Raises:
            SpvmiaError: the store can't be written.
        """
        return self._locks.hold(_checked(key))

    def find_folder(self, kind: str, key: str) -> Path | None:
        """The finished folder with every file's checksum verified, or None. A damaged one is removed.

        Call it under `lock(key)` when None means that you build it.

        Raises:
            SpvmiaError: the store can't be read.
        """
        return self._folders.find(_folder_kind(kind), _checked(key))

    def work_folder(self, kind: str, key: str) -> Path:
        """Where the folder is built: the same path each time, with what a killed process left. Call under `lock(key)`.

        Raises:
            SpvmiaError: the store can't be written.
        """
        return self._folders.work(_folder_kind(kind), _checked(key))

    def commit_folder(self, kind: str, key: str, *, drop: Sequence[str] = ("checkpoint*",)) -> Path:
        """Finish the work folder: checksums, private modes, one rename; returns its final place. Under `lock(key)`.

        Args:
            kind: one of `FOLDER_KINDS`.
            key: as `Store.key` made it.
            drop: patterns of what is only needed to resume; removed once the folder is finished, so that a kill before
                that loses nothing.

        Raises:
            SpvmiaError: the store can't be written.
        """
        folder = self._folders.commit(_folder_kind(kind), _checked(key), drop)
        self._grown(tree_size(folder))
        return folder

    def corpus(self, key: str) -> Corpus:
        """The self-prompted texts under a key: `load()` what is there, `append(mapping)` a batch."""
        if key not in self._corpora:
            self._corpora[key] = Corpus(self.root, _checked(key), self._keys, self._clock, self._grown)
        return self._corpora[key]

    def evict(self) -> int:
        """Remove the least recently used if the store exceeds its limit; returns the bytes of what was removed.

        Raises:
            SpvmiaError: the store can't be written.
        """
        self._unchecked_bytes = 0
        with storage_errors(self.root):
            return self._upkeep.evict(self._limit, min(self._opened, self._clock() - GRACE_SECONDS))

    def _grown(self, n_bytes: int) -> None:
        # Measuring the store takes a walk over its files: once for each twentieth of the limit is enough.
        self._unchecked_bytes += n_bytes
        if self._unchecked_bytes > self._limit / 20:
            self._tidy()

    def _tidy(self) -> None:
        # What was to be kept is kept: that the store could not be made smaller is no reason to end a run.
        try:
            self.evict()
        except SpvmiaError as error:
            _LOG.warning("%s", error)

    def summary(self) -> dict[str, Any]:
        """What the store holds, JSON-ready: `place`, `limit_bytes`, `total_bytes`, `kinds` (count, bytes), and what
        other versions have in its folder: `foreign` (name, version or null, bytes), which is no part of the total.

        Raises:
            SpvmiaError: the store can't be read.
        """
        with storage_errors(self.root):
            entries = self._entries.summary()
            counts = {kind: entries.get(kind, (0, 0)) for kind in ENTRY_KINDS}
            for kind in (*FOLDER_KINDS, SELF_PROMPTS):
                folders = self._upkeep.own(kind)
                counts[kind] = (len(folders), sum(map(tree_size, folders)))
            return {
                "place": str(self.root),
                "limit_bytes": self._limit,
                "total_bytes": self._upkeep.size(),
                "kinds": {kind: {"count": count, "bytes": size} for kind, (count, size) in counts.items()},
                "foreign": [
                    {"name": each.name, "version": each.version, "bytes": each.size} for each in self._upkeep.foreign()
                ],
            }

    def verify(self) -> Verified:
        """Check the checksum of everything and remove what is damaged.

        Raises:
            SpvmiaError: the store can't be read, or the damaged not be removed.
        """
        if not self.root.is_dir():
            return Verified()
        with storage_errors(self.root):
            report = self._upkeep.verify(_DECODERS)
            self._upkeep.sweep(self._clock() - GRACE_SECONDS)
            if self._keys.corrupt_count:
                report.removed.insert(0, "key: damaged, made anew; what was stored under the old one can't be found")
            return report

    def clear(self, kind: str | None = None) -> Cleared:
        """Remove all of one kind, or everything (the self-prompted text too); the key stays, and so does what other
        versions wrote.

        Args:
            kind: one of `KINDS`, None for all.

        Raises:
            SpvmiaError: the store can't be written.
        """
        cleared = Cleared()
        with storage_errors(self.root):
            for one in KINDS if kind is None else (kind,):
                if one in ENTRY_KINDS:
                    cleared.removed[one] = self._entries.clear(one)
                else:
                    part = self._upkeep.clear(one)
                    cleared.removed.update(part.removed)
                    cleared.in_use += part.in_use
            cleared.foreign = self._upkeep.foreign()
        return cleared

    def clear_foreign(self) -> list[Foreign]:
        """Remove what versions other than this one have in the store's folder; returns what was removed.

        Raises:
            SpvmiaError: the store can't be written.
        """
        with storage_errors(self.root):
            return self._upkeep.clear_foreign()

    def close(self) -> None:
        """Write down the last uses, evict if the limit is exceeded, close the file. The store may be used again."""
        if self._unchecked_bytes:
            self._tidy()
        self._entries.close()


def _folder_kind(kind: str) -> str:
    if kind not in FOLDER_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(FOLDER_KINDS)}, got {kind!r}")
    return kind


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):  # clearing and eviction leave other names alone
        raise ValueError(f"key: expected 64 hexadecimal digits as Store.key makes them, got {key!r}")
    return key


GRACE_SECONDS = 3600.0
"""What was used less than this ago, by any process, is not evicted."""
LOW_WATER = 0.9
"""Eviction goes down to this share of the limit, so that it doesn't start again with the next batch."""


@dataclass
class Verified:
    """What a verification found.

    Attributes:
        checked: number of things checked, by kind ("entries" for the small values together).
        removed: one line for each damaged thing, which is gone now.
        in_use: what another process is building, and was left alone.
        foreign: what another version wrote, and was left alone.
    """

    checked: dict[str, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)


@dataclass
class Cleared:
    """What was removed: (number, bytes) by kind, and what was left alone: what another process is building, and what
    another version wrote."""

    removed: dict[str, tuple[int, int]] = field(default_factory=dict)
    in_use: list[str] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)


@dataclass
class Upkeep:
    """The parts of a store that upkeep works on."""

    root: Path
    folder_kinds: tuple[str, ...]
    keys: Keys
    entries: Entries
    folders: Folders
    locks: Locks
    corpus: Callable[[str], Corpus]

    def areas(self, kind: str) -> list[Path]:
        """Where the folders of a kind lie: finished and unfinished."""
        finished = self.root / area(kind)
        return [finished] if kind == SELF_PROMPTS else [finished, self.root / area("work") / kind]

    def all_areas(self) -> list[Path]:
        """Every folder that holds folders."""
        return [area for kind in (*self.folder_kinds, SELF_PROMPTS) for area in self.areas(kind)]

    def size(self) -> int:
        """Bytes on disk, without what other versions wrote."""
        folders = [folder for kind in (*self.folder_kinds, SELF_PROMPTS) for folder in self.own(kind)]
        return self.entries.database.size() + sum(map(tree_size, folders))

    def own(self, kind: str) -> list[Path]:
        """The folders of a kind that this version wrote, finished and unfinished."""
        return [folder for place in self.areas(kind) for folder in keyed(place) if not self._is_foreign(kind, folder)]

    def _is_foreign(self, kind: str, folder: Path) -> bool:
        if kind == SELF_PROMPTS:
            return self.corpus(folder.name).is_foreign()
        return folder.parent == self.root / area(kind) and self.folders.is_foreign(folder)

    def foreign(self) -> list[Foreign]:
        """What lies in the store's folder, under names of a store, and was not written by this version."""
        found = self.entries.database.foreign()
        if self.keys.path.name != "key" and (self.root / "key").exists():
            found.append(Foreign("key", None, tree_size(self.root / "key")))
        found += [Foreign(path.name, version, tree_size(path)) for path, version in other_places(self.root)]
        for kind in (*self.folder_kinds, SELF_PROMPTS):
            folders = [f for place in self.areas(kind) for f in keyed(place) if self._is_foreign(kind, f)]
            found += [Foreign(f.relative_to(self.root).as_posix(), None, tree_size(f)) for f in folders]
        return found

    def clear_foreign(self) -> list[Foreign]:
        """Remove what `foreign` lists, and return it."""
        found = self.foreign()
        for each in found:
            path = self.root / each.name
            remove_database(path) if path in databases(self.root) else discard(path)
        return found

    def evict(self, limit: int, cutoff: float) -> int:
        """Remove the least recently used until the store is below its limit; returns the bytes of what was removed.

        Args:
            limit: bytes.
            cutoff: nothing used at or after this time is removed.
        """
        self.sweep(cutoff)
        self.entries.flush_uses()
        total = self.size()
        if total <= limit:
            return 0
        excess, freed, entries_up_to = total - int(limit * LOW_WATER), 0, None
        for used, size, folder in self._candidates(cutoff):
            if freed >= excess:
                break
            if folder is None:
                entries_up_to = int(used)
            elif not self._evict_folder(folder, cutoff):
                continue
            freed += size
        if entries_up_to is not None:
            self.entries.evict(entries_up_to)
        return freed

    def _candidates(self, cutoff: float) -> list[tuple[float, int, Path | None]]:
        """(last use, bytes, folder, or None for the entries of one second), least recently used first."""
        found: list[tuple[float, int, Path | None]] = [(used, size, None) for used, size in self.entries.uses(cutoff)]
        for folder in (folder for kind in (*self.folder_kinds, SELF_PROMPTS) for folder in self.own(kind)):
            used = _last_use(folder)
            if used < cutoff:
                found.append((used, tree_size(folder), folder))
        return sorted(found, key=lambda candidate: candidate[0])

    def _evict_folder(self, folder: Path, cutoff: float) -> bool:
        with self.locks.try_hold(folder.name) as held:
            if not held or _last_use(folder) >= cutoff:  # another process works on it, or has just used it
                return False
            discard(folder)
        return True

    def sweep(self, older_than: float) -> None:
        """Remove what killed processes left half-written."""
        for place in (self.root, *self.all_areas(), *self.own(SELF_PROMPTS)):
            sweep(place, older_than)

    def clear(self, kind: str) -> Cleared:
        """Remove everything of a folder kind that no process is building now."""
        cleared = Cleared({kind: (0, 0)})
        for folder in self.own(kind):
            size = tree_size(folder)
            with self.locks.try_hold(folder.name) as held:
                if not held:
                    cleared.in_use.append(f"{kind}/{folder.name[:12]}")
                    continue
                discard(folder)
            count, total = cleared.removed[kind]
            cleared.removed[kind] = (count + 1, total + size)
        for place in self.areas(kind):
            sweep(place, float("inf"))
        return cleared

    def verify(self, decoders: dict[str, Decode]) -> Verified:
        """Check every checksum; what is damaged is removed."""
        report = Verified()
        report.checked["entries"], damaged = self.entries.verify(decoders)
        if damaged:
            report.removed.append(f"entries: {damaged} damaged")
        for kind in self.folder_kinds:
            self._verify_folders(kind, report)
        self._verify_corpora(report)
        report.foreign = self.foreign()
        return report

    def _verify_folders(self, kind: str, report: Verified) -> None:
        report.checked[kind] = 0
        for folder in keyed(self.root / area(kind)):
            if self._is_foreign(kind, folder):
                continue
            name = f"{kind}/{folder.name[:12]}"
            with self.locks.try_hold(folder.name) as held:
                if not held:
                    report.in_use.append(name)
                    continue
                report.checked[kind] += 1
                if fault := self.folders.fault(folder):
                    discard(folder)
                    report.removed.append(f"{name}: {fault}")

    def _verify_corpora(self, report: Verified) -> None:
        report.checked[SELF_PROMPTS] = 0
        for folder in self.own(SELF_PROMPTS):
            corpus = self.corpus(folder.name)
            for path in corpus.batches():
                report.checked[SELF_PROMPTS] += 1
                if corpus.read(path) is None:
                    discard(path)
                    report.removed.append(f"{SELF_PROMPTS}/{folder.name[:12]}: one batch is damaged")


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # just removed by another process
        return float("inf")
