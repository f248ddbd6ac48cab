"""A weighted sum of attacks, and what it has over each of them.

Its weights are fitted on shadow models, whose members are known; no label of the target touches them. Shadow models as
in Shokri et al. 2017 (arXiv 1610.05820), whose attack model sees confidences where this one sees the scores of attacks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, check_labels, cluster_codes
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.metrics.paired import Gain, gains
from spvmia_plugin.metrics.summary import Summary, summarise
from spvmia_plugin.util.schema import as_json

NORMALISATIONS = ("z", "rank")
STRENGTHS: NDArray[np.float64] = np.logspace(-3, 2, 11)
"""Inverse regularisation strengths that are tried, on the shadows."""
FOLDS = 5
DEALS = 5
"""How often the documents are dealt out to folds for the choice of the strength."""
_CLIP = 5.0
"""Standard deviations from the median at which a normalised score is cut off."""
_QUARTILES = 1.349
"""The distance between the quartiles of a normal distribution, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Attack scores of the records of one audit.

    Attributes:
        scores: (n,) of each attack, NaN where a record has none; higher = member.
        labels: (n,) bool, whether a record is a member.
        clusters: (n,) its document, or whom it belongs to.
        called: what the clusters are, see `records.clusters_called`.

    Raises:
        SpvmiaError: lengths differ.
    """

    scores: Mapping[str, Floats]
    labels: Bools
    clusters: Sequence[Hashable]
    called: str = "documents"

    def __post_init__(self) -> None:
        arrays = {name: check_labels(scores, self.labels) for name, scores in self.scores.items()}
        object.__setattr__(self, "scores", {name: values for name, (values, _) in arrays.items()})
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.bool_))
        cluster_codes(self.clusters, len(self.labels))

    def unscored(self, attack: str) -> int:
        """How many records an attack has no score for."""
        return int(np.sum(~np.isfinite(self.scores[attack])))


@dataclass(frozen=True)
class Combination:
    """A fitted combination.

    Attributes:
        attacks: in the order of the weights.
        weights: of the normalised scores.
        normalisation: `z` or `rank`.
        strength: the inverse regularisation strength that was chosen, larger = less regularised.
    """

    attacks: tuple[str, ...]
    weights: tuple[float, ...]
    normalisation: str
    strength: float

    def score(self, scores: Mapping[str, Floats]) -> Floats:
        """(n,) combined scores of an audit's records, higher = member; their labels are not asked for."""
        combined: Floats = features(scores, self.attacks, self.normalisation) @ np.array(self.weights)
        return combined


def features(scores: Mapping[str, Floats], attacks: Sequence[str], normalisation: str) -> Floats:
    """(n, k) scores of one audit, each attack on a scale of its own audit.

    Scores of two models are not on one scale. Each attack's are normalised over all records of its audit, members
    and not, which takes no label but assumes that the share of members is about the same in both audits. A record
    without a score gets the middle, 0.
    """
    return np.column_stack([_normalised(scores[name], normalisation) for name in attacks])


def _normalised(values: Floats, normalisation: str) -> Floats:
    known = np.isfinite(values)
    result = np.zeros(len(values))
    if known.sum() < 2:
        return result
    if normalisation == "rank":
        result[known] = (scipy.stats.rankdata(values[known]) - 0.5) / known.sum() - 0.5
        return result
    # Median and quartiles: a handful of huge ratios would squeeze all other records together.
    low, middle, high = np.quantile(values[known], (0.25, 0.5, 0.75))
    scale = (high - low) / _QUARTILES or float(np.std(values[known])) or 1.0
    result[known] = np.clip((values[known] - middle) / scale, -_CLIP, _CLIP)
    return result


def fit(shadows: Sequence[Scored], attacks: Sequence[str], normalisation: str = "z") -> Combination:
    """Fit a logistic regression on the records of all shadows, its strength chosen by folds over their documents.

    The order of the records changes nothing.

    Args:
        shadows: audits of shadow models; each is normalised by itself.
        attacks: what to combine.
        normalisation: `z`, by median and quartiles, or `rank`.

    Raises:
        SpvmiaError: the normalisation is unknown, there is no shadow or nothing to combine, an attack was not run on a
            shadow, or a shadow has too few documents of a class.
    """
    if normalisation not in NORMALISATIONS:
        raise SpvmiaError(
            f"--normalise: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}; correct it"
        )
    if not shadows or not attacks:
        raise SpvmiaError(
            f"--shadow: expected at least one shadow and one attack, got {len(shadows)} and {len(attacks)}; name them"
        )
    absent = sorted({name for name in attacks for shadow in shadows if name not in shadow.scores})
    if absent:
        raise SpvmiaError(f"--shadow: expected scores of {', '.join(absent)}, got none; run these attacks on it")
    for shadow in shadows:  # each is normalised by itself, so each needs both classes
        codes = cluster_codes(shadow.clusters, len(shadow.labels))
        for name, chosen in (("members", shadow.labels), ("non-members", ~shadow.labels)):
            if (found := len(np.unique(codes[chosen]))) < FOLDS:
                raise SpvmiaError(
                    f"--shadow: expected {name} of at least {FOLDS} {shadow.called}, got {found}; audit a shadow of "
                    "more"
                )
    labels = np.concatenate([shadow.labels for shadow in shadows])
    inputs = np.concatenate([features(shadow.scores, attacks, normalisation) for shadow in shadows])
    # Documents of different shadows may share an id, and are told apart.
    documents = [(number, cluster) for number, shadow in enumerate(shadows) for cluster in shadow.clusters]
    # By what they are, not in the order in which they came: no weight depends on how a file is sorted.
    names = [repr(document) for document in documents]
    order = sorted(range(len(labels)), key=lambda row: (inputs[row].tolist(), bool(labels[row]), names[row]))
    codes = cluster_codes([documents[row] for row in order], len(order))
    called = " or ".join(dict.fromkeys(shadow.called for shadow in shadows))
    return _fitted(inputs[order], labels[order], codes, called, attacks, normalisation)


