"""What a run gives back: a score or a reason for every record and attack, how attacks compare, and what it cost."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import Attack, BlindAttack, as_scores, mean_logprob
from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.roles import reference_role
from spvmia_plugin.auditing.subjects import Together, groups_together, units_together
from spvmia_plugin.auditing.tables import FeatureTable
from spvmia_plugin.checks import Finding
from spvmia_plugin.config import SelfPrompt
from spvmia_plugin.metrics.leaders import Compared, Strongest
from spvmia_plugin.metrics.mean import error_correlations
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.protocols import Cost
from spvmia_plugin.records import Record, clusters_by_records
from spvmia_plugin.signals import RecordSignals, Role, Unscored, View
from spvmia_plugin.util.schema import as_json


@dataclass(frozen=True, slots=True)
class RecordResult:
    """One record under one attack, as it stands in the harness's samples file.

    Attributes:
        score: the attack's score, or None.
        reason: why there is none.
        n_tokens: scored tokens of the record under the target, or the reference where an attack does not look at the
            target's; None where nothing was scored.
        target: mean log-probability under the target, in nats a token.
        reference: the same under the model the attack calibrates with.
        p_value: how probable the score were if the record had not been seen, by attacks that can tell.
    """

    score: float | None
    reason: str | None = None
    n_tokens: int | None = None
    target: float | None = None
    reference: float | None = None
    p_value: float | None = None

    def to_json(self) -> str:
        """The JSON string of `resps[0][0]`."""
        # Written by hand, as json.dumps would: there is one for every record and attack.
        score, target, reference = (_number(value) for value in (self.score, self.target, self.reference))
        reason = "null" if self.reason is None else json.dumps(self.reason)
        n_tokens = "null" if self.n_tokens is None else int(self.n_tokens)
        return (
            f'{{"score": {score}, "reason": {reason}, "n_tokens": {n_tokens}, "target": {target}, '
            f'"reference": {reference}' + ("}" if self.p_value is None else f', "p_value": {_number(self.p_value)}}}')
        )

    @classmethod
    def from_json(cls, text: str) -> RecordResult:
        """Read `to_json`'s string."""
        return cls(**json.loads(text))

    @classmethod
    def of(cls, value: float | Unscored, **means: float | int | None) -> RecordResult:
        """Wrap an attack's answer; what is not finite is null in the file, and no score."""
        known: dict[str, Any] = {k: v if v is not None and math.isfinite(v) else None for k, v in means.items()}
        if isinstance(value, Unscored):
            return cls(None, value.reason, **known)
        number = float(value)
        return cls(number, None, **known) if math.isfinite(number) else cls(None, "score is not finite", **known)


def _number(value: float | None) -> str:
    """A finite number as JSON has it, or null."""
    if value is None:
        return "null"
    if not math.isfinite(value):
        raise ValueError(f"a record's result: expected finite numbers, got {value}")
    return float.__repr__(value) if isinstance(value, float) else str(value)


def score_records(
    attack: Attack, signals: Mapping[str, RecordSignals], known: Mapping[str, float | Unscored] | None = None
) -> dict[str, RecordResult]:
    """Score some records.

    Args:
        attack: scores them.
        signals: by record id.
        known: scores by record id of an attack that is not asked record by record: a blind one, from `blind_scores`,
            or one that scores all records at once.

    Returns:
        By record id: the score, or the reason why there is none, and the means of the samples file.
    """
    scores = known or _by_id(signals, attack.score_many(list(signals.values())), attack, "score_many")
    role = reference_role(attack)
    of_target, of_reference = (Role.TARGET, View.TEXT), (role, View.TEXT) if role else None
    results = {}
    for record_id, of_record in signals.items():
        target = of_record.tokens.get(of_target)
        reference = of_record.tokens.get(of_reference) if of_reference else None
        results[record_id] = RecordResult.of(
            scores[record_id],
            n_tokens=len(read) if (read := target if target is not None else reference) is not None else None,
            target=mean_logprob(target) if target is not None and len(target) else None,
            reference=mean_logprob(reference) if reference is not None and len(reference) else None,
        )
    return results


def blind_scores(attack: BlindAttack, audited: Sequence[Record], seed: int) -> dict[str, float | Unscored]:
    """Scores by record id of an attack that sees no model.

    Args:
        attack: scores them.
        audited: the records of all processes: it is fitted on them.
        seed: of the folds.
    """
    found = attack.score_all(
        [record.text for record in audited],
        np.array([record.is_member for record in audited], dtype=bool),
        clusters_by_records(audited),
        seed,
    )
    return _by_id([record.id for record in audited], found, attack, "score_all")


def _by_id(ids: Collection[str], found: object, attack: Attack, method: str) -> dict[str, float | Unscored]:
    return dict(zip(ids, as_scores(found, len(ids), attack.name, method), strict=True))


