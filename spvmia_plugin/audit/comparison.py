"""The attacks of one run on the same data, compared once all of them have their results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.audit.outcome import RecordResult
from spvmia_plugin.metrics.strongest import strongest
from spvmia_plugin.records import Record


class Comparison:
    """Collects the results of every task that attacks the same data, and finds the strongest attack among them.

    Attributes:
        strongest: `Strongest.to_json()` with the name of the task added; empty until every task has its results. The
            harness writes down a task's record before the next task is aggregated, so this one dict is shared by the
            records of all tasks and filled in place by the last.

    Args:
        attacks: by task. Blind attacks do not look at the model and are not compared.
        seed: of the draws of the max statistic.
    """

    def __init__(self, attacks: Mapping[str, Attack], seed: int) -> None:
        self.strongest: dict[str, object] = {}
        self._seed = seed
        self._attacks = {task: attack for task, attack in attacks.items() if not isinstance(attack, BlindAttack)}
        self._results: dict[str, Mapping[str, RecordResult]] = {}
        self._records: dict[str, Record] = {}

    def add(self, task: str, results: Mapping[str, RecordResult], records: Iterable[Record]) -> None:
        """Take one task's results of all ranks; the last one brings the comparison.

        Args:
            task: its name.
            results: by record id.
            records: at least those with a result. Tasks may have been limited to different records.
        """
        self._records |= {record.id: record for record in records}
        if task in self._attacks:
            self._results[task] = results
        if len(self._results) == len(self._attacks):
            self.strongest.clear()
            self.strongest.update(self._compare())

    def _compare(self) -> dict[str, object]:
        ids = sorted({record_id for results in self._results.values() for record_id in results})
        records = [self._records[record_id] for record_id in ids]
        scores = {task: [_score(self._results[task].get(record_id)) for record_id in ids] for task in self._attacks}
        found = strongest(
            scores,
            np.array([record.is_member for record in records], dtype=bool),
            [record.cluster for record in records],
            seed=self._seed,
        )
        name = self._attacks[found.name].name if found.name else None
        return {**found.to_json(), "name": name, "task": found.name}


def _score(result: RecordResult | None) -> float:
    """A score, NaN where there is none."""
    return math.nan if result is None or result.score is None else result.score
