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
from spvmia_plugin.trainers.blocks import Blocks, as_bytes

MOST_TOKENS = 20_000_000
"""So many tokens of blocks are kept at most."""
MOST_ITEMS = 20_000
"""So many items of a data set that is no table are asked for at most."""
_BATCH = 1000


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
        places: of every sequence, by a digest of its tokens; of a preference, the one with the chosen answer.
        rejected: digests of the sequences with the rejected answer.
        pairs: digests of the two of every preference, one behind the other.
        blocks: rows that hold parts of records, which nobody can take apart; None where there are none.
    """

    dataset: Any = field(repr=False)
    number: int
    complete: bool = True
    longest: int = 0
    places: dict[bytes, Row] = field(default_factory=dict)
    rejected: set[bytes] = field(default_factory=set)
    pairs: set[bytes] = field(default_factory=set)
    blocks: Blocks | None = None

    def add(self, sequence: _Sequence, item: int) -> None:
        """Note what stands in a row."""
        chosen = _digest(sequence.ids)
        self.places.setdefault(chosen, Row(item, sequence.start, len(sequence.ids)))
        self.longest = max(self.longest, len(sequence.ids))
        if sequence.rejected is not None:
            rejected = _digest(sequence.rejected)
            self.rejected.add(rejected)
            self.pairs.add(chosen + rejected)

    def place(self, ids: Sequence[int]) -> Row | None:
        """The sequence with these tokens."""
        return self.places.get(_digest(ids))

    def holds_pair(self, chosen: Sequence[int], rejected: Sequence[int]) -> bool:
        """Whether one row has these two answers, in this order."""
        return _digest(chosen) + _digest(rejected) in self.pairs

    def holds_rejected(self, ids: Sequence[int]) -> bool:
        """Whether a row has this sequence as its rejected one."""
        return _digest(ids) in self.rejected

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
    room, found, parted, numbered = MOST_TOKENS, [], False, False
    for item, values in _table(dataset, names) if names else _items(dataset, rows):
        sequences = _sequences(values)
        if sequences is None:
            return "the trainer's rows hold no tokens: they are made in its collator"
        for each in sequences:
            rows.add(each, item)
        parted = parted or len(sequences) > 1 or values.get("seq_lengths") is not None
        numbered = numbered or values.get("position_ids") is not None
        if blocks is not False and not parted and room > 0:
            found.append(array("i", sequences[0].ids))
            room -= len(sequences[0].ids)
    rows.complete = rows.complete and (parted or room > 0)
    alike = len({len(block) for block in found[:-1]}) == 1
    # Rows that say where their records begin can be taken apart, one with a single record too.
    if not parted and found and (alike or (blocks and not numbered)):
        rows.blocks = Blocks(found, rows.longest)
    return rows


_NEEDED = (
    *("input_ids", "attention_mask", "labels", "completion_mask", "assistant_masks", "seq_lengths", "position_ids"),
    *("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids"),
    *("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
)


_ANSWERS = (
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
    ("prompt_ids", "completion_ids", ""),  # KTO
)
"""Columns of a prompt, of what follows it, and of what was rejected in its place."""


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
    """Tokens of a row that belong together, from where they stand in it, and which of them carry loss.

    Of a preference they are those with the chosen answer, and `rejected` those with the other.
    """

    ids: list[int]
    counted: tuple[bool, ...] | None
    start: int = 0
    rejected: list[int] | None = None


def _sequences(values: Mapping[str, Any]) -> list[_Sequence] | None:
    """What a row holds: one sequence, or several that were packed; None where it holds no tokens."""
    for prompt, answer, other in _ANSWERS:
        if prompt in values and answer in values:
            before, after = _ints(values[prompt]), _ints(values[answer])
            rejected = [*before, *_ints(values[other])] if values.get(other) is not None else None
            return [_Sequence([*before, *after], (*[False] * len(before), *[True] * len(after)), 0, rejected)]
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


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(as_bytes(ids), digest_size=16).digest()


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
