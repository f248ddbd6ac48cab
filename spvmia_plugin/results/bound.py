"""A bound that was declared beforehand, held against what an audit found: within, exceeded, or not shown.

A result that stays below a bound shows nothing by itself: few records stay below every bound. So the upper ends of all
attacks' intervals have to, which hold at once; and an audit whose own preconditions failed is no evidence either way.
Where it is known whom records belong to, a bound is held against records and against units: many records of a person
tell more than each, and one that was memorised can be lost in a person's mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.leaders import Extremes, Leader, below_a_guess
from spvmia_plugin.metrics.names import AUROC, BOUNDED_BY, EPSILON, METRICS, TPRS, Metric, beside
from spvmia_plugin.metrics.power import needed
from spvmia_plugin.records import clusters_called
from spvmia_plugin.results.estimate import NO_SAMPLES, of_attack
from spvmia_plugin.results.model import MOSTLY_UNSCORED, Audit, TaskResult, failed, mostly_unscored
from spvmia_plugin.util.schema import MaybeNumber

Outcome = Literal["within", "exceeded", "not_shown", "not_evaluable"]
WORST_FIRST: tuple[Outcome, ...] = ("exceeded", "not_evaluable", "not_shown", "within")

NO_EVIDENCE = ("empty_class", "blind_above_chance", "membership_assumed", "document_in_both_classes")
"""Preconditions without which an audit shows nothing about its target, whatever its numbers."""
UNITS_INCOMPLETE = "units_incomplete"
"""The condition that some records belong to no unit, so that nothing is known by unit."""
_HARMLESS = {metric.too_few for metric in TPRS}
"""Conditions that leave a metric without a number, which is told as that."""
_MENDED_BY_MORE = ("few_documents",)
"""Conditions that an audit of more documents meets; what others say of an audit stays true of a larger one."""
THEN_AGAIN = ", then audit again"
FIND_OUT_WHY = f"find out why (swapped labels? a reference that saw the members?){THEN_AGAIN}"
"""What to do about an attack that is turned round."""


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far the attacks of an audit reach, with records or with units as observations.

    Attributes:
        extremes: in the metric.
        leaders: the attacks with their intervals, as far as they are known.
        turned_round: the attack that tells members the wrong way round, by its AUROC; of none, where there is none.
        n_attacks: how many there are.
        confidence: of all intervals together.
    """

    extremes: Extremes
    leaders: Sequence[Leader]
    turned_round: Leader
    n_attacks: int
    confidence: float


@dataclass(frozen=True)
class Bound:
    """Limits, by key of the metric.

    Attributes:
        limits: what each must stay below.
        declared: when, in UTC; None where it was given after the run.
    """

    limits: Mapping[str, float]
    declared: str | None = None

    @classmethod
    def of(cls, audit: Audit) -> Bound | None:
        """The one that stands in the results; None where none was declared."""
        told = audit.mia_audit.bound
        if told is None:
            return None
        limits = {key: float(getattr(told, name)) for key, name in BOUNDED_BY.items()}
        return cls({key: limit for key, limit in limits.items() if not math.isnan(limit)}, told.declared)


