"""`mia_audit`: all that a result carries besides its numbers, without any text. Its layout, for writer and readers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.asked import Amount, AskedTold, known_share, of_target
from spvmia_plugin.auditing.outcome import Comparison, Outcome, RecordResult, unscored_by_reason
from spvmia_plugin.auditing.roles import given, seen_of_target
from spvmia_plugin.auditing.subjects import UnitTold
from spvmia_plugin.checks import Finding
from spvmia_plugin.checks.blind import BlindInterval
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.metrics.arrays import Interval
from spvmia_plugin.metrics.groups import GroupsTold
from spvmia_plugin.metrics.leaders import Leader, Strongest
from spvmia_plugin.metrics.names import BOUNDED_BY, TPRS
from spvmia_plugin.metrics.one_run import CanaryAudit
from spvmia_plugin.metrics.summary import Summary
from spvmia_plugin.records import AuditData
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import versions
from spvmia_plugin.util.once import Once
from spvmia_plugin.util.redact import without_secrets, without_secrets_in
from spvmia_plugin.util.schema import LEFT_OUT, OTHERS, MaybeNumber, Misfit, as_json, read, read_fields
from spvmia_plugin.util.strict_json import not_finite

FORMAT = 1
"""Version of this layout."""

EPSILON_REASON = (
    "membership was not randomised: scores of one training run are not independent, so a per-record bound would not "
    "hold; fine-tune with 'spvmia finetune --canaries M' and run canary_audit_custom"
)


@dataclass(frozen=True, slots=True)
class AttackTold:
    """An attack: its name, and its hyper-parameters beside it."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)


