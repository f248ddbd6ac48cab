"""Attacks that score all records at once: their features, part by part, and the scores once those of all are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import AuditAttack
from spvmia_plugin.protocols import Backend
from spvmia_plugin.signals import RecordSignals, Unscored

PENDING = Unscored("not scored yet")
"""Until the last record has been seen."""


class FeatureTable(NamedTuple):
    """What an `AuditAttack` saw of an audit, over all processes.

    Attributes:
        ids: of the n records that it can say something of, ascending.
        names: of the F features.
        table: (n, F) float32, NaN where a model is not there.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    table: NDArray[np.float32]


class Collected:
    """Features of the records of one process.

    Args:
        attack: whose.
    """

    def __init__(self, attack: AuditAttack) -> None:
        self.attack = attack
        self._ids: list[str] = []
        self._parts: list[NDArray[np.float32]] = []
        self._unscored: dict[str, Unscored] = {}

    def add(self, signals: Mapping[str, RecordSignals]) -> dict[str, Unscored]:
        """Take a part of the records; says of each why it has no score, or that it has none yet."""
        found = dict(zip(signals, self.attack.rows(list(signals.values())), strict=True))
        rows = {record_id: row for record_id, row in found.items() if not isinstance(row, Unscored)}
        self._ids += rows
        self._parts += [np.array(list(rows.values()))] if rows else []
        self._unscored |= {record_id: row for record_id, row in found.items() if isinstance(row, Unscored)}
        return {record_id: row if isinstance(row, Unscored) else PENDING for record_id, row in found.items()}

    def settle(self, backend: Backend, audited: int) -> tuple[FeatureTable, dict[str, float | Unscored]]:
        """Score the records of all processes together; every process has to call it, whatever it scored.

        The rows are put in the order of the ids first, so that the scores are those of one process, to the bit.

        Args:
            backend: brings the processes together.
            audited: how many records the whole run scores.

        Returns:
            The features over all processes, and the scores of this one's records.
        """
        width = len(self.attack.feature_names)
        mine = np.concatenate([np.empty((0, width), dtype=np.float32), *self._parts])
        self._parts = []
        shares = backend.gather((self._ids, mine, len(self._unscored)))
        ids = [record_id for of_share, _, _ in shares for record_id in of_share]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        table = np.concatenate([of_share for _, of_share, _ in shares])[order]
        together = FeatureTable(tuple(ids[row] for row in order), self.attack.feature_names, table)
        if len(ids) + sum(without for _, _, without in shares) < audited:
            # What other processes scored is not known: a score would be another one than theirs.
            alone = Unscored(f"the backend {backend.name!r} does not bring the records of all processes together")
            return together, {**self._unscored, **dict.fromkeys(self._ids, alone)}
        scores = dict(zip(together.ids, self.attack.scores(table), strict=True))
        return together, {**self._unscored, **{record_id: scores[record_id] for record_id in self._ids}}
