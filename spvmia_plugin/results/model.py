"""What one run of the harness found: audits, made of attacks, and capability scores.

Failed preconditions are told here as reports, leaderboards and exports read them: each says something of some numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.auditing.mia_audit import NO_TPR, MiaAudit
from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.leaders import Compared, Strongest
from spvmia_plugin.metrics.names import AUROC, TPRS
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.results.samples import Records

BLIND_ATTACK = "bag_of_words"
"""The attack that sees no model: a baseline to compare with, never the strongest attack."""

_ONE_METRIC = {metric.too_few: metric.key for metric in TPRS}
"""Findings that leave one metric NaN and all others as they are."""
_SOME_ATTACKS: Mapping[str, Collection[str | None]] = {
    "candidate_overlaps_audited": (
        "lira_candidate",
        "candidate_ez",
        "candidate_wbc",
        "both_wbc",
        "lira_offline",
        "learned",
    )
}
"""Findings that touch some attacks only."""
MOST_UNSCORED = 0.05
"""Of the records: what an attack shows that leaves out more may be the choice of those that it leaves out."""
MOSTLY_UNSCORED = "mostly_unscored"
"""Code of the finding on such an attack, which touches that one alone."""


@dataclass(frozen=True)
class TaskResult:
    """One attack on one data set.

    Attributes:
        task: the lm-eval task, "spv_mia_custom".
        dataset: "wikitext", "ag_news", "xsum", "custom" or a plugin's.
        metrics: the harness's row by metric name ("auroc", "auroc_stderr", "tpr_at_1pct_fpr", ...), NaN where the
            file has NaN or "N/A".
        mia_audit: all else that the results file has of it, typed.
        told: the same as it stands in the file, for reports that tell all of it.
        records: all audited records in the file's order; None if the run kept no samples.
        options: the `mia_*` options that the user gave, without the defaults.
    """

    task: str
    dataset: str
    metrics: Mapping[str, float]
    mia_audit: MiaAudit
    told: Mapping[str, Any]
    records: Records | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attack(self) -> str:
        """Name of the attack: "spv", "loss", ..."""
        return self.mia_audit.attack.name

    @property
    def is_canary_audit(self) -> bool:
        """Whether membership was decided by coins, so that `epsilon_lb` is a bound."""
        return self.task.startswith("canary_audit")

    def scores(self) -> NDArray[np.float64]:
        """(n,) scores in the order of `records`, NaN where unscored."""
        return np.zeros(0) if self.records is None else self.records.score

    def apart(self) -> TaskResult:
        """Without the strongest attack that the run recorded: among other attacks it has to be chosen anew."""
        told = {**self.told, "strongest": {}}
        return replace(self, mia_audit=replace(self.mia_audit, strongest=None), told=told)


@dataclass(frozen=True)
class Audit:
    """All attacks of one run on the same records of the same data with the same settings.

    Attributes:
        tasks: the attacks, in the results file's order.
    """

    tasks: Sequence[TaskResult]

    @property
    def dataset(self) -> str:
        """The data set's name in the tasks."""
        return self.tasks[0].dataset

    @property
    def mia_audit(self) -> MiaAudit:
        """Of the first attack: what all of them share (data, settings, models, preconditions, cost)."""
        return self.tasks[0].mia_audit

    @property
    def told(self) -> Mapping[str, Any]:
        """The same as it stands in the file."""
        return self.tasks[0].told

    @cached_property
    def records(self) -> Records | None:
        """The audited records as the first task that has samples tells of them; None if none has."""
        return next((task.records for task in self.tasks if task.records), None)

    @property
    def has_samples(self) -> bool:
        """Whether the scores of the records are known."""
        return self.records is not None

    @property
    def without_samples(self) -> list[str]:
        """The attacks on the model that had scores, and whose samples are not there although others' are."""
        lost = [task.attack for task in self.model_attacks if task.records is None and task.mia_audit.n.scored]
        return lost if self.has_samples else []

    @property
    def model_attacks(self) -> list[TaskResult]:
        """The attacks on the model: all but the blind baseline."""
        return [task for task in self.tasks if task.attack != BLIND_ATTACK]

    @property
    def from_store(self) -> bool:
        """Whether the run computed nothing, neither scores nor references: its seconds are no cost."""
        kinds = ("forward_tokens", "generated_tokens", "training_tokens")
        return not any(spent.get(kind, 0) for spent in self.mia_audit.cost.values() for kind in kinds)

    def ids(self) -> Sequence[str]:
        """(n,) id of each of `records`."""
        return () if self.records is None else self.records.roster.ids

    def labels(self) -> NDArray[np.bool_]:
        """(n,) whether each of `records` is a member."""
        return np.zeros(0, dtype=bool) if self.records is None else self.records.roster.is_member

    def clusters(self) -> Sequence[str]:
        """(n,) document of each of `records`."""
        return () if self.records is None else self.records.roster.clusters

    def groups(self) -> Sequence[str | None]:
        """(n,) group of each of `records`, None for one of none."""
        return () if self.records is None else self.records.roster.groups

    def scores(self, task: TaskResult) -> NDArray[np.float64]:
        """(n,) scores of one task in the order of `records`, NaN where there is none."""
        return np.full(len(self.ids()), math.nan) if task.records is None else self._in_order(task.records, "score")

    def p_values(self) -> dict[str, NDArray[np.float64]]:
        """(n,) p-values in the order of `records`, NaN where there is none, by attack, of those that give them."""
        tasks = [(task.attack, task.records) for task in self.model_attacks]
        return {
            attack: self._in_order(records, "p_value")
            for attack, records in tasks
            if records is not None and len(records.p_value)
        }

    def _in_order(self, records: Records, column: str) -> NDArray[np.float64]:
        """A column of a task's records in the order of all, NaN where it has not the record."""
        values: NDArray[np.float64] = getattr(records, column)
        if self.records is None:
            return np.full(len(self.ids()), math.nan)
        if records.roster is self.records.roster:
            return values
        rows = records.roster.rows
        places = np.array([rows.get(record_id, -1) for record_id in self.ids()], dtype=np.int64)
        return np.where(places < 0, math.nan, values[places])

    @cached_property
    def strongest(self) -> Strongest | None:
        """What the strongest attacks show, as the run recorded it.

        Computed from the samples where it recorded less, or chose among other attacks too: a run compares all attacks
        on its data, and those that ran under other settings make another audit. None without attacks on the model, or
        where there are no samples to compute it from.
        """
        recorded = self.mia_audit.strongest
        if recorded is not None and self._is_of_these(recorded) and not (self.needs_samples and self.has_samples):
            return recorded
        return self.compared.strongest() if self.compared is not None else None

    @property
    def needs_samples(self) -> bool:
        """Whether the strongest attacks can only be told, or told whole, from the scores of the records."""
        recorded = self.mia_audit.strongest
        if recorded is None or not self._is_of_these(recorded) or recorded.tpr_at_5pct_fpr is NO_TPR:
            return bool(self.model_attacks)
        below = any(task.metrics.get(AUROC.key, math.nan) < AUROC.guess for task in self.model_attacks)
        return below and recorded.lowest.attack is None  # of versions that told of none whose interval holds a guess

    def _is_of_these(self, recorded: Strongest) -> bool:
        """Whether it was chosen among attacks of this audit."""
        names = {task.attack for task in self.model_attacks}
        chosen = {leader.attack for leader in recorded.every_leader.values()}
        tasks = {leader.task for leader in recorded.every_leader.values()}  # another audit may have an attack's name
        of_these = chosen <= {None, *names} and tasks <= {None, *(task.task for task in self.model_attacks)}
        return recorded.n_attacks <= len(names) and of_these

    @cached_property
    def compared(self) -> Compared | None:
        """Every attack's numbers with intervals that hold at once; None without samples or attacks on the model."""
        if not self.has_samples or not self.model_attacks:
            return None
        order = np.argsort(np.array(self.ids()), kind="stable")  # as the run has them: resamples depend on it
        scores = {task.attack: self.scores(task)[order] for task in self.model_attacks}
        clusters = np.array(self.clusters(), dtype=object)[order]
        return compare(scores, self.labels()[order], clusters.tolist(), seed=self.mia_audit.seed)


