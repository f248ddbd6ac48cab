"""The store: what an audit has computed, by everything that would change it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Neighbours
from spvmia_plugin.signals import TokenSignals
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
    make_root,
    storage_errors,
    tree_size,
)
from spvmia_plugin.store.folders import SELF_PROMPTS, Corpus, Folders, Locks
from spvmia_plugin.store.keys import Keys
from spvmia_plugin.store.upkeep import GRACE_SECONDS, Cleared, Upkeep, Verified
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

    def drop_folder(self, kind: str, key: str) -> None:
        """Remove a finished folder that turned out to be no use; another may be built. Call under `lock(key)`."""
        self._folders.drop(_folder_kind(kind), _checked(key))

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
