"""From records to whom they belong to: one score for each unit (person, customer, author), with the units as
observations of every statistic, and what an attacker learns who has only some of a unit's records."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    Interval,
    check_labels,
    cluster_codes,
)
from spvmia_plugin.metrics.intervals import estimate_means
from spvmia_plugin.metrics.roc import placements
from spvmia_plugin.util.schema import MaybeNumber

RECORDS_GIVEN = (1, 2, 3, 5)
"""How many of a unit's records the attacker of the curve is given; the unit's AUROC is the end of it, with all."""
FEWEST_UNITS = 10
"""Fewer units of a class with so many records, and the curve has no point there."""
DRAWS = 20
"""Draws of the records that the attacker is given; the curve is the mean over them."""


@dataclass(frozen=True, eq=False)
class Units:
    """Whose the n records are.

    Attributes:
        names: (U,) of the units, in the order in which they appear.
        is_member: (U,) whether their records were trained on.
        clusters: (U,) what each shares with units that depend on it: near copies of one text may belong to two.
        of_record: (n,) which of them each record belongs to.
    """

    names: Sequence[Hashable]
    is_member: Bools
    clusters: Sequence[Hashable]
    of_record: Codes

    @classmethod
    def of(cls, units: Sequence[Hashable], is_member: ArrayLike, clusters: Sequence[Hashable]) -> Units:
        """Gather records by unit.

        Args:
            units: (n,) whom each record belongs to.
            is_member: (n,) bool.
            clusters: (n,) of each record; those of one unit are taken from its first record.

        Raises:
            SpvmiaError: lengths differ, or a unit has records of both classes.
        """
        _, labels = check_labels(np.zeros(len(units)), is_member)
        codes = cluster_codes(units, len(labels))
        _, first = np.unique(codes, return_index=True)
        mixed = int(np.sum(np.bincount(codes[labels != labels[first][codes]], minlength=0) > 0))
        if mixed:
            raise SpvmiaError(
                f"units: expected records of one class from each, got {mixed:,} with records of both; give each unit "
                "to one class"
            )
        rows = first.tolist()
        return cls([units[row] for row in rows], labels[first], [clusters[row] for row in rows], codes)

    @property
    def sizes(self) -> Codes:
        """(U,) records of each."""
        return np.bincount(self.of_record, minlength=len(self.names))


def normal_scores(scores: ArrayLike) -> Floats:
    """(n,) what a normal variable of the same rank would be (van der Waerden's scores); NaN where there is no score.

    Ties have one rank. Labels are not used: an attacker can do it with any records of the kind.
    """
    values = np.asarray(scores, dtype=np.float64)
    found = np.full(len(values), math.nan)
    scored = np.isfinite(values)
    found[scored] = scipy.special.ndtri(placements(values[scored], values[scored]))
    return found


def unit_scores(scores: ArrayLike, of_record: Codes) -> Floats:
    """(U,) one score for each unit: the mean of its records' z-scores, in units of what chance spreads it by.

    score_u = mean_u / sqrt(between + within / m_u), with m_u scored records of unit u, `within` the variance of the
    z-scores between records of one unit and `between` that between units, both from all audited records without their
    labels (analysis of variance, random effects: Searle, Casella and McCulloch 1992). z are `normal_scores`.

    A mean alone spreads less the more records it is of, a sum more, and the highest of many is higher by itself: where
    members have more records than non-members, all three tell the classes apart although nothing was memorised. This
    score has the same mean and spread for every number of records; `normal_scores` make it symmetric, without which its
    median would move with the number.

    Args:
        scores: (n,) NaN where a record has none.
        of_record: (n,) unit of each record, 0..U-1.

    Returns:
        NaN for a unit without a scored record.
    """
    z = normal_scores(scores)
    n_units = int(of_record.max(initial=-1)) + 1
    scored = np.isfinite(z)
    codes, values = of_record[scored], z[scored]
    sizes = np.bincount(codes, minlength=n_units)
    means: Floats = np.full(n_units, math.nan)
    seen = sizes > 0
    means[seen] = np.bincount(codes, weights=values, minlength=n_units)[seen] / sizes[seen]
    n, units = len(values), int(np.sum(seen))
    if units < 2:
        return means
    within = float(np.sum((values - means[codes]) ** 2)) / (n - units) if n > units else 0.0
    # Normal scores of all records have the mean 0, so the units' deviations from it are their means.
    of_units = float(np.sum(sizes[seen] * means[seen] ** 2)) / (units - 1)
    between = max(0.0, (of_units - within) / ((n - float(np.sum(sizes**2)) / n) / (units - 1)))
    spread = np.sqrt(between + within / np.maximum(sizes, 1))
    return means / np.where(spread > 0, spread, 1.0)


@dataclass(frozen=True, slots=True)
class Given:
    """What the attack tells of units of which the attacker has so many records.

    Attributes:
        records: how many, drawn at random from each unit that has so many.
        auroc: by unit, the mean over draws.
        interval: two-sided.
        members: units of members with so many records.
        nonmembers: units of non-members with so many.
        reason: why there is no number, or None.
    """

    records: int
    auroc: MaybeNumber
    interval: Interval
    members: int
    nonmembers: int
    reason: str | None = None


def by_records_given(scores: ArrayLike, units: Units, *, seed: int = 0, confidence: float = 0.95) -> tuple[Given, ...]:
    """The AUROC by unit where an attacker is given 1, 2, 3, 5 records of each: all units count with equally many.

    A point is of the units that have so many scored records, which are fewer and fewer: `Given` says how many.

    Args:
        scores: (n,) NaN where a record has none.
        units: whose the records are.
        seed: of the draws.
        confidence: of each interval.
    """
    z = normal_scores(scores)
    scored = np.isfinite(z)
    codes, values = units.of_record[scored], z[scored]
    sizes = np.bincount(codes, minlength=len(units.names))
    rng = np.random.default_rng([seed, len(values)])
    ranks = np.array([_rank_in_unit(codes, sizes, rng) for _ in range(DRAWS)])
    all_clusters = cluster_codes(units.clusters, len(units.names))
    found = []
    for records in RECORDS_GIVEN:
        enough = sizes >= records
        members, nonmembers = int(np.sum(enough & units.is_member)), int(np.sum(enough & ~units.is_member))
        if min(members, nonmembers) < FEWEST_UNITS:
            reason = f"fewer than {FEWEST_UNITS} units of a class have {records} scored records"
            found.append(Given(records, math.nan, NAN_INTERVAL, members, nonmembers, reason))
            continue
        labels = units.is_member[enough]
        of_members, of_others = np.zeros(members), np.zeros(nonmembers)
        for rank in ranks:
            drawn = rank < records
            means = np.bincount(codes[drawn], weights=values[drawn], minlength=len(sizes))[enough] / records
            of_members += placements(means[labels], means[~labels]) / DRAWS
            of_others += (1 - placements(means[~labels], means[labels])) / DRAWS
        auroc = float(np.mean(of_members))
        clusters = np.unique(all_clusters[enough], return_inverse=True)[1]
        estimate = estimate_means(auroc, of_members - auroc, of_others - auroc, labels, clusters)
        found.append(Given(records, auroc, estimate.interval(confidence), members, nonmembers))
    return tuple(found)


def _rank_in_unit(codes: Codes, sizes: Codes, rng: np.random.Generator) -> Codes:
    """(n,) place of each record in a random order of those of its unit, from 0."""
    order = np.lexsort((rng.random(len(codes)), codes))
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def told_by_number(units: Units) -> tuple[float, Interval]:
    """AUROC of the number of records alone, and its 95 % interval: what who looks at no score knows of the classes.

    Units with more records are no more members for it, but who counts can tell; NaN where a class is empty.
    """
    labels = units.is_member
    if not 0 < labels.sum() < len(labels):
        return math.nan, NAN_INTERVAL
    sizes = units.sizes.astype(np.float64)
    of_members = placements(sizes[labels], sizes[~labels])
    of_others = 1 - placements(sizes[~labels], sizes[labels])
    auroc = float(np.mean(of_members))
    codes = cluster_codes(units.clusters, len(labels))
    estimate = estimate_means(auroc, of_members - auroc, of_others - auroc, labels, codes)
    return auroc, estimate.interval(0.95)
