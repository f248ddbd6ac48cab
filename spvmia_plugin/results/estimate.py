"""A number with its uncertainty, the same for report, leaderboard and exports, straight from the results file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spvmia_plugin.metrics.leaders import Leader, Strongest
from spvmia_plugin.metrics.names import ASR, AUROC, BLIND, EPSILON, METRICS, METRICS_WITH_INTERVAL
from spvmia_plugin.results.model import BLIND_ATTACK, Audit, TaskResult

STRONGEST = "strongest"
"""In place of an attack's name: the one with most of the metric, whichever it is."""

NO_SAMPLES = (
    "the strongest of several attacks has no valid interval without the scores of the records: run lm_eval with "
    "--log_samples"
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty; NaN where there is none.

    Attributes:
        value: the number.
        low: lower end of its interval.
        high: upper end.
        confidence: of the interval.
        stderr: its standard error, NaN for the strongest of several attacks.
        attack: whose number it is.
        chosen_among: the interval allows for this attack having been the strongest of so many.
        realised_fpr: the FPR at the threshold, for a TPR.
        reason: why there is no number, or None.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    confidence: float = math.nan
    stderr: float = math.nan
    attack: str | None = None
    chosen_among: int = 1
    realised_fpr: float = math.nan
    reason: str | None = None


def of_attack(task: TaskResult | None, metric: str) -> Estimate:
    """One metric of one attack, as the harness printed it, with the pointwise interval of its `mia_audit`."""
    if task is None:
        return Estimate(reason="the attack was not run")
    audit, metrics = task.mia_audit, task.mia_audit.metrics
    interval, confidence = (math.nan, math.nan), metrics.confidence
    realised_fpr, reason = math.nan, None
    value = task.metrics.get(metric, math.nan)
    stderr = task.metrics.get(f"{metric}_stderr", math.nan)
    tprs = {each.key: tpr for each, tpr in metrics.tprs.items()}
    if metric == AUROC.key:
        interval = metrics.auroc_interval
    elif metric == ASR.key:
        interval = metrics.asr_interval
    elif metric in tprs:
        tpr = tprs[metric]
        interval, realised_fpr, reason = tpr.interval, tpr.realised_fpr, tpr.reason
        if metric not in METRICS:  # the harness does not print it
            value, stderr = tpr.value, tpr.stderr
    elif metric == BLIND.key:
        if not math.isnan(audit.blind.auroc):
            interval, confidence = (audit.blind.low, audit.blind.high), audit.blind.confidence
        reason = audit.blind.reason
    elif metric == EPSILON.key:
        reason = audit.epsilon_lb.get("reason")
    return Estimate(
        value=value,
        low=interval[0],
        high=interval[1],
        confidence=confidence,
        stderr=stderr,
        attack=task.attack,
        realised_fpr=realised_fpr,
        reason=str(reason or metrics.reason or "not resolved") if math.isnan(value) else None,
    )


def of_strongest(audit: Audit, metric: str = AUROC.key) -> Estimate:
    """The attack with most of a metric, with the interval that allows for the choice.

    Args:
        audit: the attacks.
        metric: key of the AUROC or of a TPR.
    """
    found = audit.strongest
    if found is None:
        return Estimate(reason=NO_SAMPLES if audit.model_attacks else "no attack on the model was run")
    return _of_leader(found, found.by_metric[metric])


def of_turned_round(audit: Audit) -> Estimate | None:
    """The AUROC furthest below guessing, with an interval that allows for the choice; None without such an attack."""
    found = audit.strongest
    if found is None or found.turned_round.attack is None:
        return None
    return _of_leader(found, found.turned_round)


def of_furthest(audit: Audit, metric: str = AUROC.key) -> Estimate:
    """The attack by which a model speaks: the strongest, or one with an AUROC below guessing that reaches further.

    Of an AUROC the one whose interval reaches furthest from guessing on either side (`Strongest.furthest`).
    """
    found = audit.strongest
    if found is None or metric != AUROC.key:
        return of_strongest(audit, metric)
    return _of_leader(found, found.furthest[1])


def from_guessing(found: Estimate) -> tuple[float, float]:
    """How far from guessing the two ends of an AUROC's interval lie, on whichever side."""
    return abs(found.low - AUROC.guess), abs(found.high - AUROC.guess)


def _of_leader(found: Strongest, leader: Leader) -> Estimate:
    return Estimate(
        value=leader.value,
        low=leader.low,
        high=leader.high,
        confidence=found.confidence,
        attack=leader.attack,
        chosen_among=found.n_attacks,
        reason=leader.reason if math.isnan(leader.value) else None,
    )


def of_blind(audit: Audit) -> Estimate:
    """The baseline that sees no model, as every attack of the audit recorded it."""
    blind = audit.mia_audit.blind
    if math.isnan(blind.auroc):
        return Estimate(reason=blind.reason)
    return Estimate(blind.auroc, blind.low, blind.high, blind.confidence, attack=BLIND_ATTACK)


def counted(audit: Audit, attack: str, metric: str) -> Estimate:
    """One number of the attack named, or of the one that tells most by that metric."""
    if attack == STRONGEST and metric in METRICS_WITH_INTERVAL:
        return of_furthest(audit, metric)
    return of_attack(task_of(audit, attack), metric)


def task_of(audit: Audit, attack: str) -> TaskResult | None:
    """The audit's task of an attack, or None."""
    return next((task for task in audit.tasks if task.attack == attack), None)
