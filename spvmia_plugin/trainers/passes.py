"""How much of its data a trainer reads: not every training makes a whole pass, and not every pass takes every row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.util.strict_json import is_whole

_MOST_LOSSES = 1000
_CHECKPOINT = "checkpoint-"


@dataclass(frozen=True)
class Passes:
    """What a pass over a trainer's rows takes.

    Attributes:
        rows: of the trainer.
        reach: rows among which its sampler draws.
        drawn: of these in one pass; fewer where the last batch is dropped, more where one is drawn several times.
        with_replacement: whether a pass may draw a row twice.
        in_order: whether every pass takes the same rows.
        batches: of a pass, in each process.
        a_batch: rows of a whole batch, of all processes together; on average where its size is not told.
    """

    rows: int
    reach: int
    drawn: int
    with_replacement: bool
    in_order: bool
    batches: int
    a_batch: float

    def read(self, epochs: float) -> int:
        """About how many rows so many passes read: the nearest whole number to what is expected of them."""
        if self.with_replacement:
            return round(self.reach * -math.expm1(-epochs * self.drawn / self.reach))
        drawn = min(self.drawn, self.reach)
        begun = min(drawn, epochs % 1 * self.batches * self.a_batch)
        if self.in_order:
            return round(drawn if epochs >= 1 else begun)
        unread = (1 - drawn / self.reach) ** math.floor(epochs) * (1 - begun / self.reach)
        return round(self.reach * (1 - unread))


def passes_of(loader: Any, processes: int) -> Passes | None:
    """What the passes of a trainer's loader take; None of a stream, and where the loader says no lengths.

    Args:
        loader: the trainer's, as it is when the training begins.
        processes: that train together.
    """
    try:
        rows, batches = len(loader.dataset), len(loader)
    except (AttributeError, TypeError):
        return None
    batched: Any = getattr(loader, "batch_sampler", None)
    while hasattr(batched, "batch_sampler"):  # a process's share of another's
        batched = batched.batch_sampler
    sampler: Any = getattr(batched, "sampler", None)
    try:
        drawn = len(sampler) * getattr(sampler, "num_replicas", 1)
    except TypeError:
        drawn = rows
    reach = min(rows, drawn)
    if rows < 1 or reach < 1 or batches < 1:
        return None
    size: Any = getattr(batched, "batch_size", None)
    alike = type(batched).__name__ == "BatchSampler" and is_whole(size)  # others may cut batches by their tokens
    if alike and batched.drop_last:
        drawn -= drawn % (size * processes)
    with_replacement = bool(getattr(sampler, "replacement", False))
    a_batch = size * processes if alike else drawn / batches
    return Passes(rows, reach, drawn, with_replacement, "Sequential" in type(sampler).__name__, batches, a_batch)


def planned(state: Any, args: Any, passes: Passes) -> float:
    """How many passes a training is to make."""
    accumulated = getattr(args, "gradient_accumulation_steps", 1)
    updates = math.ceil(passes.batches / accumulated)
    return float(state.max_steps / updates) if state.max_steps > 0 else float(args.num_train_epochs)


def progress(state: Any, passes: Passes | None, *, best: bool = False) -> dict[str, object]:
    """What a training has done, as a manifest tells it.

    Args:
        state: of the trainer.
        passes: what its passes take; None where nobody knows.
        best: whether the weights are those of the best checkpoint, which the trainer has loaded, and not the last.
    """
    steps, epochs = state.global_step, state.epoch
    name = Path(getattr(state, "best_model_checkpoint", None) or "").name
    if best and name.startswith(_CHECKPOINT) and name.removeprefix(_CHECKPOINT).isdigit() and steps:
        earlier = int(name.removeprefix(_CHECKPOINT))
        steps, epochs = earlier, None if epochs is None else epochs * earlier / steps
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    told: dict[str, int | None] = {"rows": None, "rows_read": None}
    if passes is not None and epochs is not None:
        told = {"rows": passes.rows, "rows_read": passes.read(epochs)}
    return {"steps": steps, "epochs": epochs, **told, "losses": losses[-_MOST_LOSSES:]}
