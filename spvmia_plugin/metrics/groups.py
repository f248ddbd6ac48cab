"""The strongest attack within each group of records (a language, a region), with intervals that hold at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from spvmia_plugin.metrics.arrays import NAN_INTERVAL, Bools, Codes, Floats, check_labels, cluster_codes
from spvmia_plugin.metrics.intervals import AurocEstimate
from spvmia_plugin.metrics.leaders import NO_SCORES, Leader, best
from spvmia_plugin.metrics.names import AUROC, TPR_5PCT, Metric, low_end
from spvmia_plugin.metrics.several import joint_errors, joint_estimates, max_quantile_over, without_interval
from spvmia_plugin.metrics.tpr import TprAtFpr, tpr_at_fpr, tpr_interval
from spvmia_plugin.util.schema import MaybeNumber

FEWEST_DOCUMENTS = 20
"""Documents, or units, of each class that a group needs: intervals were checked for so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTold:
    """One group.

    Attributes:
        name: of the group, as the data have it.
        members: records of it.
        nonmembers: the same of non-members.
        auroc: the attack that tells its records apart best.
        low_end: key of the TPR that speaks for its most exposed few.
        most_exposed: the attack that picks out most at that FPR.
        reason: why nothing is said of it, or None.
    """

    name: str
    members: int
    nonmembers: int
    auroc: Leader
    low_end: str = TPR_5PCT.key
    most_exposed: Leader
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsTold:
    """All groups of the records.

    Attributes:
        groups: the largest AUROC first, those with too few records last.
        worst: the group whose AUROC is told apart from that of every other one; None where none is.
        critical: standard errors the intervals reach to either side.
        n_attacks: attacks compared.
        confidence: that the intervals of all groups and attacks hold.
    """

    groups: tuple[GroupTold, ...]
    worst: str | None
    critical: MaybeNumber
    n_attacks: int
    confidence: float


@dataclass(frozen=True)
class _Part:
    """The records of one group."""

    name: str
    labels: Bools
    codes: Codes
    scores: Mapping[str, Floats]
    estimates: Mapping[str, AurocEstimate]
    low: Metric
    errors: Floats


def by_group(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[str | None],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> GroupsTold:
    """Every group's AUROC and TPR at its low end under the strongest attack.

    With probability `confidence` the intervals of all attacks in all groups cover, by the max statistic (as
    `several.compare`) over groups times attacks: whichever group and attack is looked at for being large. Errors of
    different groups are taken to be independent, which makes them wider where documents have records in several. The
    worst group is told apart where its lower limit lies above the upper limits of all attacks in every other group.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document, or unit, of each record.
        groups: (n,) name of the group of each record, None for one of none.
        seed: of the resamples and the draws.
        confidence: that all intervals hold.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(len(groups)), is_member)
    codes = cluster_codes(clusters, len(labels))
    named = cluster_codes(groups, len(labels))
    names = [name for name in dict.fromkeys(groups) if name is not None]
    parts, left_out = [], []
    for name in names:
        rows = named == named[groups.index(name)]
        own, of_class = np.unique(codes[rows], return_inverse=True)[1], labels[rows]
        scores = {attack: check_labels(values, labels)[0][rows] for attack, values in scores_by_attack.items()}
        reason = _too_few(own, of_class)
        every, influences = joint_estimates(scores, of_class, own) if reason is None else ({}, np.zeros((0, 0)))
        missing = without_interval(every)
        estimates = {attack: estimate for attack, estimate in every.items() if not missing[attack]}
        influences = influences[[attack in estimates for attack in every]]
        if reason is None and not estimates:
            reason = next((estimate.reason for estimate in every.values()), NO_SCORES)
        if reason is not None:
            left_out.append(_told(name, of_class, Leader(reason=reason), Leader(reason=reason), reason=reason))
            continue
        scored = {attack: scores[attack] for attack in estimates}
        low = low_end(min(int(np.sum(~of_class & np.isfinite(values))) for values in scored.values()))
        resolved = any(_tpr(values, of_class, low).reason is None for values in scored.values())
        errors = joint_errors(list(scored.values()), influences, of_class, own, [low] if resolved else [], seed)
        parts.append(_Part(name, of_class, own, scored, estimates, low, errors))
    critical, pointwise = math.nan, math.nan
    if parts:
        df = min(estimate.df for part in parts for estimate in part.estimates.values())
        critical = max_quantile_over([part.errors for part in parts], df, confidence, seed)
        pointwise = 2 * float(scipy.special.stdtr(df, critical)) - 1
    leaders = {part.name: _leaders(part, critical, pointwise) for part in parts}
    found = [
        _told(
            part.name,
            part.labels,
            best(AUROC.key, leaders[part.name][AUROC.key]),
            best(part.low.key, leaders[part.name][part.low.key]),
            low=part.low,
        )
        for part in parts
    ]
    found.sort(key=lambda group: -group.auroc.value)
    highest = {name: max(leader.high for leader in of_group[AUROC.key]) for name, of_group in leaders.items()}
    others = [high for name, high in highest.items() if found and name != found[0].name]
    worst = found[0].name if others and found[0].auroc.low > max(others) else None
    return GroupsTold(
        groups=(*found, *left_out),
        worst=worst,
        critical=critical,
        n_attacks=len(scores_by_attack),
        confidence=confidence,
    )


def _told(
    name: str, labels: Bools, auroc: Leader, most_exposed: Leader, low: Metric = TPR_5PCT, reason: str | None = None
) -> GroupTold:
    members = int(np.sum(labels))
    return GroupTold(
        name=name,
        members=members,
        nonmembers=len(labels) - members,
        auroc=auroc,
        low_end=low.key,
        most_exposed=most_exposed,
        reason=reason,
    )


def _too_few(codes: Codes, labels: Bools) -> str | None:
    """Why nothing can be said of a group of these records."""
    of_members, of_others = (len(np.unique(codes[side])) for side in (labels, ~labels))
    if min(of_members, of_others) >= FEWEST_DOCUMENTS:
        return None
    return (
        f"its records are of {of_members} members' and {of_others} non-members' documents or units: at least "
        f"{FEWEST_DOCUMENTS} of each are needed"
    )


def _tpr(scores: Floats, labels: Bools, metric: Metric) -> TprAtFpr:
    rows = np.isfinite(scores)
    return tpr_at_fpr(scores[rows], labels[rows], metric.fpr)


def _leaders(part: _Part, critical: float, pointwise: float) -> dict[str, list[Leader]]:
    """AUROC and TPR of every attack in a group."""
    of_auroc, of_tpr = [], []
    for attack, estimate in part.estimates.items():
        of_auroc.append(Leader(attack, estimate.auroc, *estimate.interval_at(critical)))
        rows = np.isfinite(part.scores[attack])
        scores, labels, codes = part.scores[attack][rows], part.labels[rows], part.codes[rows]
        point = _tpr(part.scores[attack], part.labels, part.low)
        ends = NAN_INTERVAL if point.reason else tpr_interval(scores, labels, codes, part.low.fpr, pointwise)
        of_tpr.append(Leader(attack, point.tpr, *ends, point.reason))
    return {AUROC.key: of_auroc, part.low.key: of_tpr}
