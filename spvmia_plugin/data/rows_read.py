"""How much of its data a training read before its weights were saved: a member that was never read is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.util.strict_json import is_number, is_whole


@dataclass(frozen=True)
class RowsRead:
    """A part of a training's rows.

    Attributes:
        share: of all rows, from 0 to below 1.
        read: about how many; None where the manifest says no number.
        rows: of the training; likewise.
    """

    share: float
    read: int | None = None
    rows: int | None = None

    def in_words(self) -> str:
        """About how many of how many."""
        if self.read is None:
            return f"about {self.share:.0%} of its rows"
        return f"about {self.read} of its {self.rows} rows"

    def to_json(self) -> dict[str, object]:
        """For the provenance of an audit."""
        return dict(vars(self))


def rows_read(read: Any, rows: Any) -> RowsRead | None:
    """So many of so many rows; None where that is all of them, or no number."""
    if not (is_whole(read) and is_whole(rows)) or not 0 <= read < rows:
        return None
    return RowsRead(read / rows, read, rows)


def read_by_trainer(training: Mapping[str, Any], *, seen: bool) -> RowsRead | None:
    """What the callback counted in a trainer's manifest; None where every row was read, or nobody knows.

    Args:
        training: what the manifest says that the training reported.
        seen: whether the trainer's rows were seen; how much of a stream was read nobody knows.
    """
    if "rows" in training:
        return rows_read(training.get("rows_read"), training["rows"])
    epochs = training.get("epochs")  # all that manifests of earlier versions say
    return RowsRead(epochs) if seen and is_number(epochs) and 0 <= epochs < 1 else None


def read_in_steps(training: Mapping[str, Any], rows: int) -> RowsRead | None:
    """What `spvmia finetune` read of so many records, by its steps and their size; None for all, or none yet."""
    steps, size = training.get("steps"), training.get("batch_size")
    return rows_read(steps * size, rows) if is_whole(steps) and is_whole(size) else None
