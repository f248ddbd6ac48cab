"""Small values by key, in bulk, each with its checksum: token signals, paraphrases as edits, JSON. No pickle."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import EmbeddingNoise, Neighbour, Neighbours, TextEdits, TokenEdits
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store.database import Database
from spvmia_plugin.store.files import storage_errors
from spvmia_plugin.store.keys import Keys

T = TypeVar("T")

Decode = Callable[[bytes], object]

READ_BATCH = 500
"""Keys in one query; SQLite takes at least 999."""
WRITE_BATCH = 2000
"""Values in one transaction: some tens of milliseconds, so that other processes are not kept waiting."""

_PUT = """
INSERT INTO entries (key, kind, used, size, checksum, value) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, used = excluded.used, size = excluded.size,
    checksum = excluded.checksum, value = excluded.value
"""


class Entries:
    """All small values of a store.

    Attributes:
        corrupt_count: entries found damaged, and deleted, since the store was opened.
    """

    def __init__(self, root: Path, keys: Keys, clock: Callable[[], float]) -> None:
        self.database = Database(root)
        self._root = root
        self._keys = keys
        self._clock = clock
        self._opened = int(clock())
        self._touched: set[bytes] = set()
        self._damaged = 0

    @property
    def corrupt_count(self) -> int:
        """Damaged entries, plus one for each time the whole file was damaged."""
        return self._damaged + self.database.corrupt_count

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Values by key; what is absent or damaged is left out, and the damaged deleted."""
        found: dict[str, bytes] = {}
        with storage_errors(self._root):
            if not self.database.exists():
                return found
        for batch in _batches((bytes.fromhex(key) for key in keys), READ_BATCH):
            rows = self._select(kind, batch)
            damaged = [key for key, _, sound, _ in rows if not sound]
            found.update((key.hex(), value) for key, value, sound, _ in rows if sound)
            self._touched.update(key for key, _, sound, old in rows if sound and old)
            with contextlib.suppress(SpvmiaError):  # where nothing can be written they stay, and count as absent
                self.forget(damaged)
        return found

    def _select(self, kind: str, batch: Sequence[bytes]) -> list[tuple[bytes, bytes, bool, bool]]:
        marks = ",".join("?" * len(batch))
        query = f"SELECT key, kind, checksum, value, used < ? FROM entries WHERE key IN ({marks})"  # noqa: S608
        rows = self.database.read(lambda connection: connection.execute(query, (self._opened, *batch)).fetchall())
        return [
            (key, value, stored == kind.encode() and self._sound(key, stored, checksum, value), bool(old))
            for key, stored, checksum, value, old in rows
        ]

    def _sound(self, key: object, kind: object, checksum: object, value: object) -> bool:
        # A flipped bit can change the type of a column too.
        if not (isinstance(key, bytes) and isinstance(kind, bytes) and isinstance(value, bytes)):
            return False
        return self._keys.checksum(kind + b" " + key, value) == checksum

    def put(self, kind: str, values: Iterable[tuple[str, bytes]]) -> int:
        """Write values, batch by batch, each batch whole or not at all. Returns the bytes written.

        Raises:
            SpvmiaError: disk full, folder not writable, or locked by another process for over a minute.
        """
        written = 0
        with storage_errors(self._root):
            self._keys.secret  # noqa: B018 - made before the first value is, and outside of the transaction
        for batch in _batches(values, WRITE_BATCH):
            used, context = int(self._clock()), kind.encode() + b" "
            rows = [
                (key, kind, used, len(value), self._keys.checksum(context + key, value), value)
                for key, value in ((bytes.fromhex(name), value) for name, value in batch)
            ]
            self.database.write(lambda connection, rows=rows: connection.executemany(_PUT, rows))  # type: ignore[misc]
            written += sum(row[3] for row in rows)
        return written

    def forget(self, keys: Sequence[bytes]) -> None:
        """Delete damaged entries and count them."""
        if keys:
            self._damaged += len(keys)
            doomed = [(key,) for key in keys]
            self.database.write(lambda connection: connection.executemany("DELETE FROM entries WHERE key = ?", doomed))

    def flush_uses(self) -> None:
        """Write down which entries were read since the store was opened, in one go."""
        if not self._touched:
            return
        used = int(self._clock())
        rows = [(used, key) for key in self._touched]
        self._touched = set()
        # Reading must work on a full disk too, and the last use is only a hint for eviction.
        with contextlib.suppress(SpvmiaError):
            self.database.write(
                lambda connection: connection.executemany("UPDATE entries SET used = ? WHERE key = ?", rows)
            )

    def uses(self, before: float) -> list[tuple[int, int]]:
        """(second of last use, bytes) of the entries last used before a time, oldest first."""
        if not self.database.exists():
            return []
        query = "SELECT used, sum(size) FROM entries WHERE used < ? GROUP BY used ORDER BY used"
        return self.database.read(lambda connection: connection.execute(query, (int(before),)).fetchall())

    def evict(self, up_to: int) -> None:
        """Delete the entries last used at or before a second."""
        self.database.write(lambda connection: connection.execute("DELETE FROM entries WHERE used <= ?", (up_to,)))
        self.database.shrink()

    def clear(self, kind: str) -> tuple[int, int]:
        """Delete all entries of a kind; returns how many there were, and their bytes."""
        if not self.database.exists():
            return 0, 0
        counts = self.summary().get(kind, (0, 0))
        self.database.write(lambda connection: connection.execute("DELETE FROM entries WHERE kind = ?", (kind,)))
        self.database.shrink()
        return counts

    def has(self, kind: str) -> bool:
        """Whether there is any entry of a kind, sound or not."""
        with storage_errors(self._root):
            if not self.database.exists():
                return False
        query = "SELECT 1 FROM entries WHERE kind = ? LIMIT 1"
        found = self.database.read(lambda connection: connection.execute(query, (kind,)).fetchone())
        return found is not None

    def summary(self) -> dict[str, tuple[int, int]]:
        """(number, bytes) of the entries by kind."""
        if not self.database.exists():
            return {}
        query = "SELECT kind, count(*), sum(size) FROM entries GROUP BY kind"
        rows = self.database.read(lambda connection: connection.execute(query).fetchall())
        return {str(kind, "utf-8", "replace"): (count, size) for kind, count, size in rows}

    def verify(self, decoders: Mapping[str, Decode]) -> tuple[int, int]:
        """Check every entry, delete the damaged; returns how many were checked and how many deleted."""
        if not self.database.exists():
            return 0, 0
        before = self.corrupt_count
        self.database.read(_check_structure)
        checked, last = 0, -(2**63)
        while rows := self.database.read(lambda connection, last=last: _page(connection, last)):  # type: ignore[misc]
            bad = [row[0] for row in rows if not self._sound(*row[1:]) or not _decodes(decoders, row[2], row[4])]
            if bad:
                self._damaged += len(bad)
                doomed = [(row_id,) for row_id in bad]
                self.database.write(lambda c, doomed=doomed: c.executemany("DELETE FROM entries WHERE id = ?", doomed))  # type: ignore[misc]
            checked, last = checked + len(rows), rows[-1][0]
        return checked, self.corrupt_count - before

    def close(self) -> None:
        """Write down the last uses and close the file."""
        self.flush_uses()
        self.database.close()


