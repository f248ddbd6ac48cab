"""What several attacks on the same records show: the leader of each metric, and how far all of them reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spvmia_plugin.metrics.names import (
    AUROC,
    DECIMALS,
    METRICS_WITH_INTERVAL,
    TPR_01PCT,
    TPR_1PCT,
    TPR_5PCT,
    TPRS,
    Metric,
    beside,
)
from spvmia_plugin.util.schema import LEFT_OUT, MaybeNumber

NO_SCORES = "no attack has scores of both classes"


@dataclass(frozen=True, slots=True)
class Leader:
    """The attack with most of one metric.

    Of those that are told apart from guessing, if any are, else of all: the intervals hold for all attacks and metrics
    at once, so whichever is chosen.

    Attributes:
        attack: its name; None if no attack has the metric.
        value: its estimate.
        low: lower end of the interval, simultaneous over all attacks and metrics compared.
        high: upper end.
        reason: why there is no number or no interval, or None.
        task: the harness's name of the task, where there is one.
    """

    attack: str | None = None
    value: MaybeNumber = math.nan
    low: MaybeNumber = math.nan
    high: MaybeNumber = math.nan
    reason: str | None = None
    task: str | None = None

    def excludes(self, guess: float) -> bool:
        """Whether guessing lies below the whole interval."""
        return self.low > guess

    def is_turned_round(self) -> bool:
        """Whether the whole interval of an AUROC lies below guessing: members are told, the wrong way round."""
        return self.high < AUROC.guess

    @property
    def reach(self) -> float:
        """What an AUROC is at most, its answers turned round where that is more; NaN without an interval."""
        return max(self.high, 1 - self.low)

    def in_words(self, guess: float) -> str:
        """The number with its interval, whose ends stand on their own side of a guess in print, too."""
        ends = "" if math.isnan(self.low) else f" ({beside(self.low, guess)} to {beside(self.high, guess)})"
        return f"{self.value:.{DECIMALS}f}{ends}"


TURNED_ROUND = "turned_round"
"""Key of the leader that tells members the wrong way round, by its AUROC."""
LOWEST = "lowest"
"""Key of the leader whose interval reaches furthest below a guess, by its AUROC."""
NOBODY = Leader()
"""In the place of an attack that there is none of."""


def below_a_guess(turned: Leader) -> str:
    """What an attack that is turned round leaves open of all TPRs, in words.

    A TPR is read off the scores as they are. Whoever turns them round may pick out any share of the members that the
    AUROC does not rule out: the TPR at 1 % FPR of an attack with AUROC .003 is 0, that of the opposite may be 1.
    """
    number = f"{AUROC.label} {turned.in_words(AUROC.guess)}"
    more = "turned round may pick out more members than any TPR tells: those are of the scores as they are"
    return f"{turned.attack} has {number}, below a guess, and {more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest:
    """What the strongest attacks show, in one statement over all attacks and metrics.

    Attributes:
        auroc: the attack that tells records as a whole apart best.
        tpr_at_5pct_fpr: the one that picks out most at an FPR of 5 %.
        tpr_at_1pct_fpr: the same at 1 %.
        tpr_at_0_1pct_fpr: the same at 0.1 %.
        turned_round: the attack with the smallest AUROC whose interval lies below guessing: members score lower, as
            with swapped labels. No attack where there is none.
        lowest: the attack with an AUROC below .5 whose interval reaches furthest below it, whether it holds .5 or not:
            turned round it may tell members as well as the strongest. No attack where none has an AUROC below .5, and
            in results of versions that did not record it.
        low_end: key of the TPR that speaks for the most exposed few: as low an FPR as the non-members bear, or the
            one that rules a guess out where only one of the two does.
        critical: standard errors the intervals reach to either side; about 1.96 for one attack and metric.
        n_attacks: attacks compared.
        confidence: that all the intervals hold.
    """

    auroc: Leader
    tpr_at_5pct_fpr: Leader = NOBODY
    tpr_at_1pct_fpr: Leader = NOBODY
    tpr_at_0_1pct_fpr: Leader = field(default=NOBODY, metadata={"key": TPR_01PCT.key})
    turned_round: Leader = field(default=NOBODY, metadata=LEFT_OUT)
    lowest: Leader = field(default=NOBODY, metadata=LEFT_OUT)
    low_end: str = TPR_5PCT.key
    critical: MaybeNumber = math.nan
    n_attacks: int
    confidence: float

    @property
    def by_metric(self) -> dict[str, Leader]:
        """The leaders by key of their metric."""
        tprs = (self.tpr_at_5pct_fpr, self.tpr_at_1pct_fpr, self.tpr_at_0_1pct_fpr)
        return {AUROC.key: self.auroc, **{metric.key: tpr for metric, tpr in zip(TPRS, tprs, strict=True)}}

    @property
    def every_leader(self) -> dict[str, Leader]:
        """All of them by their keys in `mia_audit.strongest`, TURNED_ROUND and LOWEST too, which are no metrics."""
        return {**self.by_metric, TURNED_ROUND: self.turned_round, LOWEST: self.lowest}

    @property
    def furthest(self) -> tuple[str, Leader]:
        """Key and leader of the AUROC whose interval reaches furthest from .5: the strongest's, or the lowest.

        An attack below a guess tells members as well as one above it, to whoever says the opposite of it. All intervals
        hold at once, so that either may be chosen.
        """
        key = TURNED_ROUND if self.lowest.attack is None else LOWEST  # not recorded by earlier versions
        below = self.every_leader[key]
        is_further = math.isnan(self.auroc.low) or below.reach > self.auroc.reach
        return (key, below) if below.attack is not None and is_further else (AUROC.key, self.auroc)

    @property
    def tells_members(self) -> bool:
        """Whether a guess is ruled out, for the records as a whole or for the most exposed few."""
        return self.auroc.excludes(AUROC.guess) or self.most_exposed.excludes(self.low_end_metric.guess)

    @property
    def low_end_metric(self) -> Metric:
        """The TPR that `low_end` names."""
        return METRICS_WITH_INTERVAL[self.low_end]

    @property
    def most_exposed(self) -> Leader:
        """The leader at the low end."""
        return self.by_metric[self.low_end]


@dataclass(frozen=True, slots=True)
class Extremes:
    """How far all attacks reach in one metric: what a limit on it is held against.

    Attributes:
        metric: its key.
        attack: the one with the largest estimate; None if no attack has scores of both classes.
        value: that estimate.
        low: the largest lower end among all attacks.
        high: the largest upper end among all attacks that have one.
        lowest: the smallest lower end: an AUROC far below .5 tells the classes apart, too, the other way round.
        least: the smallest estimate.
        reason: why some attack has no upper end, or no attack a number; None otherwise.
    """

    metric: str
    attack: str | None = None
    value: MaybeNumber = math.nan
    low: MaybeNumber = math.nan
    high: MaybeNumber = math.nan
    lowest: MaybeNumber = math.nan
    least: MaybeNumber = math.nan
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Several attacks on the same records: an interval for each attack and metric, all of which hold at once.

    Attributes:
        leaders: by key of the metric, by name of the attack; what has no number has a reason.
        low_end: as in `Strongest`.
        critical: as in `Strongest`.
        n_attacks: attacks with scores of both classes.
        confidence: that all the intervals hold.
    """

    leaders: Mapping[str, Mapping[str, Leader]]
    low_end: str
    critical: float
    n_attacks: int
    confidence: float

    def extremes(self, metric: str) -> Extremes:
        """How far all attacks reach in a metric, by its key."""
        leaders = list(self.leaders[metric].values())
        first = max(leaders, key=lambda each: -math.inf if math.isnan(each.value) else each.value, default=Leader())
        values, lows, highs = (
            [number for each in leaders if not math.isnan(number := getattr(each, part))]
            for part in ("value", "low", "high")
        )
        low, high, lowest = max(lows, default=math.nan), max(highs, default=math.nan), min(lows, default=math.nan)
        least = min(values, default=math.nan)
        without = (each.reason or "no interval" for each in leaders if math.isnan(each.high))
        reason = next(without, None) if leaders else NO_SCORES
        return Extremes(metric, first.attack, first.value, low, high, lowest, least, reason)

    @property
    def turned_round(self) -> Leader:
        """The attack with the smallest AUROC whose whole interval lies below guessing; `NOBODY` where there is none."""
        found = (leader for leader in self.leaders[AUROC.key].values() if leader.is_turned_round())
        return min(found, key=lambda leader: leader.value, default=NOBODY)

    @property
    def lowest(self) -> Leader:
        """The attack with an AUROC below .5 whose interval reaches furthest below it; `NOBODY` where there is none."""
        found = (leader for leader in self.leaders[AUROC.key].values() if leader.value < AUROC.guess)
        return min((each for each in found if not math.isnan(each.low)), key=lambda each: each.low, default=NOBODY)

    def strongest(self) -> Strongest:
        """The attack with most of each metric."""
        found = {key: best(key, of_attacks.values()) for key, of_attacks in self.leaders.items()}
        return Strongest(
            turned_round=self.turned_round,
            lowest=self.lowest,
            auroc=found[AUROC.key],
            tpr_at_5pct_fpr=found[TPR_5PCT.key],
            tpr_at_1pct_fpr=found[TPR_1PCT.key],
            tpr_at_0_1pct_fpr=found[TPR_01PCT.key],
            low_end=self.low_end,
            critical=self.critical,
            n_attacks=self.n_attacks,
            confidence=self.confidence,
        )