@dataclass(frozen=True, slots=True)
class AttackerTold:
    """What the attacker had besides the record.

    Attributes:
        given: besides what it saw of the target: keys of `roles.GIVEN`.
        api_view: what it saw of the target: `full`, `top_k:K`, `rounded:D` or `noised:S` of its log-probabilities (see
            `mia_api_view`), its `text`, or `nothing`.
        asked: of the target, each kind by itself; None in results of before it was recorded.
        known: the share of its scores that the store told when the run began; NaN where that is not known.
    """

    given: tuple[str, ...]
    api_view: str = "full"
    asked: tuple[AskedTold, ...] | None = field(default=None, metadata=LEFT_OUT)
    known: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many records were audited, of each class and with a score, and how many prompts were kept aside."""

    records: int
    members: int
    nonmembers: int
    scored: int
    prompts: int | None = None


@dataclass(frozen=True, slots=True)
class Blind:
    """The blind baseline: `BlindInterval`, or why there is none."""

    auroc: MaybeNumber = math.nan
    low: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)
    high: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)
    p_value: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)
    confidence: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)
    permutations: int | None = field(default=None, metadata=LEFT_OUT)
    reason: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTold:
    """What the numbers are held against, declared before any of them was known.

    Attributes:
        max_auroc: of every attack, NaN where nothing is said of it.
        max_tpr_at_1pct: of every attack, at an FPR of 1 %.
        max_epsilon: of the canaries.
        declared: when, in UTC (ISO 8601): before the first score was computed.
    """

    max_auroc: MaybeNumber = math.nan
    max_tpr_at_1pct: MaybeNumber = math.nan
    max_epsilon: MaybeNumber = math.nan
    declared: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTold:
    """Where the records come from.

    Attributes:
        source: files or data set, as people know them.
        fingerprint: keyed hash of records and prompts.
        block_size: tokens of a record; 0 for whole documents.
        base_model: name of the model before fine-tuning, None where nobody said.
        provenance: whatever else is known: split, protocol, recipe of the fine-tuning.
        clusters: the document of each record whose id does not tell it: readers of the files can resample documents.
    """

    source: str
    fingerprint: str
    block_size: int
    base_model: Any = None
    provenance: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)
    clusters: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MiaAudit:
    """`mia_audit` of one task.

    Attributes:
        format: version of this layout.
        attack: what was run.
        attacker: what it was given; None in results of before it was recorded.
        membership: how it is known who is a member: "manifest", "declared" or "assumed".
        metrics: the numbers with their uncertainty.
        n: how many records.
        unscored: records without a score, by reason.
        scored: of conversations: `format`, `loss_on`, how many `tokens` were scored and how many read as context
            (`context_tokens`), and the AUROCs under the `other` mask; None for plain text.
        self_prompts: of the texts that the reference was trained on: how many (`texts`), the share of different ones
            (`distinct`), their mean length (`tokens`), the share that `ended_at_once`; None where there are none.
        references: where there are several (`mia_references`): their `count`, and how far the lists of the most exposed
            `share` of the members agree under other choices of them (`agreement`, see `audit.stability`), for attacks
            whose reference they are; None where there is one.
        learned: of an attack that scores all records at once: what it says of how it scored (of `learned` the weights:
            `shipped` or of a `shadow`, their digest, what they were fitted on, and the variant); None of the others.
        bound: what was declared beforehand; None where nothing was.
        unit: what the attack tells of whom records belong to, and all attacks together; None where nobody said.
        groups: what all attacks tell of each group; None where there are none.
        strongest: of all attacks on the same data; None where it was not recorded, or only the blind baseline ran.
        epsilon_lb: `CanaryAudit`, or `epsilon_lb` null and the reason.
        blind: the baseline that sees no model.
        preconditions: what limits the numbers.
        notes: plain sentences about the run.
        cost: tokens and seconds of each stage.
        stages: records of the stages.
        models: identity of the model behind each role.
        data: where the records come from.
        settings: all `mia_*` options.
        seed: of everything random.
        versions: of the libraries, and of other people's plugins that took part in the run.
    """

    format: int
    attack: AttackTold
    attacker: AttackerTold | None = field(default=None, metadata=LEFT_OUT)
    membership: str
    metrics: Summary
    n: Counts
    unscored: Mapping[str, int]
    scored: Mapping[str, Any] | None = field(default=None, metadata=LEFT_OUT)
    self_prompts: Mapping[str, Any] | None = field(default=None, metadata=LEFT_OUT)
    references: Mapping[str, Any] | None = field(default=None, metadata=LEFT_OUT)
    learned: Mapping[str, Any] | None = field(default=None, metadata=LEFT_OUT)
    bound: BoundTold | None = field(default=None, metadata=LEFT_OUT)
    unit: UnitTold | None = field(default=None, metadata=LEFT_OUT)
    groups: GroupsTold | None = field(default=None, metadata=LEFT_OUT)
    strongest: Strongest | None = None
    epsilon_lb: Mapping[str, Any]
    blind: Blind
    preconditions: tuple[Finding, ...]
    notes: tuple[str, ...]
    cost: Mapping[str, Mapping[str, float]]
    stages: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    data: DataTold
    settings: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]

    def weights(self, role: str) -> Sequence[Mapping[str, Any]]:
        """Identity of the weights behind a role, the base's before the adapter's; empty where none were loaded."""
        found: Sequence[Mapping[str, Any]] = self.models.get(role, {}).get("weights", ())
        return found


def mia_audit(
    *,
    attack: Attack,
    data: AuditData,
    config: AuditConfig,
    summary: Summary,
    results: Mapping[str, RecordResult],
    outcome: Outcome,
    findings: Sequence[Finding],
    blind: BlindInterval | None,
    canaries: CanaryAudit | None,
    comparison: Comparison | None,
    declared: str | None = None,
    unit: UnitTold | None = None,
) -> dict[str, object]:
    """What one task writes, JSON-ready.

    `strongest`, `groups` and `together` of `unit` are the comparison's own, filled when the last task is done.
    """
    audited = [record for record in data.records if record.id in results]
    members = sum(record.is_member for record in audited)
    details = dict(outcome.details)
    learned = outcome.told.get(attack.name)
    scored, self_prompts = details.pop("scored", None), details.pop("self_prompts", None)
    references = details.pop("references", None)
    told = MiaAudit(
        format=FORMAT,
        attack=AttackTold(attack.name, attack.config()),
        attacker=AttackerTold(
            given(attack, config, outcome.way, candidate=Role.CANDIDATE.value in outcome.models),
            seen_of_target(attack, config.api_view),
            of_target(attack, outcome.asked, _self_prompted(self_prompts, references)),
            known_share(attack, outcome.asked),
        ),
        membership=data.membership,
        metrics=summary,
        n=Counts(
            records=len(results),
            members=members,
            nonmembers=len(audited) - members,
            scored=sum(result.score is not None for result in results.values()),
            prompts=len(data.prompts),
        ),
        unscored=unscored_by_reason(results),
        scored=scored if isinstance(scored, Mapping) else None,
        self_prompts=self_prompts if isinstance(self_prompts, Mapping) else None,
        references=_of_attack(references, attack.name) if isinstance(references, Mapping) else None,
        learned=without_secrets(learned) if isinstance(learned, Mapping) and learned else None,
        bound=_bound(config, declared) if declared is not None else None,
        unit=unit,
        epsilon_lb=as_json(canaries) if canaries else {"epsilon_lb": None, "reason": EPSILON_REASON},
        blind=Blind(**asdict(blind)) if blind else Blind(reason="too few documents of a class to hold some out"),
        preconditions=tuple(findings),
        notes=tuple(without_secrets(outcome.notes)),
        cost=outcome.cost_json(),
        stages=without_secrets(details),
        models=without_secrets(outcome.models),
        data=DataTold(
            source=without_secrets_in(data.source),
            fingerprint=data.fingerprint,
            block_size=data.block_size,
            base_model=without_secrets(data.base_model),
            provenance=without_secrets(data.provenance),
            clusters={record.id: record.cluster for record in audited if record.cluster != record.id.partition("#")[0]},
        ),
        settings=without_secrets(config.to_json()),
        seed=config.seed,
        versions={**outcome.plugins, **versions()},
    )
    written: dict[str, Any] = {**as_json(told), "strongest": comparison.strongest if comparison else {}}
    if comparison is not None and unit is not None:
        written["unit"]["together"] = comparison.together
    if comparison is not None and data.group_column is not None:
        written["groups"] = comparison.groups
    return written


def _self_prompted(self_prompts: object, references: object) -> Amount:
    """What the target wrote to train references on, of which each has texts of its own."""
    if not isinstance(self_prompts, Mapping):
        return Amount()
    count = references["count"] if isinstance(references, Mapping) else 1
    texts = count * self_prompts["texts"]
    return Amount(texts, round(texts * self_prompts["tokens"]))


def _bound(config: AuditConfig, declared: str) -> BoundTold | None:
    limits = {name: getattr(config, name) for name in BOUNDED_BY.values()}
    given_limits = {name: limit for name, limit in limits.items() if limit is not None}
    return BoundTold(**given_limits, declared=declared) if given_limits else None


def _of_attack(references: Mapping[str, Any], attack: str) -> dict[str, object]:
    """What concerns one attack of what the run says of several references."""
    agreed = references["agreement"].get(attack)
    return {"count": references["count"], **({"agreement": agreed} if agreed else {})}


def read_mia_audit(given: Mapping[str, Any], once: Once | None = None) -> MiaAudit:
    """Read what a task wrote. Results files come from other people too.

    Args:
        given: `mia_audit`.
        once: remembers what was read of parts that are one object in several tasks.

    Raises:
        Misfit: a value is not what it should be.
    """
    strongest = given.get("strongest") or None  # absent from runs of before it was recorded
    given, once = _without_unfilled(given), Once() if once is None else once

    def of_field(kind: Any, value: Any, where: str) -> Any:
        if not isinstance(value, (dict, list)):
            return read(kind, value, where)
        return once.made(where, value, lambda part: read(kind, part, where))

    if isinstance(strongest, Mapping) and not isinstance(strongest.get("auroc"), Mapping):
        first: MiaAudit = read_fields(MiaAudit, {**given, "strongest": None}, of_field=of_field)
        found = replace(first, strongest=_of_aurocs_alone(strongest))
    else:
        found = read_fields(MiaAudit, {**given, "strongest": strongest}, of_field=of_field)
    if found.strongest is not None:
        _check_strongest(found.strongest)
    _check_subjects(found)
    _check_confidences(found)
    for stage, spent in found.cost.items():
        read(Mapping, spent, f"cost of {stage}")
        read(float, spent.get("seconds"), f"cost of {stage}.seconds")
    for role, identity in found.models.items():
        read(Mapping, identity, f"models.{role}")
        weights = identity.get("weights", [])
        if not isinstance(weights, list) or not all(isinstance(part, Mapping) for part in weights):
            raise Misfit(f"expected a list of mappings as models.{role}.weights")
    if not all(isinstance(document, str) for document in (found.data.clusters or {}).values()):
        raise Misfit("expected texts by record as data.clusters")
    read(str, found.versions.get("spvmia-plugin"), "versions.spvmia-plugin")
    if not math.isnan(found.blind.auroc):
        for end in ("low", "high", "confidence"):
            read(float, given["blind"].get(end), f"blind.{end}")
        _check_shares("blind", found.blind, ("auroc", "low", "high"))
    parts = [value for key, value in given.items() if key != "data" and isinstance(value, (dict, list, float))]
    parts.append({**given["data"], "clusters": None} if given["data"].get("clusters") else given["data"])
    infinite = (once.made(not_finite, part, not_finite) for part in parts)
    wrong = next((number for number in infinite if number is not None), None)
    if wrong is not None:  # Python writes and reads them; JSON has none
        raise Misfit(f"expected finite numbers, got {wrong}")
    return found


NO_TPR = Leader(reason="recorded by a version that compared AUROCs alone; run the audit again")
"""In place of the leaders by TPR in results of before they were recorded."""


def _without_unfilled(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what all tasks fill together and a run that was cut off did not."""
    unit, left_out = given.get("unit"), [] if given.get("groups") else ["groups"]
    if isinstance(unit, Mapping) and not unit.get("together"):
        given = {**given, "unit": {key: value for key, value in unit.items() if key != "together"}}
    return {key: value for key, value in given.items() if key not in left_out}


