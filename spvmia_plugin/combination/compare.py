"""A combination on the records of a target, beside the attacks it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spvmia_plugin.combination.weights import Combination, Scored
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Floats
from spvmia_plugin.metrics.gain import Gain, gains
from spvmia_plugin.metrics.summary import Summary, summarise

AUROC, TPR = "auroc", "tpr_at_1pct_fpr"


@dataclass(frozen=True)
class Comparison:
    """What a combination found on a target.

    Attributes:
        combination: the weights.
        combined: its numbers.
        singles: those of each attack in it, on the same records: one without a score counts as the attack's median.
        unscored: records that an attack has no score for, by attack.
        best: by metric (`auroc`, `tpr_at_1pct_fpr`) the attack that has most of it on this target. It is chosen with
            the target's labels, which favours it over the combination.
        gain: by metric, the combination less `best`.
    """

    combination: Combination
    combined: Summary
    singles: Mapping[str, Summary]
    unscored: Mapping[str, int]
    best: Mapping[str, str]
    gain: Mapping[str, Gain]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, None for NaN."""
        fitted = self.combination
        return {
            "combination": {
                "metrics": self.combined.to_json(),
                "weights": dict(zip(fitted.attacks, fitted.weights, strict=True)),
                "normalisation": fitted.normalisation,
                "strength": fitted.strength,
            },
            "singles": {name: single.to_json() for name, single in self.singles.items()},
            "unscored": dict(self.unscored),
            "best_single": dict(self.best),
            "gain": {metric: gain.to_json() for metric, gain in self.gain.items()},
            "n": self.combined.n_members + self.combined.n_nonmembers,
        }


def compare(combination: Combination, target: Scored, *, seed: int = 0) -> Comparison:
    """Score a target's records with a combination and set it against the best single attack.

    Args:
        combination: fitted on shadows.
        target: scores of at least the combination's attacks, with the labels that the numbers are computed from.
        seed: of the bootstraps.

    Raises:
        SpvmiaError: an attack of the combination was not run on the target.
    """
    absent = [name for name in combination.attacks if name not in target.scores]
    if absent:
        raise SpvmiaError(f"RESULTS: expected scores of {', '.join(absent)}, got none; run these attacks on the target")
    combined = combination.score(target.scores)
    values = {name: _filled(target.scores[name]) for name in combination.attacks}
    singles = {name: summarise(scores, target.labels, target.clusters, seed=seed) for name, scores in values.items()}
    best = {
        AUROC: max(singles, key=lambda name: _or_least(singles[name].auroc)),
        TPR: max(singles, key=lambda name: _or_least(singles[name].tpr_at_1pct_fpr.value)),
    }
    over = {
        name: dict(zip(best, gains(combined, values[name], target.labels, target.clusters, seed=seed), strict=True))
        for name in set(best.values())
    }
    return Comparison(
        combination=combination,
        combined=summarise(combined, target.labels, target.clusters, seed=seed),
        singles=singles,
        unscored={name: target.unscored(name) for name in combination.attacks},
        best=best,
        gain={metric: over[name][metric] for metric, name in best.items()},
    )


def _filled(scores: Floats) -> Floats:
    """A record without a score gets the median: the rank of a coin toss."""
    known = np.isfinite(scores)
    return np.where(known, scores, np.median(scores[known]) if known.any() else 0.0)


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