def failed(of: Audit | TaskResult) -> list[Finding]:
    """The findings of severity "warning": preconditions that did not hold.

    Those that the run recorded, and that too many records were left out: of an attack by itself, of an audit by an
    attack by which it speaks.
    """
    found = [finding for finding in of.mia_audit.preconditions if finding.severity == "warning"]
    if isinstance(of, TaskResult):
        unscored = _mostly_unscored(of)
        return found if unscored is None else [*found, unscored]
    if (strongest := of.strongest) is not None:
        leaders = {strongest.auroc.attack, strongest.most_exposed.attack}
        found += [finding for attack, finding in mostly_unscored(of).items() if attack in leaders]
    return found


def mostly_unscored(audit: Audit) -> dict[str, Finding]:
    """The attacks that have no score for too many records, by name."""
    found = ((task.attack, _mostly_unscored(task)) for task in audit.model_attacks)
    return {attack: finding for attack, finding in found if finding is not None}


def _mostly_unscored(task: TaskResult) -> Finding | None:
    """That an attack left too many records out; of one without any score the run itself says so."""
    n = task.mia_audit.n
    without = n.records - n.scored
    if not n.scored or without <= MOST_UNSCORED * n.records:
        return None
    told = f"{task.attack} has no score for {without:,} of {n.records:,} records, which may be the exposed ones"
    return Finding(MOSTLY_UNSCORED, "warning", told, {"attack": task.attack, "count": without})


