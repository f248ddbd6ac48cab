"""The numbers of one row, each with its interval, straight from the results file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spvmia_plugin.metrics.strongest import Strongest
from spvmia_plugin.results.model import Audit, TaskResult
from spvmia_plugin.util.strict_json import is_number

STRONGEST = "strongest"
"""In place of an attack's name: the one with the largest AUROC, whichever it is."""

METRICS = {"auroc": "AUROC", "tpr_at_1pct_fpr": "TPR at 1 % FPR", "tpr_at_0.1pct_fpr": "TPR at 0.1 % FPR"}
"""What models can be ranked by -> its heading. Lower is better of each."""

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
    """One metric of one attack, as the harness printed it, with the pointwise interval of its record."""
    if task is None:
        return Estimate(reason="the attack was not run")
    metrics = task.record["metrics"]
    details: Mapping[str, Any] = metrics.get(metric) if isinstance(metrics.get(metric), Mapping) else {}
    low, high = _interval(details.get("interval") or metrics.get(f"{metric}_interval"))
    value = task.metrics.get(metric, math.nan)
    reason = details.get("reason") or metrics.get("reason")
    return Estimate(
        value=value,
        low=low,
        high=high,
        confidence=_number(metrics.get("confidence")),
        stderr=task.metrics.get(f"{metric}_stderr", math.nan),
        attack=task.attack,
        realised_fpr=_number(details.get("realised_fpr")),
        reason=str(reason or "not resolved") if math.isnan(value) else None,
    )


def of_strongest(audit: Audit) -> Estimate:
    """The largest AUROC of the audit's attacks, with the interval that allows for the choice."""
    attacks = audit.model_attacks
    if len(attacks) == 1:
        return of_attack(attacks[0], "auroc")
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
    alone = [replace(task, record={**task.record, "strongest": {}}) for task in audit.tasks]
    return Audit(tuple(alone)).strongest


def counted(audit: Audit, attack: str, metric: str) -> Estimate:
    """The number a row is ranked by: of the attack named, or of the strongest one."""
    if attack != STRONGEST:
        return of_attack(task_of(audit, attack), metric)
    strongest = of_strongest(audit)
    if metric == "auroc" or strongest.attack is None:
        return strongest
    return of_attack(task_of(audit, strongest.attack), metric)


def task_of(audit: Audit, attack: str) -> TaskResult | None:
    """The audit's task of an attack, or None."""
    return next((task for task in audit.tasks if task.attack == attack), None)


def _interval(pair: Sequence[Any] | None) -> tuple[float, float]:
    low, high = pair or (None, None)
    return _number(low), _number(high)


def _number(value: object) -> float:
    return float(value) if is_number(value) else math.nan