class EntryView(Generic[T]):
    """The entries of one kind, decoded: `get` what is there, `put` what was computed."""

    def __init__(
        self,
        entries: Entries,
        kind: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        grown: Callable[[int], None],
    ) -> None:
        self._entries = entries
        self._kind = kind
        self._encode = encode
        self._decode = decode
        self._grown = grown

    def get(self, keys: Iterable[str]) -> dict[str, T]:
        """Values by key. A key without a sound value is left out: compute it, then `put` it.

        Args:
            keys: as `Store.key` makes them.

        Raises:
            SpvmiaError: the store can't be read.
        """
        values, damaged = {}, []
        for key, data in self._entries.get(self._kind, keys).items():
            try:
                values[key] = self._decode(data)
            except ValueError:
                damaged.append(bytes.fromhex(key))
        with contextlib.suppress(SpvmiaError):  # as in `Entries.get`
            self._entries.forget(damaged)
        return values

    def is_empty(self) -> bool:
        """Whether nothing of the kind is stored."""
        return not self._entries.has(self._kind)

    def put(self, values: Mapping[str, T]) -> None:
        """Store values by key; a key that is there already is overwritten.

        Raises:
            SpvmiaError: disk full, folder not writable, or locked by another process for over a minute.
        """
        self._grown(self._entries.put(self._kind, ((key, self._encode(value)) for key, value in values.items())))


def _check_structure(connection: sqlite3.Connection) -> None:
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if verdict != [(b"ok",)]:
        raise sqlite3.DatabaseError("the file's structure is damaged")


def _page(connection: sqlite3.Connection, last: int) -> list[tuple[int, object, object, object, object]]:
    query = "SELECT id, key, kind, checksum, value FROM entries WHERE id > ? ORDER BY id LIMIT 500"
    return connection.execute(query, (last,)).fetchall()


