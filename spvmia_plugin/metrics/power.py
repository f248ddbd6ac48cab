"""What an audit of so many records can tell, before any of them is scored.

The intervals are those of the audit itself, on scores that have the number in question and are spread as evenly as
numbers can be. How far they reach for those of all attacks and metrics to hold at once an audit finds in resamples (max
statistic). Here it is what Bonferroni asks for: within 2 % of that for independent attacks, and further where they have
much in common (5 % at a correlation of .8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy

from spvmia_plugin.metrics.arrays import Bools, Floats, Interval
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc
from spvmia_plugin.metrics.names import AUROC, TPRS, Metric
from spvmia_plugin.metrics.tpr import tpr_interval, unresolved
from spvmia_plugin.util.schema import MaybeNumber


@dataclass(frozen=True)
class Resolution:
    """What so many documents of each class can tell.

    Attributes:
        n_members: documents of members; several records of one say little more than one.
        n_nonmembers: documents of non-members.
        attacks: how many are compared.
        confidence: of all intervals together.
        half_width: of the AUROC's interval, where the AUROC is .5.
        smallest: by key of the metric, the smallest value that is told apart from guessing; NaN where none is.
        reasons: by key of the metric, why there is none.
    """

    n_members: int
    n_nonmembers: int
    attacks: int
    confidence: float
    half_width: MaybeNumber
    smallest: Mapping[str, MaybeNumber]
    reasons: Mapping[str, str]


def resolution(n_members: int, n_nonmembers: int, attacks: int = 1, confidence: float = 0.95) -> Resolution:
    """What an audit with so many documents of each class can tell.

    Args:
        n_members: documents of members.
        n_nonmembers: documents of non-members.
        attacks: how many attacks are compared.
        confidence: that all intervals hold.
    """
    sizes = n_members, n_nonmembers
    pointwise = _pointwise(sizes, attacks, confidence)
    half_width, smallest, reasons = math.nan, dict[str, float](), dict[str, str]()
    if min(sizes) >= 2:
        low, high = auroc_ends(*sizes, AUROC.guess, pointwise)
        half_width = (high - low) / 2
    for metric in (AUROC, *TPRS):
        reason = "a class has less than two documents" if min(sizes) < 2 else None
        reason = reason or (unresolved(*sizes, metric.fpr) if metric in TPRS else None)
        value = math.nan
        if reason is None:
            value = _smallest(partial(_low_end, metric, sizes, pointwise), metric.guess)
            reason = _NONE if math.isnan(value) else None
        smallest[metric.key] = value
        if reason is not None:
            reasons[metric.key] = reason
    return Resolution(*sizes, attacks, confidence, half_width, smallest, reasons)


def _pointwise(sizes: tuple[int, int], attacks: int, confidence: float) -> float:
    """The confidence of each interval for those of all attacks, AUROC and what TPRs there are, to hold (Bonferroni)."""
    metrics = 1 + sum(unresolved(*sizes, metric.fpr) is None for metric in TPRS)
    return 1 - (1 - confidence) / (max(attacks, 1) * metrics)


_NONE = "no value is told apart from guessing by so few records"


def _low_end(metric: Metric, sizes: tuple[int, int], confidence: float, value: float) -> float:
    """The lower end of the interval around a value of a metric."""
    if metric == AUROC:
        return auroc_ends(*sizes, value, confidence)[0]
    return tpr_ends(*sizes, value, metric.fpr, confidence)[0]


MOST_DOCUMENTS = 200_000
"""Of a class: what takes more to show is not told as a number."""


CHANCE = 0.8
"""That an audit of so many documents shows what they are needed for: estimates scatter around the truth."""


def needed(
    metric: Metric, limit: float, value: float | None = None, attacks: int = 1, confidence: float = 0.95
) -> int | None:
    """How many documents of each class it takes for all intervals to end below a limit in four of five audits.

    Args:
        metric: the AUROC, or a TPR.
        limit: what the upper ends must stay below, those of an AUROC that is turned round, too.
        value: what the strongest attack truly has, while the others guess. None for a target that gives nothing away:
            then all of them do. The estimates scatter around that, as if they were independent, and the one furthest
            from guessing counts.
        attacks: how many are compared.
        confidence: that all intervals hold.

    Returns:
        To two digits. None where the value itself is not below the limit, or more than `MOST_DOCUMENTS` are needed.
    """
    truth = metric.guess if value is None else max(value, metric.guess)

    def is_enough(n: int) -> bool:
        if metric != AUROC and unresolved(n, n, metric.fpr) is not None:
            return False
        pointwise, estimate = _pointwise((n, n), attacks, confidence), _largest(metric, n, truth, attacks)
        if metric == AUROC:
            return estimate < limit and auroc_ends(n, n, estimate, pointwise)[1] < limit
        estimate += 0.5 / n  # a TPR comes in steps of one member: the next one up
        return estimate < limit and tpr_ends(n, n, estimate, metric.fpr, pointwise)[1] < limit

    if truth >= limit:
        return None
    above = 4
    while not is_enough(above):
        above *= 2
        if above > MOST_DOCUMENTS:
            return None
    below = above // 2
    while above - below > max(1, above // 50):
        middle = (below + above) // 2
        below, above = (below, middle) if is_enough(middle) else (middle, above)
    step = int(10 ** max(0, len(str(above)) - 2))
    return -(-above // step) * step


def _largest(metric: Metric, n: int, truth: float, attacks: int) -> float:
    """What the largest of all attacks' estimates stays below with `CHANCE`.

    Of an AUROC none may lie as far below guessing either: who knows of such an attack turns it round.
    """
    of_strongest, of_others = (_inside(metric, n, each) for each in (truth, metric.guess))
    below, above = truth, 1.0
    while above - below > 1e-6:
        middle = (below + above) / 2
        is_likely = of_strongest(middle) * of_others(middle) ** (max(attacks, 1) - 1) >= CHANCE
        below, above = (below, middle) if is_likely else (middle, above)
    return above


_SOME = 2000
"""Of a class: from there on the error of an AUROC falls with the root of their number."""


def _inside(metric: Metric, n: int, truth: float) -> Callable[[float], float]:
    """The chance that the estimate of one attack lies inside an end, by that end."""
    below = scipy.special.ndtr
    if metric == AUROC:
        some = min(n, _SOME)
        error = _even(some, some, truth).stderr * math.sqrt(some / n)
        return lambda end: float(below((end - truth) / error) - below((1 - end - truth) / error))
    # Of the share of the members above the threshold, and of the threshold on a curve that is straight from there on.
    slope = (1 - truth) / (1 - metric.fpr)
    error = math.sqrt((truth * (1 - truth) + slope**2 * metric.fpr * (1 - metric.fpr)) / n)
    shape = (truth / error) ** 2  # where few members decide it is as lopsided as a count, which reaches far up
    return lambda end: float(min(below((end - truth) / error), scipy.special.gammainc(shape, shape * end / truth)))


def auroc_ends(n_members: int, n_nonmembers: int, auroc: float, confidence: float) -> Interval:
    """The interval around an AUROC."""
    return _even(n_members, n_nonmembers, auroc).interval(confidence)


def _even(n_members: int, n_nonmembers: int, auroc: float) -> AurocEstimate:
    """The estimate of an AUROC from normal scores of one spread, taken at even quantiles."""
    members, others = (scipy.special.ndtri((np.arange(n) + 0.5) / n) for n in (n_members, n_nonmembers))
    scores, labels = _together(members + math.sqrt(2) * float(scipy.special.ndtri(auroc)), others)
    return estimate_auroc(scores, labels, np.arange(len(scores)))


def tpr_ends(n_members: int, n_nonmembers: int, tpr: float, fpr: float, confidence: float) -> Interval:
    """The interval around a TPR: some members above all others, the rest among them as if they had not been seen."""
    memorised = round(n_members * max(0.0, (tpr - fpr) / (1 - fpr)))
    rest = n_members - memorised
    members = np.concatenate([np.full(memorised, 2.0), (np.arange(rest) + 0.5) / max(rest, 1)])
    # A quarter of a rank aside, so that no member ties with another record.
    scores, labels = _together(members, (np.arange(n_nonmembers) + 0.25) / n_nonmembers)
    return tpr_interval(scores, labels, np.arange(len(scores)), fpr, confidence)


def _together(members: Floats, others: Floats) -> tuple[Floats, Bools]:
    return np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members)


def _smallest(low_end: Callable[[float], float], guess: float) -> float:
    """The smallest value whose interval begins above guessing, to three digits; NaN if not even 1 has."""
    below, above = guess, 1.0
    if not low_end(above) > guess:
        return math.nan
    while above - below > 0.0005:
        middle = (below + above) / 2
        below, above = (below, middle) if low_end(middle) > guess else (middle, above)
    return above