def _check_subjects(found: MiaAudit) -> None:
    """What reports show of units and groups."""
    leaders: list[tuple[str, Leader]] = []
    if found.unit is not None and found.unit.together is not None:
        _check_strongest(found.unit.together.strongest, "unit.together.strongest")
    for group in found.groups.groups if found.groups is not None else ():
        if group.low_end not in (metric.key for metric in TPRS):
            raise Misfit("expected the name of a TPR as groups.low_end")
        leaders += [("groups.auroc", group.auroc), ("groups.most_exposed", group.most_exposed)]
    _check_leaders(leaders)


def _check_strongest(found: Strongest, where: str = "strongest") -> None:
    """Verdict, board and exports rest on these numbers: what they cannot be is refused."""
    if found.low_end not in (metric.key for metric in TPRS):
        raise Misfit(f"expected the name of a TPR as {where}.low_end")
    _check_leaders((f"{where}.{key}", leader) for key, leader in found.every_leader.items())


def _check_leaders(leaders: Iterable[tuple[str, Leader]]) -> None:
    for where, leader in leaders:
        _check_shares(where, leader, ("value", "low", "high"))


def _check_shares(where: str, told: Leader | Blind, names: Sequence[str]) -> None:
    for name in names:
        number = getattr(told, name)
        if not math.isnan(number) and not 0 <= number <= 1:
            raise Misfit(f"expected a number from 0 to 1 as {where}.{name}")