def _decodes(decoders: Mapping[str, Decode], kind: object, value: object) -> bool:
    if not isinstance(kind, bytes) or not isinstance(value, bytes):
        return False
    decode = decoders.get(str(kind, "utf-8", "replace"))
    if decode is None:  # sound, and of a kind that another version of the plugin knows: not ours to remove
        return True
    try:
        decode(value)
    except ValueError:
        return False
    return True


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


# Bytes an element of logprob, mean, std and kth (0: the array is absent), windows, number of tokens T. Then the arrays,
# little-endian, and top1 as bits.
_HEADER = struct.Struct("<BBBBII")
_FLOATS: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4"), 8: np.dtype("<f8")}


def encode_signals(signals: TokenSignals) -> bytes:
    """Bytes of one text's signals; the arrays keep their bits and their precision."""
    arrays = (signals.logprob, signals.mean, signals.std, signals.kth)
    if len(signals.top1) != len(signals) or any(array is not None and len(array) != len(signals) for array in arrays):
        raise ValueError(f"token signals: expected arrays of {len(signals)} tokens, got different lengths")
    header = _HEADER.pack(
        *(0 if array is None else array.dtype.itemsize for array in arrays), signals.windows, len(signals)
    )
    floats = [
        array.astype(_FLOATS[array.dtype.itemsize], copy=False).tobytes() for array in arrays if array is not None
    ]
    return b"".join([header, *floats, np.packbits(signals.top1).tobytes()])


def decode_signals(data: bytes) -> TokenSignals:
    """The signals `encode_signals` wrote.

    Raises:
        ValueError: the bytes are not of this layout.
    """
    try:
        *widths, windows, n_tokens = _HEADER.unpack_from(data)
        offset, arrays = _HEADER.size, []
        for width in widths:
            arrays.append(_floats(data, offset, width, n_tokens) if width else None)
            offset += width * n_tokens
        bits = np.frombuffer(data, np.uint8, (n_tokens + 7) // 8, offset)
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError("not token signals") from error
    logprob, mean, std, kth = arrays
    if logprob is None or len(data) != offset + len(bits):
        raise ValueError("not token signals")
    return TokenSignals(logprob, np.unpackbits(bits, count=n_tokens).astype(np.bool_), mean, std, windows, kth)


def _floats(data: bytes, offset: int, width: int, count: int) -> NDArray[np.floating]:
    # A copy: a view need not be aligned, and would keep all of the bytes.
    array: NDArray[np.floating] = np.frombuffer(data, _FLOATS[width], count, offset)
    return array.astype(_FLOATS[width].newbyteorder("="), copy=True)


def encode_json(value: Any) -> bytes:
    """Bytes of a JSON value."""
    return json.dumps(value, separators=(",", ":")).encode()


def decode_json(data: bytes) -> Any:
    """The value `encode_json` wrote. Raises ValueError if it is not JSON."""
    return json.loads(data)


def encode_neighbours(neighbours: Neighbours) -> bytes:
    """Bytes of one text's paraphrases: what was replaced by what, never the text."""
    rate = None if math.isnan(neighbours.mask_rate) else float(neighbours.mask_rate)
    return encode_json([[_pack(variant) for variant in neighbours.variants], rate, neighbours.reason])


def decode_neighbours(data: bytes) -> Neighbours:
    """The paraphrases `encode_neighbours` wrote.

    Raises:
        ValueError: the bytes are not of this layout.
    """
    try:
        variants, rate, reason = decode_json(data)
        unpacked = tuple(_UNPACK[tag](*fields) for tag, *fields in variants)
    except (KeyError, TypeError) as error:
        raise ValueError("not paraphrases") from error
    return Neighbours(unpacked, float("nan") if rate is None else float(rate), reason)


def _pack(variant: Neighbour) -> list[object]:
    if isinstance(variant, EmbeddingNoise):
        return ["noise", int(variant.seed), int(variant.sign), float(variant.scale)]
    if isinstance(variant, TokenEdits):
        return ["tokens", [int(p) for p in variant.positions], [int(t) for t in variant.token_ids]]
    return ["text", [[int(start), int(end), words] for start, end, words in variant.spans]]


_UNPACK: dict[str, Callable[..., Neighbour]] = {
    "noise": EmbeddingNoise,
    "tokens": lambda positions, token_ids: TokenEdits(tuple(positions), tuple(token_ids)),
    "text": lambda spans: TextEdits(tuple((start, end, words) for start, end, words in spans)),
}