class Results(Mapping[str, RecordResult]):
    """One attack's results by record id, in arrays: a tenth of what as many objects take.

    Args:
        found: to begin with.
    """

    def __init__(self, found: Mapping[str, RecordResult] | None = None) -> None:
        self._row: dict[str, int] = {}
        self._numbers = {name: array("d") for name in ("score", "target", "reference")}  # NaN: none
        self._n_tokens = array("q")  # -1: none
        self._p_values: dict[int, float] = {}  # by row, of the few attacks that give them
        self._reason = array("q")  # number in `_reasons`
        self._reasons: dict[str | None, int] = {}
        self._told: list[str | None] = []  # the reasons by their numbers
        self.add(found or {})

    def add(self, found: Mapping[str, RecordResult]) -> None:
        """Take results of records that have none here yet."""
        first = len(self._reason)
        self._row.update(zip(found, range(first, first + len(found)), strict=True))
        for name, values in self._numbers.items():
            every = (getattr(result, name) for result in found.values())
            values.extend([math.nan if value is None else value for value in every])
        for result in found.values():
            self._n_tokens.append(-1 if result.n_tokens is None else result.n_tokens)
            self._reason.append(self._reasons.setdefault(result.reason, len(self._reasons)))
        self._p_values |= {row: r.p_value for row, r in enumerate(found.values(), first) if r.p_value is not None}
        self._told = list(self._reasons)

    def settle(self, scores: Mapping[str, float | Unscored], p_values: Mapping[str, float] | None = None) -> None:
        """Put the scores of records that have results here in place of what stands there: all at once, at the end.

        Args:
            scores: by record id.
            p_values: likewise, of attacks that give them.
        """
        self._p_values |= {self._row[record_id]: value for record_id, value in (p_values or {}).items()}
        for record_id, score in scores.items():
            row, result = self._row[record_id], RecordResult.of(score)
            self._numbers["score"][row] = math.nan if result.score is None else result.score
            self._reason[row] = self._reasons.setdefault(result.reason, len(self._reasons))
        self._told = list(self._reasons)

    def scores(self, record_ids: Iterable[str]) -> list[float]:
        """The scores of some records, NaN where there is none."""
        rows, scores = map(self._row.get, record_ids), self._numbers["score"]
        return [math.nan if row is None else scores[row] for row in rows]

    def __getitem__(self, record_id: str) -> RecordResult:
        row = self._row[record_id]
        score, target, reference = [None if math.isnan(of[row]) else of[row] for of in self._numbers.values()]
        n_tokens = self._n_tokens[row]
        told, known = self._told[self._reason[row]], None if n_tokens < 0 else n_tokens
        return RecordResult(score, told, known, target, reference, self._p_values.get(row))

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._row

    def shares_ids_with(self, other: Results) -> Results:
        """Hold the ids once, where another has the same ones in the same order."""
        if self._row == other._row:
            self._row = other._row
        return self

    def unscored_by_reason(self) -> dict[str, int]:
        """How many records have no score, by reason, the most frequent first."""
        names, counts = list(self._reasons), Counter(self._reason)
        told = {name: counts[number] for number, name in enumerate(names) if name is not None and counts[number]}
        return dict(Counter(told).most_common())


@dataclass
class Outcome:
    """Everything one audit computed.

    Attributes:
        results: by attack key, by record id.
        stages: what each stage cost, in the order they ran.
        notes: plain sentences about the run (long texts, capped shots), for people.
        details: JSON-ready records of the stages: self-prompts, reference, paraphrases.
        models: identity of the model behind each role.
        asked: how much was asked of the models behind each kind of role, by view.
        way: how the target was prompted for the reference; None where it was not.
        findings: what limits the numbers and shows only beside the model; what the data show is known before.
        features: by attack key, what attacks that score all records at once saw of those of all processes.
        told: by attack name, what such an attack says of how it scored, JSON-ready.
        plugins: versions of other people's distributions that took part, by their names.
        quiet: another process tells people of this audit.
    """

    results: dict[str, Mapping[str, RecordResult]] = field(default_factory=dict)
    stages: dict[str, Cost] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
    models: dict[str, object] = field(default_factory=dict)
    asked: dict[tuple[Role, View], Amount] = field(default_factory=dict)
    way: SelfPrompt | None = None
    findings: list[Finding] = field(default_factory=list)
    features: dict[str, FeatureTable] = field(default_factory=dict)
    told: dict[str, object] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    quiet: bool = False

    def cost_json(self) -> dict[str, dict[str, float]]:
        """Cost per stage, JSON-ready."""
        return {name: asdict(cost) for name, cost in self.stages.items()}


