"""The blind baseline's AUROC with an interval that holds although out-of-fold scores depend on each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from spvmia_plugin.attacks.bag_of_words import BagOfWords, FoldedTexts
from spvmia_plugin.attacks.out_of_fold import MIN_DOCUMENTS_PER_FOLD, labelings_at_a_time
from spvmia_plugin.checks import Finding

FINDING_CONFIDENCE = 0.99
"""Of the two-sided permutation test that decides whether the baseline's AUROC is told as a finding."""


@dataclass(frozen=True, slots=True)
class BlindInterval:
    """How well words and looks alone tell members from non-members.

    Attributes:
        auroc: of the out-of-fold scores of `BagOfWords`.
        low: lower end of the interval. It lies above 0.5 exactly when the permutation test rejects.
        high: upper end.
        p_value: share of labelings, the true one included, that score at least as high.
        confidence: of the interval, two-sided.
        permutations: how many labelings were drawn.
    """

    auroc: float
    low: float
    high: float
    p_value: float
    confidence: float
    permutations: int

    def finding(self) -> Finding | None:
        """The warning that the data give membership away by themselves, or turn it round, if they do so at 99 %."""
        # The p-value counts the true labeling among those that score as high; of the rest all score lower, or tie.
        one_in = (self.permutations + 1) * (1 - FINDING_CONFIDENCE) / 2 + 1e-9
        as_high = self.p_value * (self.permutations + 1)
        told = f"AUROC {self.auroc:.3f} ({self.confidence:.0%} interval {self.low:.3f} to {self.high:.3f})"
        if self.low > 0.5 and as_high <= one_in:
            message = (
                "members and non-members differ by themselves: a classifier that sees words, the way a text is written "
                f"and length but no model tells them apart with {told}, so membership scores on these data mean "
                "little; draw both classes from the same source and time"
            )
            return Finding("blind_above_chance", "warning", message, asdict(self))
        if self.high < 0.5 and self.permutations + 2 - as_high <= one_in:
            message = (
                f"a classifier that sees no model tells members from non-members the wrong way round, with {told}: for "
                "texts of one class there are close relatives in the other (rewritten copies, versions, parts of one "
                "thread), so a non-member resembles what was trained on, and AUROC and every TPR come out too low; "
                "deal relatives to one class"
            )
            return Finding("blind_below_chance", "warning", message, asdict(self))
        return None


def not_computed(attack: BagOfWords, is_member: NDArray[np.bool_], clusters: Sequence[str]) -> Finding | None:
    """Why `blind_interval` gives None; None where a class is empty, which is told by itself."""
    pairs = list(zip(clusters, np.asarray(is_member, dtype=bool).tolist(), strict=True))
    documents = [len({cluster for cluster, member in pairs if member is side}) for side in (True, False)]
    if not all(documents):
        return None
    needed = attack.folds * MIN_DOCUMENTS_PER_FOLD
    message = (
        f"blind_auroc was not computed: it needs {needed} documents of each class, those with a common text counted as "
        f"one, got {documents[0]} of members and {documents[1]} of non-members; whether their words alone tell them "
        "apart is not known"
    )
    details: dict[str, object] = {"needed": needed, "members": documents[0], "nonmembers": documents[1]}
    return Finding("blind_not_computed", "note", message, details)


def blind_interval(
    attack: BagOfWords,
    texts: Sequence[str],
    is_member: NDArray[np.bool_],
    clusters: Sequence[str],
    seed: int,
    *,
    confidence: float = 0.95,
    permutations: int = 399,
) -> BlindInterval | None:
    """AUROC of the blind baseline and an interval around it.

    Every fold's classifier was fitted on the other folds' records, so the scores are not independent, and formulas
    that take them to be (DeLong, Hanley-McNeil, a bootstrap of scores) promise too much. Here the labels of whole
    documents are permuted within their folds and everything that follows is done anew. Where members and non-members
    are drawn alike these labelings are as likely as the true one, so that `low` lies above 0.5 with probability (1 -
    confidence) / 2, at any size. Away from 0.5 the null's spread is carried over: an approximation, on the safe side
    for large AUROCs.

    Args:
        attack: the baseline.
        texts: the records' texts.
        is_member: (n,) their labels.
        clusters: the document of each.
        seed: of the folds and the permutations; the folds are those of `attack.score_all`.
        confidence: of the interval, two-sided.
        permutations: number of labelings drawn.

    Returns:
        The interval, or None where the attack scores nothing (too few documents of a class).
    """
    folded = attack.fold(texts, is_member, clusters, seed)
    if folded is None:
        return None
    true_labels = np.asarray(is_member, dtype=bool)[folded.order]

    def labelings() -> Iterator[NDArray[np.bool_]]:
        return _labelings(folded, true_labels, permutations, np.random.default_rng([seed, 1]))

    ranks = folded.ranks(labelings)
    aurocs = np.concatenate([auroc_columns(*pair) for pair in zip(ranks, labelings(), strict=True)])
    observed, null = float(aurocs[0]), np.sort(aurocs[1:])
    beyond = int(np.floor((permutations + 1) * (1 - confidence) / 2 + 1e-9))  # labelings beyond either end
    low = _moved(observed, null[permutations - beyond])
    high = _moved(observed, null[beyond - 1])
    return BlindInterval(
        auroc=observed,
        low=low,
        high=high,
        p_value=float((1 + np.sum(null >= observed)) / (permutations + 1)),
        confidence=confidence,
        permutations=permutations,
    )


def _moved(auroc: float, null_quantile: float) -> float:
    """Shift an AUROC by as much as takes a quantile of the null to 0.5, on the scale arcsin(sqrt(.)).

    On that scale the spread of a share is the same everywhere, and an AUROC spreads like a share or less.
    """
    shift = np.arcsin(np.sqrt(null_quantile)) - np.pi / 4
    return float(np.sin(np.clip(np.arcsin(np.sqrt(auroc)) - shift, 0, np.pi / 2)) ** 2)


def auroc_columns(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """AUROC of each column of scores (n, B) against the same column of labels (n, B); ties count one half."""
    positives = labels.sum(axis=0)
    rank_sum = np.array([scipy.stats.rankdata(scores[:, k])[labels[:, k]].sum() for k in range(labels.shape[1])])
    aurocs: NDArray[np.float64] = (rank_sum - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
    return aurocs


def _labelings(
    folded: FoldedTexts, true_labels: NDArray[np.bool_], permutations: int, rng: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """The true labels (n,), then permuted ones, as (n, b) at a time; drawn as they are asked for."""
    columns = labelings_at_a_time(len(true_labels))
    folds = [np.flatnonzero(folded.fold == number) for number in np.unique(folded.fold)]
    for start in range(0, permutations + 1, columns):
        labels = np.empty((len(true_labels), min(columns, permutations + 1 - start)), dtype=bool)
        for k in range(labels.shape[1]):
            drawn = start + k > 0
            labels[:, k] = _permute_within(folds, folded.labels, rng)[folded.groups] if drawn else true_labels
        yield labels


def _permute_within(
    folds: Sequence[NDArray[np.intp]], labels: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Shuffle the labels (G,) of the groups within each fold, whose groups `folds` has."""
    shuffled: NDArray[np.bool_] = labels.copy()
    for inside in folds:
        shuffled[inside] = rng.permutation(labels[inside])
    return shuffled
