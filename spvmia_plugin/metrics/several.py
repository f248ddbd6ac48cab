"""Several attacks on the same records: the strongest, and the mean of them.

All know that the records are the same, and the errors of the attacks correlated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    check_labels,
    cluster_codes,
)
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc
from spvmia_plugin.metrics.names import (
    AUROC,
    METRICS_WITH_INTERVAL,
    TPR_01PCT,
    TPR_1PCT,
    TPR_5PCT,
    TPRS,
    Metric,
    low_end,
)
from spvmia_plugin.metrics.tpr import Bootstrap, tpr_at_fpr, tpr_interval
from spvmia_plugin.util.schema import LEFT_OUT, MaybeNumber

NO_SCORES = "no attack has scores of both classes"
_DRAWS = 20_000
"""Draws of the max statistic; its 95 % quantile is then good to about 1 %."""


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


TURNED_ROUND = "turned_round"
"""Key of the leader that tells members the wrong way round, by its AUROC."""
NOBODY = Leader()
"""In the place of an attack that there is none of."""


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
        """All of them by their keys in `mia_audit.strongest`, the one of TURNED_ROUND too, which is no metric."""
        return {**self.by_metric, TURNED_ROUND: self.turned_round}

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
        reason: why some attack has no upper end, or no attack a number; None otherwise.
    """

    metric: str
    attack: str | None = None
    value: MaybeNumber = math.nan
    low: MaybeNumber = math.nan
    high: MaybeNumber = math.nan
    lowest: MaybeNumber = math.nan
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
        lows, highs = ([end for each in leaders if not math.isnan(end := getattr(each, e))] for e in ("low", "high"))
        low, high, lowest = max(lows, default=math.nan), max(highs, default=math.nan), min(lows, default=math.nan)
        without = (each.reason or "no interval" for each in leaders if math.isnan(each.high))
        reason = next(without, None) if leaders else NO_SCORES
        return Extremes(metric, first.attack, first.value, low, high, lowest, reason)

    def strongest(self) -> Strongest:
        """The attack with most of each metric."""
        found = {key: best(key, of_attacks.values()) for key, of_attacks in self.leaders.items()}
        turned_round = [leader for leader in self.leaders[AUROC.key].values() if leader.is_turned_round()]
        return Strongest(
            turned_round=min(turned_round, key=lambda leader: leader.value, default=NOBODY),
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
    """The one with the largest value, of those told apart from guessing if there are any; else why there is none."""
    every = list(leaders)
    known = [leader for leader in every if not math.isnan(leader.value)]
    apart = [leader for leader in known if leader.excludes(METRICS_WITH_INTERVAL[metric].guess)]
    reason = every[0].reason if every else NO_SCORES
    return max(apart or known, key=lambda leader: leader.value, default=Leader(reason=reason))


def compare(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Compared:
    """Simultaneous intervals of the AUROC and the TPRs of several attacks on the same records.

    The largest of several numbers is too large on average, and an ordinary interval around it covers too rarely.
    Here the reach is the quantile of the largest absolute studentised deviation over all attacks and metrics (max
    statistic: Hothorn, Bretz and Westfall 2008), Student's t with the correlation of their errors over resampled
    documents: DeLong's structural components summed over the documents drawn, and TPRs whose threshold is estimated
    anew. The interval of an AUROC reaches so many standard errors, that of a TPR has the confidence that so many stand
    for. With probability `confidence` all of them cover, so whichever attack and metric is chosen for being large.
    Leave out what is no attack on the model (the blind baseline), and nothing else.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the resamples and the draws of the max statistic.
        confidence: that all the intervals hold.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    scores = {name: check_labels(scores_by_attack[name], labels)[0] for name in estimates}
    unresolved = next((estimate.reason for estimate in estimates.values() if estimate.reason), None)
    scored = {name: np.isfinite(values) for name, values in scores.items()}
    points = {
        metric: {name: tpr_at_fpr(scores[name][rows], labels[rows], metric.fpr) for name, rows in scored.items()}
        for metric in TPRS
    }
    resolved = [metric for metric, found in points.items() if any(not point.reason for point in found.values())]
    critical = math.nan
    if estimates and not unresolved:
        errors = joint_errors(list(scores.values()), influences, labels, codes, resolved, seed)
        critical = max_quantile(errors, min(estimate.df for estimate in estimates.values()), confidence, seed)
    pointwise = 2 * float(stdtr(min((e.df for e in estimates.values()), default=math.nan), critical)) - 1

    leaders: dict[str, dict[str, Leader]] = {metric.key: {} for metric in (AUROC, *TPRS)}
    for name, estimate in estimates.items():
        leaders[AUROC.key][name] = Leader(name, estimate.auroc, *estimate.interval_at(critical), unresolved)
        rows = scored[name]
        for metric in TPRS:
            point, ends = points[metric][name], NAN_INTERVAL
            if not (reason := point.reason or unresolved):
                ends = tpr_interval(scores[name][rows], labels[rows], codes[rows], metric.fpr, pointwise)
            leaders[metric.key][name] = Leader(name, point.tpr, *ends, reason)
    others = {name: int(np.sum(~labels & rows)) for name, rows in scored.items()}
    return Compared(leaders, _spoken_of(leaders, others).key, critical, len(estimates), confidence)


def _spoken_of(leaders: Mapping[str, Mapping[str, Leader]], others: Mapping[str, int]) -> Metric:
    """The TPR that speaks for the most exposed few.

    By the non-members that stand behind the attack which leads at 1 %. Where that TPR shows nothing and the other one
    does, the other: the intervals hold for both at once, so that the choice is free.

    Args:
        leaders: as in `Compared`, an attack's key being its name.
        others: non-members with a score, by attack.
    """
    first = {metric: best(metric.key, leaders[metric.key].values()) for metric in (TPR_1PCT, TPR_5PCT)}
    usual = low_end(others.get(str(first[TPR_1PCT].attack), 0))
    other = TPR_5PCT if usual is TPR_1PCT else TPR_1PCT
    shows = {metric: leader.excludes(metric.guess) for metric, leader in first.items()}
    return other if shows[other] and not shows[usual] else usual


def strongest(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Strongest:
    """The attack with most of each metric and its simultaneous interval: `compare`, which says what the arguments are.

    Raises:
        SpvmiaError: lengths differ.
    """
    return compare(scores_by_attack, is_member, clusters, seed=seed, confidence=confidence).strongest()


def joint_estimates(
    scores_by_attack: Mapping[str, ArrayLike], labels: Bools, codes: Codes
) -> tuple[dict[str, AurocEstimate], Floats]:
    """AUROC estimates of the attacks that have scores of both classes, and their influences (K, C) by document.

    Raises:
        SpvmiaError: lengths differ.
    """
    estimates: dict[str, AurocEstimate] = {}
    influences = np.zeros((len(scores_by_attack), int(codes.max(initial=0)) + 1))
    for name, scores in scores_by_attack.items():
        values, _ = check_labels(scores, labels)
        scored = np.isfinite(values)
        if 0 < labels[scored].sum() < scored.sum():
            estimate = estimate_auroc(values[scored], labels[scored], codes[scored])
            influences[len(estimates), : len(estimate.influence)] = estimate.influence
            estimates[name] = estimate
    return estimates, influences[: len(estimates)]


def joint_errors(
    scores: Sequence[Floats], influences: Floats, labels: Bools, codes: Codes, tprs: Sequence[Metric], seed: int
) -> Floats:
    """(K * (1 + len(tprs)), B) errors of the AUROC and the TPRs of K attacks, each in the same B resamples."""
    bootstrap = Bootstrap(labels, codes, seed)
    drawn = [bootstrap.sums(influences)]
    if tprs:
        drawn += list(np.moveaxis(bootstrap.tprs(scores, [metric.fpr for metric in tprs]), 1, 0))
    errors = np.concatenate(drawn)
    centred: Floats = errors - errors.mean(axis=1, keepdims=True)
    return centred


def max_quantile(errors: Floats, df: float, confidence: float, seed: int) -> float:
    """Quantile of max_k |T_k|, T multivariate t with the correlation of the rows of `errors` (K, B)."""
    return max_quantile_over([errors], df, confidence, seed)


def max_quantile_over(parts: Sequence[Floats], df: float, confidence: float, seed: int) -> float:
    """The same over several parts of errors (K, B), those of one independent of those of the others."""
    single = float(stdtrit(df, 0.5 + confidence / 2))
    rng = np.random.default_rng(seed)
    largest = np.zeros(_DRAWS)
    for errors in parts:
        norms = np.linalg.norm(errors, axis=1)
        unit = errors / np.where(norms > 0, norms, 1.0)[:, None]
        correlation = unit @ unit.T
        np.fill_diagonal(correlation, 1.0)  # what does not vary has no correlation: treated as independent
        eigenvalues, vectors = np.linalg.eigh(correlation)
        root = vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))
        normal = rng.standard_normal((_DRAWS, len(errors))) @ root.T
        largest = np.maximum(largest, np.abs(normal).max(axis=1))
    scale = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    return max(single, float(np.quantile(largest / scale, confidence)))


def in_one_line(found: Strongest) -> str:
    """What the strongest attacks show, for people who read no more than that."""
    parts = []
    for metric in (AUROC, found.low_end_metric):
        leader = found.by_metric[metric.key]
        if math.isnan(leader.value):
            parts.append(f"{metric.label} has no number: {leader.reason}")
            continue
        interval = "" if math.isnan(leader.low) else f" ({leader.low:.3f} to {leader.high:.3f})"
        ruled_out = leader.excludes(metric.guess)
        told = "a guess is ruled out" if ruled_out else f"no evidence against a guess, {metric.guess:g}"
        parts.append(f"{metric.label} {leader.value:.3f}{interval} by {leader.attack}, {told}")
    if (turned := found.turned_round).attack is not None:
        reach = f"{turned.value:.3f} ({turned.low:.3f} to {turned.high:.3f})"
        parts.append(f"{AUROC.label} {reach} by {turned.attack}: members score lower, as with swapped labels")
    which = f"the strongest of {found.n_attacks} attacks" if found.n_attacks > 1 else "the attack"
    return f"{which}: {'; '.join(parts)}"


def error_correlations(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[tuple[str, str], float]]:
    """How the errors of attacks on the same records go together.

    Of AUROCs: the correlation of DeLong's structural components by document (DeLong, DeLong and Clarke-Pearson
    1988). Of TPRs: that of bootstrap replicates in which all attacks see the same documents drawn. Errors that do not
    vary in the sample (perfect separation) count as fully correlated: a mean's error is then too large rather than too
    small.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the bootstrap.

    Returns:
        By metric (auroc and the TPRs), by pair of attacks that have scores of both classes.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    names = list(estimates)
    found = {AUROC.key: _pairs(names, influences)}
    scores = [check_labels(scores_by_attack[name], labels)[0] for name in names]
    drawn = Bootstrap(labels, codes, seed).tprs(scores, [metric.fpr for metric in TPRS])
    for row, metric in enumerate(TPRS):
        draws: Floats = drawn[:, row]
        centres: Floats = np.mean(draws, axis=1, keepdims=True)
        found[metric.key] = _pairs(names, draws - centres)
    return found


def _pairs(names: Sequence[str], errors: Floats) -> dict[tuple[str, str], float]:
    """Cosines between the rows of `errors` (K, anything); 1 where a row is 0 or NaN."""
    norms = np.linalg.norm(errors, axis=1)
    varies = norms > 0
    unit = np.where(varies[:, None], errors, 0.0) / np.where(varies, norms, 1.0)[:, None]
    cosines: Floats = unit @ unit.T
    cosines[~varies], cosines[:, ~varies] = 1.0, 1.0
    return {
        (one, other): float(cosines[i, j]) if i != j else 1.0
        for i, one in enumerate(names)
        for j, other in enumerate(names)
    }


def mean_stderr(stderrs: ArrayLike, weights: ArrayLike, correlations: ArrayLike) -> float:
    """Standard error of a weighted mean of estimates whose errors are correlated.

    Args:
        stderrs: (K,) of the estimates.
        weights: (K,) summing to 1.
        correlations: (K, K) of their errors; 0 for estimates from independent data.
    """
    parts: Floats = np.asarray(stderrs, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    variance = float(parts @ np.asarray(correlations, dtype=np.float64) @ parts)
    return math.sqrt(max(variance, 0.0))
