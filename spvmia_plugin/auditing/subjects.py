"""What attacks tell of whom records belong to, and of groups of them: from scores, as it stands in `mia_audit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spvmia_plugin.metrics.arrays import NAN_INTERVAL, Floats, Interval
from spvmia_plugin.metrics.groups import GroupsTold, by_group
from spvmia_plugin.metrics.leaders import Compared, Extremes, Leader, Strongest
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.metrics.summary import Summary, summarise
from spvmia_plugin.metrics.units import Given, Units, by_records_given, told_by_number, unit_scores
from spvmia_plugin.records import Record, clusters_called
from spvmia_plugin.util.schema import LEFT_OUT, MaybeNumber

MOST_EXPOSED = 20
"""Units that are named."""
AGGREGATE = "mean of the records' normal scores, over what chance spreads the mean of so many by"

Named = Callable[[Compared], Compared]


@dataclass(frozen=True, slots=True)
class ExposedUnit:
    """A unit of the members that the attack ranks high.

    Attributes:
        unit: its name, a keyed hash.
        records: how many of its records have a score.
        score: see `metrics.units.unit_scores`.
        above: share of the non-members' units that score as high or higher.
    """

    unit: str
    records: int
    score: float
    above: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all attacks tell of units, in one statement.

    Attributes:
        strongest: with the units as observations.
        extremes: how far all attacks reach in the metrics that a bound may be declared for.
        attack: by whose scores the next two are: the one with the largest AUROC by unit.
        given: its AUROC where the attacker has so many records of each unit.
        exposed: the members' units that it ranks highest.
    """

    strongest: Strongest
    attack: str | None
    given: tuple[Given, ...]
    exposed: tuple[ExposedUnit, ...]
    extremes: tuple[Extremes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTold:
    """What one attack tells of units.

    Attributes:
        column: of the data that says whom a record belongs to.
        aggregate: how records' scores become one of their unit, in words.
        members: units of the members.
        nonmembers: units of the non-members.
        median_records: records of a unit; the lower of two.
        most_records: of the largest.
        metrics: the numbers, each unit an observation.
        by_number: AUROC of how many records a unit has, by itself.
        by_number_interval: of that, 95 %.
        together: of all attacks; None in what one task knows by itself.
    """

    column: str
    aggregate: str
    members: int
    nonmembers: int
    median_records: int
    most_records: int
    metrics: Summary
    by_number: MaybeNumber = math.nan
    by_number_interval: Interval = NAN_INTERVAL
    together: Together | None = field(default=None, metadata=LEFT_OUT)


def units_of(records: Sequence[Record]) -> Units | None:
    """Whose the records are; None where nobody said."""
    names = [record.unit for record in records]
    if not names or None in names:
        return None
    return Units.of(names, [record.is_member for record in records], [record.cluster for record in records])


def unit_told(column: str, records: Sequence[Record], scores: Sequence[float], seed: int) -> UnitTold | None:
    """What one attack tells of units; None where nobody said whose the records are.

    Args:
        column: of the data that says it.
        records: n that were audited.
        scores: (n,) NaN where there is none.
        seed: of the bootstrap.
    """
    units = units_of(records)
    if units is None:
        return None
    of_units = unit_scores(scores, units.of_record)
    scored = np.isfinite(of_units)
    clusters = [cluster for cluster, has in zip(units.clusters, scored.tolist(), strict=True) if has]
    by_number, interval = told_by_number(units)
    called = clusters_called(have_units=True)
    return UnitTold(
        column=column,
        aggregate=AGGREGATE,
        members=int(np.sum(units.is_member)),
        nonmembers=int(np.sum(~units.is_member)),
        median_records=int(np.sort(units.sizes)[(len(units.names) - 1) // 2]),
        most_records=int(np.max(units.sizes)),
        metrics=summarise(of_units[scored], units.is_member[scored], clusters, seed=seed, called=called),
        by_number=by_number,
        by_number_interval=interval,
    )


def units_together(
    scores: Mapping[str, Sequence[float]], records: Sequence[Record], named: Named, seed: int
) -> Together | None:
    """What all attacks tell of units; None where nobody said whose the records are.

    Args:
        scores: by task, (n,) NaN where a record has none.
        records: the n records.
        named: gives leaders the names of attacks.
        seed: of resamples and draws.
    """
    units = units_of(records)
    if units is None:
        return None
    of_units = {task: unit_scores(values, units.of_record) for task, values in scores.items()}
    compared = named(compare(of_units, units.is_member, units.clusters, seed=seed))
    found, extremes = compared.strongest(), tuple(compared.extremes(metric.key) for metric in (AUROC, TPR_1PCT))
    leader = found.auroc
    if leader.task is None:
        return Together(strongest=found, attack=None, given=(), exposed=(), extremes=extremes)
    return Together(
        strongest=found,
        extremes=extremes,
        attack=leader.attack,
        given=by_records_given(scores[leader.task], units, seed=seed),
        exposed=_exposed(of_units[leader.task], scores[leader.task], units),
    )


def _exposed(of_units: Floats, scores: Sequence[float], units: Units) -> tuple[ExposedUnit, ...]:
    """The members' units with the highest scores, the highest first."""
    scored = np.isfinite(of_units)
    others = np.sort(of_units[scored & ~units.is_member])
    has_score = np.isfinite(np.asarray(scores, dtype=np.float64))
    counts = np.bincount(units.of_record[has_score], minlength=len(units.names))
    members = np.flatnonzero(scored & units.is_member)
    highest = members[np.argsort(-of_units[members], kind="stable")[:MOST_EXPOSED]]
    above = 1 - np.searchsorted(others, of_units[highest], side="left") / len(others)
    return tuple(
        ExposedUnit(str(units.names[row]), int(counts[row]), float(of_units[row]), float(share))
        for row, share in zip(highest.tolist(), above.tolist(), strict=True)
    )


def groups_together(
    scores: Mapping[str, Sequence[float]], records: Sequence[Record], attacks: Mapping[str, str], seed: int
) -> GroupsTold | None:
    """What all attacks tell of each group; None where no record is of one.

    Args:
        scores: by task, (n,) NaN where a record has none.
        records: the n records.
        attacks: name of the attack of each task.
        seed: of resamples and draws.
    """
    groups = [record.group for record in records]
    if not any(groups):
        return None
    members, clusters = [record.is_member for record in records], [record.cluster for record in records]
    found = by_group(scores, members, clusters, groups, seed=seed)

    def named(leader: Leader) -> Leader:
        task = leader.attack
        return leader if task is None else replace(leader, attack=attacks[task], task=task)

    return replace(
        found,
        groups=tuple(
            replace(group, auroc=named(group.auroc), most_exposed=named(group.most_exposed)) for group in found.groups
        ),
    )
