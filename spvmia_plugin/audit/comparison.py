"""The attacks of one run on the same data, compared once all of them have their results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.audit.outcome import RecordResult
from spvmia_plugin.metrics.mean import error_correlations
from spvmia_plugin.metrics.strongest import strongest
from spvmia_plugin.records import Record


class Comparison:
    """Collects the results of every task that attacks the same data: which is strongest, and how their errors agree.

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
        self._correlations: Mapping[str, Mapping[tuple[str, str], float]] | None = None

    def add(self, task: str, results: Mapping[str, RecordResult], records: Iterable[Record]) -> None:
        """Take one task's results of all ranks; the last one brings the comparison.

        Args:
            task: its name.
            results: by record id.
            records: at least those with a result. Tasks may have been limited to different records.
        """
        self._records |= {record.id: record for record in records}
        self._results[task] = results
        self._correlations = None
        if self._attacks.keys() <= self._results.keys():
            self.strongest.clear()
            self.strongest.update(self._compare())

    def correlation(self, metric: str, one: str, other: str) -> float:
        """How the errors of two tasks' numbers go together; 1 where that is not known, which errs on the safe side.

        Args:
            metric: `auroc`, `tpr_at_1pct_fpr` or `tpr_at_0.1pct_fpr`.
            one: a task.
            other: a task.
        """
        if self._correlations is None:
            scores, members, clusters = self._table(self._results)
            self._correlations = error_correlations(scores, members, clusters, seed=self._seed)
        return self._correlations[metric].get((one, other), 1.0)

    def _compare(self) -> dict[str, object]:
        scores, members, clusters = self._table(self._attacks)
        found = strongest(scores, members, clusters, seed=self._seed)
        name = self._attacks[found.name].name if found.name else None
        return {**found.to_json(), "name": name, "task": found.name}

    def _table(self, tasks: Iterable[str]) -> tuple[dict[str, list[float]], NDArray[np.bool_], list[str]]:
        """Scores of each task, NaN where there is none, labels and documents of all records that some task has."""
        chosen = {task: self._results[task] for task in tasks}
        ids = sorted({record_id for results in chosen.values() for record_id in results})
        records = [self._records[record_id] for record_id in ids]
        scores = {task: [_score(results.get(record_id)) for record_id in ids] for task, results in chosen.items()}
        members = np.array([record.is_member for record in records], dtype=bool)
        return scores, members, [record.cluster for record in records]


def _score(result: RecordResult | None) -> float:
    """A score, NaN where there is none."""
    return math.nan if result is None or result.score is None else result.score