def touches(finding: Finding, attack: str | None, metric: str) -> bool:
    """Whether a finding says something about a metric of an attack; those that this version does not know do.

    Args:
        finding: of `mia_audit`.
        attack: its name; None where no attack has a number.
        metric: the harness's name of the metric.
    """
    if finding.code == MOSTLY_UNSCORED:
        return finding.details["attack"] == attack
    of_attack = finding.code not in _SOME_ATTACKS or attack in _SOME_ATTACKS[finding.code]
    return _ONE_METRIC.get(finding.code, metric) == metric and of_attack


@dataclass(frozen=True, slots=True)
class Capability:
    """One metric of one ordinary task of the same run.

    Attributes:
        task: the task or group.
        metric: its name, with the filter appended as "metric,filter" where the filter is not "none".
        value: as the harness printed it.
        stderr: NaN where the harness has none.
        higher_is_better: None where the harness does not say.
        n: samples, None where it does not say.
        version: of the task.
        fewshot: examples in the prompt.
    """

    task: str
    metric: str
    value: float
    stderr: float
    higher_is_better: bool | None
    n: int | None
    version: str | None = None
    fewshot: int | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What must be equal for two scores to be compared."""
        return (self.task, self.metric, self.n, self.version, self.fewshot)


@dataclass(frozen=True)
class HarnessRun:
    """One results file.

    Attributes:
        path: the results file.
        model: the model's name as the harness has it, credentials are never part of it.
        date: Unix time of the run.
        config: the harness's own record of the run: model, model_args, batch_size, device, limit, seeds.
        versions: lm_eval and transformers, from the harness.
        audits: the privacy audits.
        capabilities: every other task's metrics.
        max_length: the model's context in the harness, None where the file does not say.
        left_out: why other results files of the same folder could not be read, a line for each.
        older: how many other audited runs the same folder has, which `read_latest` passed over.
        of_base: scores of the model before fine-tuning, by `Capability.key`, where the same folder has a run of it.
        audits_of_base: its audits, the newest last, without their samples.
    """

    path: Path
    model: str
    date: float
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    audits: Sequence[Audit]
    capabilities: Sequence[Capability]
    max_length: int | None = None
    left_out: Sequence[str] = ()
    older: int = 0
    of_base: Mapping[tuple[object, ...], Capability] = field(default_factory=dict)
    audits_of_base: Sequence[Audit] = ()

    def base_of(self, audit: Audit) -> Audit | None:
        """The audit of the model before fine-tuning on the same records; None where nobody made it."""
        data = audit.mia_audit.data.fingerprint
        alike = (each for each in reversed(self.audits_of_base) if each.mia_audit.data.fingerprint == data)
        return next((each for each in alike if each.dataset == audit.dataset), None)