def best(metric: str, leaders: Iterable[Leader]) -> Leader:
    """The one with the largest value; else why there is none.

    Of those told apart from guessing if there are any, else of those that have an interval, if there are any.
    """
    every = list(leaders)
    known = [leader for leader in every if not math.isnan(leader.value)]
    apart = [leader for leader in known if leader.excludes(METRICS_WITH_INTERVAL[metric].guess)]
    bounded = [leader for leader in known if not math.isnan(leader.low + leader.high)]
    reason = every[0].reason if every else NO_SCORES
    return max(apart or bounded or known, key=lambda leader: leader.value, default=Leader(reason=reason))


def in_one_line(found: Strongest) -> str:
    """What the strongest attacks show, for people who read no more than that."""
    parts = []
    for metric in (AUROC, found.low_end_metric):
        leader = found.by_metric[metric.key]
        if math.isnan(leader.value):
            parts.append(f"{metric.label} has no number: {leader.reason}")
            continue
        ruled_out = leader.excludes(metric.guess)
        told = "a guess is ruled out" if ruled_out else f"no evidence against a guess, {metric.guess:g}"
        parts.append(f"{metric.label} {leader.in_words(metric.guess)} by {leader.attack}, {told}")
    if (turned := found.turned_round).attack is not None:
        told = "members score lower, as with swapped labels, and turned round it may pick out more"
        parts.append(f"{AUROC.label} {turned.in_words(AUROC.guess)} by {turned.attack}: {told}")
    which = f"the strongest of {found.n_attacks} attacks" if found.n_attacks > 1 else "the attack"
    return f"{which}: {'; '.join(parts)}"
