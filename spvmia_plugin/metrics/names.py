"""The numbers of every task: what they are called, which way they point, what guessing gets. The one table of them.

Harness, results, report, leaderboard and exports read it; no NumPy, so that what only lists stays light.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""Standard errors to either side of a two-sided 95 % interval. A number of its own: what only lists loads no scipy."""
DECIMALS = 3
"""With which people read each of them."""
_MOST_DECIMALS = 9


def beside(value: float, mark: float) -> str:
    """A number with `DECIMALS`, or with as many as it takes to stand on its own side of a mark in print, too.

    Args:
        value: the number.
        mark: what is said of it in the same sentence: that it lies above, or below. A limit, or what guessing gets.
    """
    for decimals in range(DECIMALS, _MOST_DECIMALS):
        printed = f"{value:.{decimals}f}"
        if value == mark or (float(printed) - mark) * (value - mark) > 0:
            return printed
    return f"{value:.{_MOST_DECIMALS}f}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a task.

    Attributes:
        key: the harness's name, `auroc` of `auroc,none`.
        label: for people.
        guess: what an attack that guesses gets, on average or as its limit.
        higher_is_better: whether more is more private.
        has_error: whether a standard error follows it, in the harness's own column.
        maximum: the largest value it can have; all start at 0.
        fpr: the false-positive rate it is read at, NaN for what is read at none.
        too_few: code of the finding that it is NaN for want of non-members, empty where there is none.
    """

    key: str
    label: str
    guess: float
    higher_is_better: bool = False
    has_error: bool = False
    maximum: float = 1.0
    fpr: float = math.nan
    too_few: str = ""

    @property
    def stderr_key(self) -> str:
        """The harness's name of its standard error."""
        return f"{self.key}_stderr"


AUROC = Metric("auroc", "AUROC", guess=0.5, has_error=True)
TPR_5PCT = Metric(
    "tpr_at_5pct_fpr", "TPR at 5 % FPR", guess=0.05, has_error=True, fpr=0.05, too_few="too_few_nonmembers_5pct"
)
TPR_1PCT = Metric(
    "tpr_at_1pct_fpr", "TPR at 1 % FPR", guess=0.01, has_error=True, fpr=0.01, too_few="too_few_nonmembers_1pct"
)
TPR_01PCT = Metric(
    "tpr_at_0.1pct_fpr", "TPR at 0.1 % FPR", guess=0.001, has_error=True, fpr=0.001, too_few="too_few_nonmembers_0.1pct"
)
ASR = Metric("asr", "attack success rate", guess=0.5)
BLIND = Metric("blind_auroc", "AUROC of the blind baseline", guess=0.5)
EPSILON = Metric("epsilon_lb", "lower bound on epsilon", guess=0.0, maximum=math.inf)
PRIVACY = Metric("privacy_score", "privacy score", guess=1.0, higher_is_better=True)

METRICS: Mapping[str, Metric] = {
    metric.key: metric for metric in (AUROC, TPR_1PCT, TPR_01PCT, ASR, BLIND, EPSILON, PRIVACY)
}
"""Those that the harness prints, by key, in its order."""

BOUNDED_BY: Mapping[str, str] = {
    AUROC.key: "max_auroc",
    TPR_1PCT.key: "max_tpr_at_1pct",
    EPSILON.key: "max_epsilon",
}
"""The options that declare a bound beforehand, by the metric that they bound."""

UNIT_AUROC = Metric("unit_auroc", "AUROC by unit", guess=0.5, has_error=True)
UNIT_TPR_1PCT = Metric("unit_tpr_at_1pct_fpr", "TPR at 1 % FPR by unit", guess=0.01, has_error=True, fpr=0.01)
UNIT_METRICS = (UNIT_AUROC, UNIT_TPR_1PCT)
"""Those that the harness prints besides where it is known whom records belong to: units are the observations."""

TPRS = (TPR_5PCT, TPR_1PCT, TPR_01PCT)
"""Those in `mia_audit`; the harness prints the lower two."""
METRICS_WITH_INTERVAL: Mapping[str, Metric] = {metric.key: metric for metric in (AUROC, *TPRS)}
"""Those with a standard error and an interval in `mia_audit`."""
LOW_END_NONMEMBERS = 500
"""From so many non-members on, what is said of the most exposed few is read at an FPR of 1 %, below at 5 %: with 200
the TPR at 1 % rests on the highest two of them."""
WITH_ERROR = tuple(metric for metric in METRICS.values() if metric.has_error)
"""Those with a standard error and an interval: what models can be ranked by."""


def low_end(n_nonmembers: int) -> Metric:
    """The TPR that says how many of the most exposed records can be picked out, with so many non-members behind it."""
    return TPR_1PCT if n_nonmembers >= LOW_END_NONMEMBERS else TPR_5PCT
