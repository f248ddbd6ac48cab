"""Batches by token budget, longest first, halved when memory runs out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size

from spvmia_plugin.errors import SpvmiaError

TOKENS_PER_BATCH = {"cpu": 2048}
"""Padded tokens of one batch. More gains nothing on a CPU, and is more to repeat after a kill."""
TOKENS_PER_BATCH_DEVICE = 2**16
PADDED_SHARE = 32
"""One in so many tokens of the budget may be padding: 64 on a CPU, where a pass costs about 40 besides its tokens."""


def token_budget(device_type: str) -> int:
    """Padded tokens that one batch may hold on a kind of device, before any trial."""
    return TOKENS_PER_BATCH.get(device_type, TOKENS_PER_BATCH_DEVICE)


@dataclass(frozen=True)
class Batch:
    """Positions of the sequences that go through the model together, and the tokens of the longest."""

    rows: Sequence[int]
    width: int


def plan_batches(
    lengths: Sequence[int], budget: int, max_rows: int | None = None, *, most_padding: int | None = None
) -> list[Batch]:
    """Group positions into batches of at most `budget` padded tokens, longest first, at least one row each.

    A batch ends before the row that would bring its padding above `most_padding`. Depends on nothing but the arguments;
    equal lengths keep their order.
    """
    # Longest first: if memory runs out, it does so in the first batch, and rows that follow each other differ least.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[Batch] = []
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])  # a batch is rows x width, and this row is its longest
        end = start + min(max(1, budget // width), max_rows or len(order))
        rows = order[start:end]
        if most_padding is not None:
            # Of the first k rows together, for k = 1, 2, ...: it only grows, so those that may stay are a prefix.
            padding = itertools.accumulate(width - lengths[i] for i in rows)
            rows = rows[: max(1, sum(tokens <= most_padding for tokens in padding))]
        batches.append(Batch(rows, width))
        start += len(rows)
    return batches


def plan_passes(lengths: Sequence[int], budget: int) -> list[Batch]:
    """Batches that each are one forward pass: where padding would cost more than another pass, another pass."""
    return plan_batches(lengths, budget, most_padding=budget // PADDED_SHARE)


class BatchRunner:
    """Runs planned batches whole; once memory has run out, in parts of at most the tokens that fitted.

    Attributes:
        limit: these tokens, with padding; None while memory has never run out.
        on_limit: called when `limit` has changed.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.on_limit: Callable[[], None] | None = None

    def run(self, batches: Sequence[Batch], work: Callable[[Batch], None]) -> None:
        """Call `work` on every batch in turn, or on its consecutive parts.

        Raises:
            SpvmiaError: not even one row fits into memory.
        """
        if not batches:
            return
        at = _Position()

        # `at` outlives an attempt: after memory ran out, the next one goes on with the rows that are not done, in
        # smaller parts. A batch of R rows, W wide, is done in parts of limit // W rows.
        def attempt(limit: int) -> None:
            if limit < largest and limit != self.limit:
                self.limit = limit
                if self.on_limit is not None:
                    self.on_limit()
            while at.batch < len(batches):
                batch = batches[at.batch]
                rows = max(1, limit // batch.width)  # one row is tried even where it is longer than what fitted
                while at.row < len(batch.rows):
                    work(Batch(batch.rows[at.row : at.row + rows], batch.width))
                    at.row += rows
                at.batch, at.row = at.batch + 1, 0

        # In tokens of the batch that failed: half of the rows that were tried at once, 0 (nothing fits) from one row.
        def halve() -> int:
            batch = batches[at.batch]
            rows = min(len(batch.rows) - at.row, max(1, (self.limit or largest) // batch.width))
            return rows // 2 * batch.width

        largest = max(len(batch.rows) * batch.width for batch in batches)
        if self._fits(attempt, min(self.limit or largest, largest)):
            return
        run = find_executable_batch_size(attempt, starting_batch_size=halve(), reduce_batch_size_fn=halve)
        try:
            run()
        except RuntimeError as error:
            if "No executable batch size found" not in str(error):
                raise
            raise SpvmiaError(
                f"out of memory: expected room for one sequence of {batches[at.batch].width} tokens beside the model, "
                "got none; lower mia_block_size or mia_max_length, or use a device with more memory"
            ) from None

    @staticmethod
    def _fits(attempt: Callable[[int], None], limit: int) -> bool:
        """Try without accelerate's helper, which collects garbage first: half a second for every call."""
        try:
            attempt(limit)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            return False
        return True


@dataclass
class _Position:
    """Where a run has got to: what is before it is not done again after memory ran out."""

    batch: int = 0
    row: int = 0
