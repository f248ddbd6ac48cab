"""Upkeep of a store: what it holds, what goes when it is full, what is damaged, and clearing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from spvmia_plugin.store.database import remove_database
from spvmia_plugin.store.entries import Decode, Entries
from spvmia_plugin.store.files import Foreign, area, databases, discard, keyed, other_places, sweep, tree_size
from spvmia_plugin.store.folders import SELF_PROMPTS, Corpus, Folders, Locks
from spvmia_plugin.store.keys import Keys

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
