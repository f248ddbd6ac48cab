"""What a trainer made of its data: sequences of token ids, and which of them carry loss.

A callback sees them shuffled, cut, perhaps packed or in blocks that nobody can take apart.
"""

from __future__ import annotations

import hashlib
import random
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from spvmia_plugin.data.weights import spread

MOST_TOKENS = 20_000_000
"""So many tokens of blocks are kept at most."""
MOST_ITEMS = 20_000
"""So many items of a data set that is no table are asked for at most."""
WINDOW, WINDOWS = 12, 8
"""Of a record that packing may have cut, so many stretches of so many tokens are looked for."""
LEAST_WINDOWS = 3
"""Of a record with fewer, the cut may have taken all that is its own."""
_BATCH = 1000
_SIZE = array("i").itemsize


@dataclass(frozen=True)
class Row:
    """Where a sequence stands among the trainer's.

    Attributes:
        item: number of the row in the trainer's data set.
        start: its first token there.
        length: tokens.
    """

    item: int
    start: int
    length: int


@dataclass
class Rows:
    """What the trainer has.

    Attributes:
        dataset: its data set.
        number: rows of that.
        complete: whether all were read.
        longest: tokens of the longest sequence.
        places: of every sequence, by a digest of its tokens.
        blocks: rows that hold parts of records, which nobody can take apart: the tokens of all, a mark between them.
    """

    dataset: Any = field(repr=False)
    number: int
    complete: bool = True
    longest: int = 0
    places: dict[bytes, Row] = field(default_factory=dict)
    blocks: bytes = b""

    def place(self, ids: Sequence[int]) -> Row | None:
        """The sequence with these tokens; where rows are blocks, these tokens but for where a block ended."""
        row = self.places.get(_digest(ids))
        if row is not None or not self.blocks:
            return row
        windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
        lost = 1 + len(ids) // max(1, self.longest)
        if self.tells_of(ids) and sum(map(self._holds, spread(windows, WINDOWS))) >= min(len(windows), WINDOWS) - lost:
            return Row(-1, -1, len(ids))
        return None

    def tells_of(self, ids: Sequence[int]) -> bool:
        """Whether a sequence can be found at all: where rows are blocks, it must be longer than what a cut hides."""
        return not self.blocks or len(ids) // WINDOW >= LEAST_WINDOWS + len(ids) // max(1, self.longest)

    def _holds(self, window: Sequence[int]) -> bool:
        needle = _bytes(window)
        at = self.blocks.find(needle)
        while at >= 0 and at % _SIZE:
            at = self.blocks.find(needle, at + 1)
        return at >= 0

    def counted(self, row: Row) -> tuple[bool, ...] | None:
        """Which tokens of a sequence carry loss; None where its row does not say."""
        if row.start < 0:
            return None
        with as_before():
            sequences = _sequences(self.dataset[row.item]) or []
        return next((each.counted for each in sequences if each.start == row.start), None)


def read_rows(dataset: Any, *, blocks: bool | None) -> Rows | str:
    """The sequences of a trainer's data set, or why they cannot be read.

    Args:
        dataset: the trainer's.
        blocks: whether its rows are blocks: several records, or parts of them, one after the other. None where nobody
            says: they are if all are equally long.
    """
    if not hasattr(dataset, "__len__"):
        return "the trainer's data are a stream, which passes unseen"
    names = list(getattr(dataset, "column_names", None) or ())
    rows = Rows(dataset, len(dataset))
    room, found = MOST_TOKENS, []
    for item, values in _table(dataset, names) if names else _items(dataset, rows):
        sequences = _sequences(values)
        if sequences is None:
            return "the trainer's rows hold no tokens: they are made in its collator"
        for each in sequences:
            rows.places.setdefault(_digest(each.ids), Row(item, each.start, len(each.ids)))
            rows.longest = max(rows.longest, len(each.ids))
        if len(sequences) == 1 and blocks is not False and room > 0:
            found.append(_bytes([*sequences[0].ids, -1]))
            room -= len(sequences[0].ids)
    rows.complete = rows.complete and room > 0
    alike = len({len(block) for block in found[:-1]}) == 1
    rows.blocks = b"".join(found) if blocks or alike else b""
    return rows