@dataclass(frozen=True)
class Held:
    """One metric held against its limit.

    Attributes:
        metric: its key.
        limit: what was declared.
        outcome: of this metric.
        attack: the attack with the most of it.
        value: its estimate.
        low: the largest lower end among all attacks; of one that shows it where the limit is exceeded.
        low_of: whose it is where the limit is exceeded, which may be another than `attack`; None where that is unknown.
        high: the largest upper end among all attacks.
        needed: how many documents or units of each class would be enough at this estimate, or None.
        counted: whether these are documents or units.
        reason: why it is not shown, or not evaluable.
        by_unit: whether units (persons, patients) are the observations, not records.
    """

    metric: str
    limit: float
    outcome: Outcome
    attack: str | None = None
    value: MaybeNumber = math.nan
    low: MaybeNumber = math.nan
    high: MaybeNumber = math.nan
    needed: int | None = None
    counted: str = "documents"
    reason: str | None = None
    by_unit: bool = False
    low_of: str | None = None

    @property
    def label(self) -> str:
        """The metric's name for people."""
        return METRICS[self.metric].label + (" by unit" if self.by_unit else "")

    def in_words(self) -> str:
        """One sentence."""
        number = "" if math.isnan(self.value) else f" is {self.value:.3f} ({self.attack})"
        high = beside(self.high, self.limit)
        if self.outcome == "within":
            return f"{self.label}{number}; of every attack it is at most {high}, below {self.limit:g}"
        if self.outcome == "exceeded":
            whose = "," if self.low_of == self.attack else f"; of {self.low_of or 'some attack'} it is"
            return f"{self.label}{number}{whose} at least {beside(self.low, self.limit)}, above {self.limit:g}"
        if_so = "at this estimate" if not math.isnan(self.value) else "of a target that gives nothing away"
        more = f"; about {self.needed:,} {self.counted} of each class would show it {if_so}" if self.needed else ""
        if self.outcome == "not_shown" and self.high >= self.limit:
            above = "; the estimate itself is not below it" if self.value >= self.limit else ""
            reach = f"; of some attack up to {high} cannot be ruled out, {self.limit:g} was declared"
            why = f"; {self.reason}" if self.reason else ""
            return f"{self.label}{number}{reach}{above}{why}{more}"
        return f"{self.label}{number}: {self.reason}{more}"


@dataclass(frozen=True)
class BoundVerdict:
    """What an audit says of a bound.

    Attributes:
        dataset: whose audit.
        outcome: the worst of the metrics'; `not_evaluable` without a bound.
        held: each metric; empty where there is no bound.
        declared: as in `Bound`.
        known_before: the attacks all of whose scores came from the store: they were known when the bound was declared.
        known_in_part: those of which some scores did.
        laxer: of a bound that was given after the run: the metrics for which a smaller limit was declared.
    """

    dataset: str
    outcome: Outcome
    held: tuple[Held, ...]
    declared: str | None
    known_before: tuple[str, ...] = ()
    known_in_part: tuple[str, ...] = ()
    laxer: tuple[str, ...] = ()

    def when(self) -> str:
        """When the bound was declared, in words."""
        if not self.held:
            return "no bound was declared with the run, and none was given"
        if self.declared is None:
            lax = f", and is laxer than the declared one ({', '.join(self.laxer)}), which still counts"
            return f"the bound was given after the run{lax if self.laxer else ''}"
        known = [
            f"{how} scores of {', '.join(attacks)}"
            for how, attacks in (("all", self.known_before), ("some", self.known_in_part))
            if attacks
        ]
        late = f", when {' and '.join(known)} were known already: they came from an earlier run" if known else ""
        at = self.declared.replace("T", " ", 1).replace("+00:00", " UTC")
        return f"the bound was declared at {at}{late}"


def hold(audit: Audit, bound: Bound) -> BoundVerdict:
    """Hold an audit against a bound."""
    held = tuple(_held(audit, bound))
    outcomes = {each.outcome for each in held}
    outcome = next((each for each in WORST_FIRST if each in outcomes), WORST_FIRST[1])
    known = [(task.attack, _known(audit, task)) for task in audit.model_attacks]
    return BoundVerdict(
        audit.dataset,
        outcome,
        held,
        bound.declared,
        known_before=tuple(attack for attack, share in known if share == 1),
        known_in_part=tuple(attack for attack, share in known if 0 < share < 1),
    )


def _known(audit: Audit, task: TaskResult) -> float:
    """The share of an attack's scores that were known when the run began."""
    attacker = task.mia_audit.attacker
    if attacker is not None and attacker.asked is not None:
        return attacker.known
    return float(audit.from_store)  # results of before it was recorded attack by attack tell of the whole run alone


