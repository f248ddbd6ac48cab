"""Attacks that score all records at once: their features, part by part, and the scores once those of all are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import AuditAttack, is_numeric
from spvmia_plugin.protocols import Backend
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import RecordSignals, Unscored
from spvmia_plugin.util.boundary import is_foreign
from spvmia_plugin.util.handed_over import ROUNDING

PENDING = Unscored("not scored yet")
"""Until the last record has been seen."""
SAME = 1e-4
"""Scores of two orders of the rows that differ by less, of the largest, differ by the rounding of sums."""


class FeatureTable(NamedTuple):
    """What an `AuditAttack` saw of an audit, over all processes.

    Attributes:
        ids: of the n records that it can say something of: ascending, or in an order that knows no label where the
            attack is a plugin's.
        names: of the F features.
        table: (n, F) float32, NaN where a model is not there; read-only.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    table: NDArray[np.float32]


class Collected:
    """Features of the records of one process.

    Args:
        attack: whose.

    Attributes:
        notes: what is to be told of the attack, once it has scored.
    """

    def __init__(self, attack: AuditAttack) -> None:
        self.attack = attack
        self.notes: list[str] = []
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

        The rows are put in an order of the ids first, so that the scores are those of one process, to the bit. Ids are
        nearly in the order of the labels (files of members and of non-members): whoever else's attack takes places
        into account, ties in a sort for one, gets them in another.

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
        foreign = is_foreign(self.attack)
        order = sorted(range(len(ids)), key=lambda i: (stable_seed("row", ids[i]) if foreign else 0, ids[i]))
        table = np.concatenate([of_share for _, of_share, _ in shares])[order]
        table.flags.writeable = False
        together = FeatureTable(tuple(ids[row] for row in order), self.attack.feature_names, table)
        if len(ids) + sum(without for _, _, without in shares) < audited:
            # What other processes scored is not known: a score would be another one than theirs.
            alone = Unscored(f"the backend {backend.name!r} does not bring the records of all processes together")
            return together, {**self._unscored, **dict.fromkeys(self._ids, alone)}
        in_order = self.attack.scores(table)
        if foreign and not _are_same(in_order, self.attack.scores(table[::-1])[::-1]):
            self.notes.append(
                f"the attack {self.attack.name!r} gives other scores when the same records come in another order: "
                "equal features have to get equal scores; correct the attack's plugin (docs/plugins.md)"
            )
        scores = dict(zip(together.ids, in_order, strict=True))
        return together, {**self._unscored, **{record_id: scores[record_id] for record_id in self._ids}}

    def p_values(self, features: FeatureTable) -> dict[str, float]:
        """The p-values by record id, of records that have one; none, and a note, where they are none.

        Args:
            features: as from `settle`.
        """
        found = self.attack.p_values(features.table) if len(features.table) else None
        if found is None:
            return {}
        if (got := _misfit(found, len(features.ids))) is not None:
            self.notes.append(
                f"the attack {self.attack.name!r} has no p-values: expected an array of {len(features.ids)} numbers "
                f"from 0 to 1 (NaN for none) from p_values, got {got}; correct the attack's plugin"
            )
            return {}
        values = np.clip(np.asarray(found, dtype=np.float64), 0, 1)
        return {record_id: p for record_id, p in zip(features.ids, values.tolist(), strict=True) if not np.isnan(p)}

    def told(self, features: FeatureTable) -> dict[str, object]:
        """What the attack says of how it scored; nothing, and a note, where it says something else than a mapping."""
        found: object = self.attack.told(features.table)
        if isinstance(found, Mapping):
            return dict(found)
        self.notes.append(
            f"the attack {self.attack.name!r} says nothing of how it scored: expected a mapping from told, got "
            f"{type(found).__name__}; correct the attack's plugin"
        )
        return {}


def _misfit(found: object, count: int) -> str | None:
    """What p-values are instead of an array of so many; None where they are one."""
    if not isinstance(found, np.ndarray) or not is_numeric(found):
        return type(found).__name__
    if found.shape != (count,):
        return f"one of shape {found.shape}"
    beyond = found[(found < -ROUNDING) | (found > 1 + ROUNDING)]
    return f"{beyond[0]:g}" if len(beyond) else None


def _are_same(one: Sequence[float | Unscored], other: Sequence[float | Unscored]) -> bool:
    """Whether two lists of scores tell the same, but for the rounding of sums."""
    left, right = (np.array([np.nan if isinstance(each, Unscored) else each for each in of]) for of in (one, other))
    largest = np.nanmax(np.abs(left), initial=0.0)
    return bool(np.allclose(left, right, rtol=0.0, atol=SAME * largest, equal_nan=True))