_NEEDED = (
    *("input_ids", "attention_mask", "labels", "completion_mask", "assistant_masks", "seq_lengths", "position_ids"),
    *("prompt_ids", "chosen_ids", "prompt_input_ids", "chosen_input_ids"),
)


def _table(dataset: Any, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    wanted = [name for name in _NEEDED if name in names]
    if not wanted:
        yield 0, {}
        return
    number = 0
    for batch in dataset.with_format(None).select_columns(wanted).iter(batch_size=_BATCH):
        for values in zip(*(batch[name] for name in wanted), strict=True):
            yield number, dict(zip(wanted, values, strict=True))
            number += 1


def _items(dataset: Any, rows: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    chosen = spread(range(len(dataset)), MOST_ITEMS)
    rows.complete = len(chosen) == len(dataset)
    with as_before():
        for item in chosen:
            values = dataset[item]
            yield item, values if isinstance(values, Mapping) else {}


@dataclass(frozen=True)
class _Sequence:
    """Tokens of a row that belong together, from where they stand in it, and which of them carry loss."""

    ids: list[int]
    counted: tuple[bool, ...] | None
    start: int = 0


def _sequences(values: Mapping[str, Any]) -> list[_Sequence] | None:
    """What a row holds: one sequence, or several that were packed; None where it holds no tokens."""
    for prompt, chosen in (("prompt_ids", "chosen_ids"), ("prompt_input_ids", "chosen_input_ids")):
        if prompt in values and chosen in values:
            before, after = _ints(values[prompt]), _ints(values[chosen])
            return [_Sequence([*before, *after], (*[False] * len(before), *[True] * len(after)))]
    if "input_ids" not in values:
        return None
    ids = _ints(values["input_ids"])
    counted = _counted(values, len(ids))
    mask = values.get("attention_mask")
    if mask is not None and len(ids) == len(bits := _ints(mask)):  # padding
        kept = [i for i, bit in enumerate(bits) if bit]
        ids, counted = [ids[i] for i in kept], None if counted is None else tuple(counted[i] for i in kept)
    found = []
    start = 0
    for length in _lengths(values, len(ids)) or [len(ids)]:
        cut = slice(start, start + length)
        found.append(_Sequence(ids[cut], None if counted is None else counted[cut], start))
        start += length
    return found


def _lengths(values: Mapping[str, Any], number: int) -> list[int] | None:
    if values.get("seq_lengths") is not None:
        return _ints(values["seq_lengths"])
    if values.get("position_ids") is not None:
        positions = _ints(values["position_ids"])
        starts = [i for i, position in enumerate(positions) if position == 0]
        if len(positions) == number and len(starts) > 1:
            return [end - start for start, end in zip(starts, [*starts[1:], number], strict=True)]
    return None


def _counted(values: Mapping[str, Any], number: int) -> tuple[bool, ...] | None:
    if values.get("labels") is not None:
        return tuple(label != -100 for label in _ints(values["labels"]))
    masks = [_ints(values[name]) for name in ("completion_mask", "assistant_masks") if values.get(name) is not None]
    if not masks or any(len(mask) != number for mask in masks):
        return None
    return tuple(all(bits) for bits in zip(*masks, strict=True))


def _ints(values: Any) -> list[int]:
    values = values.tolist() if hasattr(values, "tolist") else values
    return [int(each) for each in values]


def _bytes(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(_bytes(ids), digest_size=16).digest()


@contextmanager
def as_before() -> Iterator[None]:
    """Leave the random state of Python, NumPy and torch as it was: the training must come out the same."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    states = (
        random.getstate(),
        None if numpy is None else numpy.random.get_state(),
        None if torch is None else torch.random.get_rng_state(),
    )
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy is not None:
            numpy.random.set_state(states[1])
        if torch is not None:
            torch.random.set_rng_state(states[2])
