"""Of the records that an attack accuses, how many are members: the precision that a TPR at an FPR amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Interval
from spvmia_plugin.util.schema import MaybeNumber

PRIORS = (1 / 2, 1 / 10, 1 / 1000)
"""Shares of members among the records an attacker asks about that are told where nobody states one.

One in two is what an audit has; one in a thousand is nearer to a stranger who asks about everyone they know of.
"""


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of accused records that are members, at a stated prior.

    Attributes:
        prior: share of members among all records the attacker asks about.
        value: NaN where the TPR is.
        interval: from the interval of the TPR, and as sure as that; it says nothing of the prior.
    """

    prior: float
    value: MaybeNumber
    interval: Interval


def as_prior(given: str | float) -> float:
    """A share of members as people write it: 0.001 or 1/1000.

    Raises:
        SpvmiaError: it is not above 0 and below 1.
    """
    above, _, below = str(given).partition("/")
    try:
        prior = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        prior = math.nan
    if not 0 < prior < 1:
        raise SpvmiaError(
            "--prior: expected the share of members among the records asked about, above 0 and below 1, got "
            f"{str(given)[:40]!r}; write 0.001 or 1/1000 for one in a thousand"
        )
    return prior


def precisions(tpr: float, interval: Interval, fpr: float, priors: Iterable[float] = PRIORS) -> list[Precision]:
    """Precision of an attack at each prior, by Bayes' rule: pi TPR / (pi TPR + (1 - pi) FPR).

    For a given FPR it only grows with the TPR, so the ends of the TPR's interval are those of the precision's, at the
    same confidence. An attack that guesses has the prior as its precision (Jayaraman, Wang, Knipmeyer, Gu and Evans
    2021, arXiv 2005.10881, on why even priors flatter an attack).

    Args:
        tpr: share of members accused, NaN where it is not resolved.
        interval: of `tpr`, at this FPR.
        fpr: share of non-members accused, above 0.
        priors: of membership.

    Raises:
        SpvmiaError: a prior is not above 0 and below 1.
    """
    found = []
    for prior in map(as_prior, priors):
        value, low, high = (
            prior * share / (prior * share + (1 - prior) * fpr) if not math.isnan(share) else math.nan
            for share in (tpr, *interval)
        )
        found.append(Precision(prior, value, (low, high)))
    return found