def unscored_by_reason(results: Mapping[str, RecordResult]) -> dict[str, int]:
    """How many records have no score, by reason, the most frequent first."""
    if isinstance(results, Results):
        return results.unscored_by_reason()
    return dict(Counter(result.reason for result in results.values() if result.reason is not None).most_common())


class Comparison:
    """Collects the results of every task that attacks the same data: which is strongest, and how their errors agree.

    Attributes:
        strongest: `Strongest` as JSON, with the names of tasks; empty until every task has its results. The harness
            writes down a task's record before the next task is aggregated, so this one dict is shared by the records of
            all tasks and filled in place by the last.
        compared: the attacks by task; None until every task has its results.
        of_units: what all attacks tell of units; None until then, and where nobody said whose records are.
        together: that as JSON, likewise one dict for the records of all tasks.
        groups: `GroupsTold` likewise; empty where no record is of a group.

    Args:
        attacks: by task. Blind attacks do not look at the model and are not compared.
        seed: of the resamples and the draws of the max statistic.
        what: by task, what two share exactly if they are one attack on the same records under two names: such a one
            counts once among those that were tried, and what it shows holds for both names. None if there are no such.
    """

    def __init__(self, attacks: Mapping[str, Attack], seed: int, what: Mapping[str, Hashable] | None = None) -> None:
        self.strongest: dict[str, object] = {}
        self.together: dict[str, object] = {}
        self.groups: dict[str, object] = {}
        self.compared: Compared | None = None
        self.of_units: Together | None = None
        self._seed = seed
        sighted = {task: attack for task, attack in attacks.items() if not isinstance(attack, BlindAttack)}
        named: dict[Hashable, str] = {}
        first = {task: named.setdefault((what or {}).get(task, task), task) for task in sighted}
        self._twins = {task: other for task, other in first.items() if task != other}
        self._attacks = {task: attack for task, attack in sighted.items() if task not in self._twins}
        self._results: dict[str, Results] = {}
        self._records: dict[str, Record] = {}
        self._correlations: Mapping[str, Mapping[tuple[str, str], float]] | None = None

    def add(self, task: str, results: Mapping[str, RecordResult], records: Iterable[Record]) -> Strongest | None:
        """Take one task's results of all ranks; the last one brings the comparison.

        Args:
            task: its name.
            results: by record id.
            records: at least those with a result. Tasks may have been limited to different records.

        Returns:
            What the strongest attacks show, if these results were the last that were missing.
        """
        self._records |= {record.id: record for record in records}
        self._results[task] = results if isinstance(results, Results) else Results(results)
        self._correlations = None
        compares = task in self._attacks or not self._attacks
        if not compares or not self._attacks.keys() <= self._results.keys():
            return None
        scores, chosen = self._table(self._attacks)
        self.compared = self._named(compare(scores, *_labels(chosen), seed=self._seed))
        found = self.compared.strongest()
        names = {task: attack.name for task, attack in self._attacks.items()}
        self.of_units = units_together(scores, chosen, self._named, self._seed)
        told = {
            "strongest": found,
            "together": self.of_units,
            "groups": groups_together(scores, chosen, names, self._seed),
        }
        for name, value in told.items():
            shared: dict[str, object] = getattr(self, name)
            shared.clear()
            shared.update(as_json(value) if value is not None else {})
        return found

    def _named(self, compared: Compared) -> Compared:
        """With the attacks' own names, and those of their tasks beside them."""
        leaders = {
            key: {task: replace(leader, attack=self._attacks[task].name, task=task) for task, leader in found.items()}
            for key, found in compared.leaders.items()
        }
        for found in leaders.values():  # behind the others: where two are alike, the first leads
            found.update({twin: replace(found[task], task=twin) for twin, task in self._twins.items() if task in found})
        return replace(compared, leaders=leaders)

    def correlation(self, metric: str, one: str, other: str) -> float:
        """How the errors of two tasks' numbers go together; 1 where that is not known, which errs on the safe side.

        Args:
            metric: key of the AUROC or of a TPR.
            one: a task.
            other: a task.
        """
        if self._correlations is None:
            scores, chosen = self._table(self._results)
            self._correlations = error_correlations(scores, *_labels(chosen), seed=self._seed)
        return self._correlations[metric].get((one, other), 1.0)

    def _table(self, tasks: Iterable[str]) -> tuple[dict[str, list[float]], list[Record]]:
        """Scores of each task, NaN where there is none, of all records that some task has."""
        chosen = {task: self._results[task] for task in tasks}
        ids = sorted({record_id for results in chosen.values() for record_id in results})
        records = [self._records[record_id] for record_id in ids]
        return {task: results.scores(ids) for task, results in chosen.items()}, records


def _labels(records: Sequence[Record]) -> tuple[NDArray[np.bool_], list[str]]:
    """Labels and documents of records."""
    return np.array([record.is_member for record in records], dtype=bool), [record.cluster for record in records]
