"""Self-prompted text: the only text in the store, in a folder of its own, a file a batch."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from spvmia_plugin.store.files import (
    discard,
    if_writable,
    make_folder,
    make_root,
    storage_errors,
    visible,
    write_private,
)
from spvmia_plugin.store.folders import touch
from spvmia_plugin.store.keys import Keys, looks_sealed
from spvmia_plugin.store.layout import area

SELF_PROMPTS = "self_prompts"

_BATCH = re.compile(r"\d{8,}-[0-9a-f]{16}\.json")
"""Names of our batches. Another file in the folder is none of ours."""

_LOG = logging.getLogger(__name__)


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
            make_folder(self.folder.parent)
            make_folder(self.folder)
            write_private(self.folder / f"{min(texts):08d}-{sealed[:16].decode()}.json", sealed)
        self._grown(len(sealed))

    def batches(self) -> list[Path]:
        """The files of the batches."""
        return [path for path in visible(self.folder) if _BATCH.fullmatch(path.name)]

    def read(self, path: Path) -> dict[int, str] | None:
        """The texts of one batch, or None if it is damaged. A batch that has just gone is empty."""
        try:
            payload = self._keys.unseal(self._context, path.read_bytes())
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
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
