"""A combination of attacks whose weights no label of the target has touched: fitted on a shadow, applied to the target.

NumPy, SciPy and scikit-learn; what runs models is in combine.py.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.roc import tpr_at_fpr
from spvmia_plugin.metrics.summary import summarise

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STRENGTHS = np.logspace(-3, 2, 11)
"""Inverse regularisation strengths that are tried, on the shadow."""
FOLDS = 5
RESAMPLES = 2000
NORMALISATIONS = ("z", "rank")


@dataclass(frozen=True)
class Scored:
    """Attack scores of the records of one audit.

    Attributes:
        scores: (n,) of each attack, NaN where a record has none.
        labels: (n,) whether a record is a member.
        clusters: (n,) its document.
    """

    scores: Mapping[str, Floats]
    labels: Bools
    clusters: Sequence[Hashable]


@dataclass(frozen=True)
class Fitted:
    """A combination.

    Attributes:
        attacks: in the order of the weights.
        weights: of the normalised scores.
        normalisation: `z` or `rank`.
        strength: the inverse regularisation strength that was chosen.
    """

    attacks: tuple[str, ...]
    weights: tuple[float, ...]
    normalisation: str
    strength: float

    def score(self, scores: Mapping[str, Floats]) -> Floats:
        """(n,) combined scores of an audit's records; their labels are not asked for."""
        return features(scores, self.attacks, self.normalisation) @ np.array(self.weights)


def features(scores: Mapping[str, Floats], attacks: Sequence[str], normalisation: str) -> Floats:
    """(n, k) scores of one audit, each attack on a scale of its own audit.

    Scores of two models are not on one scale. Each attack's are normalised over all records of its audit, members
    and not, which takes no label but assumes that the share of members is about the same in both audits. A record
    without a score gets the middle.
    """
    return np.column_stack([_normalised(np.asarray(scores[name], dtype=float), normalisation) for name in attacks])


def _normalised(values: Floats, normalisation: str) -> Floats:
    known = np.isfinite(values)
    result = np.zeros(len(values))
    if known.sum() < 2:
        return result
    if normalisation == "rank":
        result[known] = (rankdata(values[known]) - 0.5) / known.sum() - 0.5
        return result
    # Median and quartiles: a handful of huge ratios would squeeze all other records together.
    low, middle, high = np.quantile(values[known], (0.25, 0.5, 0.75))
    scale = (high - low) / 1.349 or float(np.std(values[known])) or 1.0
    result[known] = np.clip((values[known] - middle) / scale, -5, 5)
    return result


def fit(shadow: Scored, attacks: Sequence[str], normalisation: str = "z") -> Fitted:
    """Fit a logistic regression on the shadow, its strength chosen by folds over the shadow's documents.

    Raises:
        SpvmiaError: an attack was not run on the shadow, or the normalisation is unknown.
    """
    if normalisation not in NORMALISATIONS:
        raise SpvmiaError(
            f"--normalise: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}; correct it"
        )
    absent = sorted(set(attacks) - set(shadow.scores))
    if absent:
        raise SpvmiaError(f"shadow: expected scores of {', '.join(absent)}, got none; run these attacks on it")
    codes = cluster_codes(shadow.clusters, len(shadow.labels))
    folds = StratifiedGroupKFold(FOLDS).split(codes, shadow.labels, codes)
    inputs = features(shadow.scores, attacks, normalisation)
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=list(folds), scoring="roc_auc", error_score="raise"
    )
    search.fit(inputs, shadow.labels)
    weights = tuple(map(float, search.best_estimator_.coef_[0]))
    return Fitted(tuple(attacks), weights, normalisation, float(search.best_params_["C"]))


def compare(fitted: Fitted, target: Scored, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The combination on a target against the best single attack, which is chosen with the target's labels.

    Returns:
        JSON-ready: `combination` and `best_single` with the metrics of an audit, and `gain` in AUROC and TPR at 1 %
        FPR with paired intervals over documents.
    """
    combined = fitted.score(target.scores)
    single = {name: np.nan_to_num(_filled(target.scores[name])) for name in fitted.attacks}
    best = max(single, key=lambda name: auroc(single[name], target.labels))
    metrics = {
        name: summarise(values, target.labels, target.clusters, seed=seed).to_json()
        for name, values in (("combination", combined), ("best", single[best]))
    }
    return {
        "combination": {"metrics": metrics["combination"], **_weights(fitted)},
        "best_single": {"attack": best, "metrics": metrics["best"]},
        "gain": gains(combined, single[best], target, seed, resamples),
        "n": len(target.labels),
    }


def _filled(values: Floats) -> Floats:
    """A record without a score gets the median: the rank of a coin toss."""
    known = np.isfinite(values)
    return np.where(known, values, np.median(values[known]) if known.any() else 0.0)


def _weights(fitted: Fitted) -> dict[str, Any]:
    weights = dict(zip(fitted.attacks, fitted.weights, strict=True))
    return {"weights": weights, "normalisation": fitted.normalisation, "strength": fitted.strength}


def gains(ours: Floats, theirs: Floats, target: Scored, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Differences of two scores on the same records, with percentile intervals of a bootstrap over documents."""
    measures = {"auroc": auroc, "tpr_at_1pct_fpr": _tpr}
    codes = cluster_codes(target.clusters, len(target.labels))
    members = np.flatnonzero(target.labels)
    by_document = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(resamples):
        picks = rng.integers(len(by_document), size=len(by_document))
        rows = np.concatenate([by_document[pick] for pick in picks])
        labels = target.labels[rows]
        if 0 < labels.sum() < len(rows):
            for name, measure in measures.items():
                drawn[name].append(measure(ours[rows], labels) - measure(theirs[rows], labels))
    result = {}
    for name, measure in measures.items():
        value = measure(ours, target.labels) - measure(theirs, target.labels)
        low, high = np.quantile(drawn[name], (0.025, 0.975))
        result[name] = {"value": value, "interval": [float(low), float(high)], "members": len(members)}
    return result


def auroc(scores: Floats, labels: Bools) -> float:
    """P(member's score > non-member's) + P(equal) / 2, by ranks."""
    members, others = int(labels.sum()), int((~labels).sum())
    return float((rankdata(scores)[labels].sum() - members * (members + 1) / 2) / (members * others))


def _tpr(scores: Floats, labels: Bools) -> float:
    """TPR at FPR <= 1 %; with fewer than 100 non-members, at none of them."""
    value = tpr_at_fpr(scores, labels, 0.01).tpr
    if math.isfinite(value):
        return value
    return float(np.mean(scores[labels] > scores[~labels].max()))
