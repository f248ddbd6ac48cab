"""A number with its uncertainty, the same for report, leaderboard and exports, straight from the results file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spvmia_plugin.metrics.names import ASR, AUROC, BLIND, EPSILON, METRICS
from spvmia_plugin.metrics.several import Strongest
from spvmia_plugin.results.model import BLIND_ATTACK, Audit, TaskResult

STRONGEST = "strongest"
"""In place of an attack's name: the one with the largest AUROC, whichever it is."""

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
    if metric == AUROC.key:
        interval = metrics.auroc_interval
    elif metric == ASR.key:
        interval = metrics.asr_interval
    elif (tpr := metrics.tprs.get(METRICS[metric])) is not None:
        interval, realised_fpr, reason = tpr.interval, tpr.realised_fpr, tpr.reason
    elif metric == BLIND.key:
        if not math.isnan(audit.blind.auroc):
            interval, confidence = (audit.blind.low, audit.blind.high), audit.blind.confidence
        reason = audit.blind.reason
    elif metric == EPSILON.key:
        reason = audit.epsilon_lb.get("reason")
    value = task.metrics.get(metric, math.nan)
    return Estimate(
        value=value,
        low=interval[0],
        high=interval[1],
        confidence=confidence,
        stderr=task.metrics.get(METRICS[metric].stderr_key, math.nan),
        attack=task.attack,
        realised_fpr=realised_fpr,
        reason=str(reason or metrics.reason or "not resolved") if math.isnan(value) else None,
    )


def of_strongest(audit: Audit) -> Estimate:
    """The largest AUROC of the audit's attacks, with the interval that allows for the choice."""
    attacks = audit.model_attacks
    if len(attacks) == 1:
        return of_attack(attacks[0], AUROC.key)
    found = strongest_of(audit)
    if found is None:
        return Estimate(reason=NO_SAMPLES if attacks else "no attack on the model was run")
    return Estimate(
        value=found.auroc,
        low=found.interval[0],
        high=found.interval[1],
        confidence=found.confidence,
        attack=found.name,
        chosen_among=found.n_attacks,
        reason=found.reason if math.isnan(found.auroc) else None,
    )


def strongest_of(audit: Audit) -> Strongest | None:
    """The strongest attack as the run recorded it, or chosen anew where it was chosen among other attacks too.

    A run compares all attacks on its data; those that ran under other settings make another audit.
    """
    found, names = audit.strongest, {task.attack for task in audit.model_attacks}
    if found is None or (found.n_attacks <= len(names) and found.name in (None, *names)):
        return found
    return Audit(tuple(task.apart() for task in audit.tasks)).strongest


def of_blind(audit: Audit) -> Estimate:
    """The baseline that sees no model, as every attack of the audit recorded it."""
    blind = audit.mia_audit.blind
    if math.isnan(blind.auroc):
        return Estimate(reason=blind.reason)
    return Estimate(blind.auroc, blind.low, blind.high, blind.confidence, attack=BLIND_ATTACK)


def counted(audit: Audit, attack: str, metric: str) -> Estimate:
    """The number a row is ranked by: of the attack named, or of the strongest one."""
    if attack != STRONGEST:
        return of_attack(task_of(audit, attack), metric)
    strongest = of_strongest(audit)
    if metric == AUROC.key or strongest.attack is None:
        return strongest
    return of_attack(task_of(audit, strongest.attack), metric)


def task_of(audit: Audit, attack: str) -> TaskResult | None:
    """The audit's task of an attack, or None."""
    return next((task for task in audit.tasks if task.attack == attack), None)
