"""A weighted sum of attacks. Its weights are fitted on shadow models; no label of the target touches them.

Shadow models as in Shokri et al. 2017 (arXiv 1610.05820), whose attack model sees confidences where this one sees the
scores of attacks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, check_labels, cluster_codes

NORMALISATIONS = ("z", "rank")
STRENGTHS: NDArray[np.float64] = np.logspace(-3, 2, 11)
"""Inverse regularisation strengths that are tried, on the shadows."""
FOLDS = 5
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
        clusters: (n,) its document.

    Raises:
        SpvmiaError: lengths differ.
    """

    scores: Mapping[str, Floats]
    labels: Bools
    clusters: Sequence[Hashable]

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
    from scipy.stats import rankdata

    known = np.isfinite(values)
    result = np.zeros(len(values))
    if known.sum() < 2:
        return result
    if normalisation == "rank":
        result[known] = (rankdata(values[known]) - 0.5) / known.sum() - 0.5
        return result
    # Median and quartiles: a handful of huge ratios would squeeze all other records together.
    low, middle, high = np.quantile(values[known], (0.25, 0.5, 0.75))
    scale = (high - low) / _QUARTILES or float(np.std(values[known])) or 1.0
    result[known] = np.clip((values[known] - middle) / scale, -_CLIP, _CLIP)
    return result


def fit(shadows: Sequence[Scored], attacks: Sequence[str], normalisation: str = "z") -> Combination:
    """Fit a logistic regression on the records of all shadows, its strength chosen by folds over their documents.

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
    for shadow in shadows:
        _check_documents(shadow)
    labels = np.concatenate([shadow.labels for shadow in shadows])
    inputs = np.concatenate([features(shadow.scores, attacks, normalisation) for shadow in shadows])
    return _fitted(inputs, labels, _documents(shadows), attacks, normalisation)


def _documents(shadows: Sequence[Scored]) -> Codes:
    """The document of each record; those of different shadows may share an id and are told apart."""
    return cluster_codes(
        [(number, cluster) for number, shadow in enumerate(shadows) for cluster in shadow.clusters],
        sum(len(shadow.labels) for shadow in shadows),
    )


def _check_documents(shadow: Scored) -> None:
    """Each shadow is normalised by itself, so each needs both classes."""
    codes = cluster_codes(shadow.clusters, len(shadow.labels))
    for name, chosen in (("members", shadow.labels), ("non-members", ~shadow.labels)):
        found = len(np.unique(codes[chosen]))
        if found < FOLDS:
            raise SpvmiaError(
                f"--shadow: expected {name} of at least {FOLDS} documents, got {found}; audit a shadow of more"
            )


def _fitted(inputs: Floats, labels: Bools, codes: Codes, attacks: Sequence[str], normalisation: str) -> Combination:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    folds = list(StratifiedGroupKFold(FOLDS).split(inputs, labels, codes))
    if any(len(np.unique(labels[held_out])) < 2 for _, held_out in folds):
        raise SpvmiaError(
            f"--shadow: expected documents that {FOLDS} folds of both classes can be made of, got too few, or too many "
            "that hold both classes; audit a shadow of more documents"
        )
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=folds, scoring="roc_auc", error_score="raise"
    )
    search.fit(inputs, labels)
    weights = tuple(map(float, search.best_estimator_.coef_[0]))
    return Combination(tuple(attacks), weights, normalisation, float(search.best_params_["C"]))