def hold_every(audit: Audit, given: Mapping[str, float]) -> list[BoundVerdict]:
    """Hold an audit against what was declared with the run and against what is given after it, each by itself.

    What is given replaces nothing: the declared limits count whatever it is. An audit with neither has no bound, and so
    is `not_evaluable`.

    Args:
        audit: the audit.
        given: limits by key of the metric.
    """
    declared = Bound.of(audit)
    verdicts = [] if declared is None else [hold(audit, declared)]
    if given or declared is None:
        limits = {} if declared is None else declared.limits
        laxer = tuple(
            f"{METRICS[key].label}: {limit:g}, declared {limits[key]:g}"
            for key, limit in given.items()
            if key in limits and limit > limits[key]
        )
        verdicts.append(replace(hold(audit, Bound(given)), laxer=laxer))
    return verdicts


def _held(audit: Audit, bound: Bound) -> Iterator[Held]:
    for key, limit in bound.limits.items():
        if key == EPSILON.key:
            yield _epsilon(audit, limit)
            continue
        yield _attacks(audit, METRICS[key], limit, by_unit=False)
        if audit.mia_audit.unit is not None or units_incomplete(audit) is not None:
            yield _attacks(audit, METRICS[key], limit, by_unit=True)


def _attacks(audit: Audit, metric: Metric, limit: float, *, by_unit: bool) -> Held:
    """All attacks' intervals of a metric, which hold at once, against its limit."""
    counted = clusters_called(have_units=audit.mia_audit.unit is not None)
    blank = Held(metric.key, limit, "not_evaluable", counted=counted, by_unit=by_unit)
    broken = next((f.message for f in failed(audit) if f.code in NO_EVIDENCE), None)
    if not audit.model_attacks:
        broken = "no attack on the model was run"
    elif audit.without_samples:
        broken = f"the samples of {', '.join(audit.without_samples)} are not there: put their files back, or run again"
    if broken is not None:
        return replace(blank, reason=broken)
    found = _by_unit(audit, metric) if by_unit else _by_record(audit, metric)
    if isinstance(found, str):
        return replace(blank, reason=found)
    reach = found.extremes
    if reach.attack is None:
        return replace(blank, reason=reach.reason)
    told = replace(blank, outcome="within", attack=reach.attack, value=reach.value, low=reach.low, high=reach.high)
    above = _above(audit, found.leaders, limit) if reach.low > limit else None
    if isinstance(above, Leader):
        return replace(told, outcome="exceeded", low=above.low, low_of=above.attack)
    if metric in TPRS and found.turned_round.attack is not None:
        return replace(blank, reason=f"{below_a_guess(found.turned_round)}; {FIND_OUT_WHY}")
    if above is not None:
        return replace(told, outcome="not_shown", reason=above)
    turned = _turned(metric, found, limit)
    stays, passes = _doubts(audit)
    if reach.reason is None and turned is None and reach.high < limit:
        doubt = stays or passes
        return told if doubt is None else replace(told, outcome="not_shown", reason=doubt)
    if reach.high >= limit > 1 - reach.least:
        turned = None  # intervals that are too wide on both sides are told of once
    enough = None if stays else needed(metric, limit, _told_most(metric, reach), found.n_attacks, found.confidence)
    return replace(told, outcome="not_shown", needed=enough, reason=stays or reach.reason or turned)


def _by_record(audit: Audit, metric: Metric) -> _Reached | str:
    """How far the attacks reach, or why that is not known."""
    found = audit.compared
    if found is None:
        return NO_SAMPLES
    leaders = tuple(found.leaders[metric.key].values())
    return _Reached(found.extremes(metric.key), leaders, found.turned_round, found.n_attacks, found.confidence)


def _by_unit(audit: Audit, metric: Metric) -> _Reached | str:
    """The same with units as observations, as the run recorded it."""
    if (incomplete := units_incomplete(audit)) is not None:
        return incomplete
    unit = audit.mia_audit.unit
    together = None if unit is None else unit.together
    reach = next((each for each in together.extremes if each.metric == metric.key), None) if together else None
    if together is None or reach is None:
        return "the run did not record how all attacks compare by unit (it was cut off, or is older); run it again"
    found = together.strongest
    known = found.by_metric[metric.key]
    # Of the largest lower end the run records no owner: where it is not the leader's, it is that of some attack.
    leaders = [known] if known.low == reach.low else [known, Leader(low=reach.low)]
    return _Reached(reach, leaders, found.turned_round, found.n_attacks, found.confidence)