def _check_confidences(found: MiaAudit) -> None:
    """Limits are moved to other confidences by the quantile of their own, which no other number has."""
    together = found.unit.together if found.unit is not None else None
    told = {
        "metrics": found.metrics.confidence,
        "blind": found.blind.confidence,
        "strongest": found.strongest.confidence if found.strongest is not None else math.nan,
        "groups": found.groups.confidence if found.groups is not None else math.nan,
        "unit.together.strongest": together.strongest.confidence if together is not None else math.nan,
    }
    for where, confidence in told.items():
        if not math.isnan(confidence) and not 0 < confidence < 1:
            raise Misfit(f"expected a number between 0 and 1 as {where}.confidence")


@dataclass(frozen=True, slots=True)
class _StrongestByAuroc:
    """The layout of `strongest` in results of before it spoke of TPRs."""

    name: str | None
    auroc: MaybeNumber
    interval: Interval
    critical: MaybeNumber
    n_attacks: int
    confidence: float
    reason: str | None = None
    task: str | None = None


def _of_aurocs_alone(given: Mapping[str, Any]) -> Strongest:
    old: _StrongestByAuroc = read(_StrongestByAuroc, given, "strongest")
    return Strongest(
        auroc=Leader(old.name, old.auroc, *old.interval, old.reason, old.task),
        tpr_at_5pct_fpr=NO_TPR,
        tpr_at_1pct_fpr=NO_TPR,
        tpr_at_0_1pct_fpr=NO_TPR,
        critical=old.critical,
        n_attacks=old.n_attacks,
        confidence=old.confidence,
    )