def _fitted(
    inputs: Floats, labels: Bools, codes: Codes, called: str, attacks: Sequence[str], normalisation: str
) -> Combination:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    # By one deal the choice is nearly one of chance where several strengths do about as well, and the weights with it.
    deals = [folds for deal in range(DEALS) if (folds := _folds(inputs, labels, codes, deal))]
    if not deals:
        raise SpvmiaError(
            f"--shadow: expected {called} that {FOLDS} folds of both classes can be made of, got too few, or too many "
            f"that hold both classes; audit a shadow of more {called}"
        )
    search = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": STRENGTHS},
        cv=[fold for folds in deals for fold in folds],
        scoring="roc_auc",
        error_score="raise",
    )
    search.fit(inputs, labels)
    weights = tuple(map(float, search.best_estimator_.coef_[0]))
    return Combination(tuple(attacks), weights, normalisation, float(search.best_params_["C"]))


def _folds(inputs: Floats, labels: Bools, codes: Codes, deal: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """One deal of the documents to folds; empty where one holds a single class."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=deal).split(inputs, labels, codes))
    return folds if all(len(np.unique(labels[held_out])) == 2 for _, held_out in folds) else []


@dataclass(frozen=True)
class OnTarget:
    """What a combination found on a target.

    Attributes:
        combination: the weights.
        combined: its numbers.
        singles: those of each attack in it, on the same records: one without a score counts as the attack's median.
        unscored: records that an attack has no score for, by attack.
        best: by metric (`auroc`, `tpr_at_1pct_fpr`) the attack that has most of it on this target. It is chosen with
            the target's labels, which favours it over the combination.
        gain: by metric, the combination less `best`.
        called: what the clusters of the target are, see `records.clusters_called`.
    """

    combination: Combination
    combined: Summary
    singles: Mapping[str, Summary]
    unscored: Mapping[str, int]
    best: Mapping[str, str]
    gain: Mapping[str, Gain]
    called: str = "documents"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, None for NaN."""
        fitted = self.combination
        return {
            "combination": {
                "metrics": as_json(self.combined),
                "weights": dict(zip(fitted.attacks, fitted.weights, strict=True)),
                "normalisation": fitted.normalisation,
                "strength": fitted.strength,
            },
            "singles": {name: as_json(single) for name, single in self.singles.items()},
            "unscored": dict(self.unscored),
            "best_single": dict(self.best),
            "gain": {metric: as_json(gain) for metric, gain in self.gain.items()},
            "n": self.combined.n_members + self.combined.n_nonmembers,
        }


def compare(combination: Combination, target: Scored, *, seed: int = 0) -> OnTarget:
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
    how: dict[str, Any] = {"seed": seed, "called": target.called}
    singles = {name: summarise(scores, target.labels, target.clusters, **how) for name, scores in values.items()}
    numbers = {name: single.values() for name, single in singles.items()}
    best = {  # NaN is not the best of anything
        metric.key: max(singles, key=lambda name: np.nan_to_num(numbers[name][metric.key], nan=-math.inf))
        for metric in (AUROC, TPR_1PCT)
    }
    over = {
        name: dict(zip(best, gains(combined, values[name], target.labels, target.clusters, seed=seed), strict=True))
        for name in set(best.values())
    }
    return OnTarget(
        combination=combination,
        combined=summarise(combined, target.labels, target.clusters, **how),
        singles=singles,
        unscored={name: target.unscored(name) for name in combination.attacks},
        best=best,
        gain={metric: over[name][metric] for metric, name in best.items()},
        called=target.called,
    )


def _filled(scores: Floats) -> Floats:
    """A record without a score gets the median: the rank of a coin toss."""
    known = np.isfinite(scores)
    return np.where(known, scores, np.median(scores[known]) if known.any() else 0.0)