def units_incomplete(audit: Audit) -> str | None:
    """Why nothing is known by unit although units were named."""
    return next((finding.message for finding in failed(audit) if finding.code == UNITS_INCOMPLETE), None)


def _or_least(number: float) -> float:
    return -math.inf if math.isnan(number) else number


def _above(audit: Audit, leaders: Sequence[Leader], limit: float) -> Leader | str:
    """The attack that shows most surely that a limit is exceeded, or why none does although an interval lies above it.

    One that left records out shows nothing by itself, and one without a name may be such an attack.

    Args:
        audit: the attacks.
        leaders: of them, at least one of which lies above the limit.
        limit: what was declared.
    """
    left_out = mostly_unscored(audit)
    shows_nothing: Collection[str | None] = {*left_out, None} if left_out else ()
    above = [leader for leader in leaders if leader.low > limit]
    sure = [leader for leader in above if leader.attack not in shows_nothing]
    if not sure:
        named = [leader.attack for leader in above if leader.attack is not None]
        return left_out[min(named or left_out)].message
    return max(sure, key=lambda leader: (leader.attack is not None, leader.low))


def _turned(metric: Metric, found: _Reached, limit: float) -> str | None:
    """Who knows that an attack points the wrong way turns it round: an AUROC of .05 tells as much as one of .95."""
    lowest = found.extremes.lowest
    if metric != AUROC or 1 - lowest < limit:
        return None
    why = "; look for swapped labels" if found.turned_round.attack is not None else ""
    return f"an attack may be as low as {beside(lowest, 1 - limit)}, turned round {beside(1 - lowest, limit)}{why}"


def _told_most(metric: Metric, reach: Extremes) -> float | None:
    """The estimate that decides how many documents are enough: of an AUROC that of an attack turned round, too."""
    values = [reach.value, *([1 - reach.least] if metric == AUROC else [])]
    return max((value for value in values if not math.isnan(value)), default=None)


def _doubts(audit: Audit) -> tuple[str | None, str | None]:
    """Why an audit is never within a limit, whatever its numbers: they may be too low.

    Returns:
        What stays so of an audit of more documents, and what does not; None for nothing.
    """
    stays = [finding.message for finding in mostly_unscored(audit).values()]
    found = [finding for finding in failed(audit) if finding.code not in (*_HARMLESS, MOSTLY_UNSCORED)]
    passes = [_condition(finding) for finding in found if finding.code in _MENDED_BY_MORE]
    stays += [_condition(finding) for finding in found if finding.code not in _MENDED_BY_MORE]
    return next(iter(stays), None), next(iter(passes), None)


def _condition(finding: Finding) -> str:
    return f"a condition of the audit does not hold: {finding.message}"


def _epsilon(audit: Audit, limit: float) -> Held:
    """A lower bound on epsilon can break a limit, and never shows that it holds."""
    found = [task for task in audit.tasks if task.is_canary_audit]
    if not found:
        # The run may hold an audit of canaries besides this one: what is said here is true either way.
        reason = (
            "these records are no canaries: canary_audit_custom, of a target that was fine-tuned with canaries, bounds "
            "epsilon and is held against the limit by itself"
        )
        return Held(EPSILON.key, limit, "not_evaluable", reason=reason)
    task = max(found, key=lambda each: _or_least(each.metrics.get(EPSILON.key, math.nan)))
    low = task.metrics.get(EPSILON.key, math.nan)
    if math.isnan(low):  # no bound at all is another thing than one that lies below the limit
        return Held(EPSILON.key, limit, "not_evaluable", reason=of_attack(task, EPSILON.key).reason)
    told = Held(EPSILON.key, limit, "exceeded", task.attack, low, low, low_of=task.attack)
    if low > limit:
        return told
    reason = "an audit bounds epsilon from below: that it is smaller takes a proof, such as that of DP-SGD"
    return replace(told, outcome="not_shown", reason=reason)
