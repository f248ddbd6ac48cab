"""The blind baseline: telling members by their words and looks alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import BlindAttack, is_count
from spvmia_plugin.attacks.out_of_fold import (
    Design,
    Labelings,
    assign_folds,
    design_of,
    group_labels,
    join_same_texts,
    out_of_fold_ranks,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Unscored

NOT_FOLDABLE = "too few documents of a class for out-of-fold scores"


@dataclass(frozen=True)
class FoldedTexts:
    """Records ready for out-of-fold scoring, in an order that does not depend on the order they came in.

    Attributes:
        order: (n,) position of each of these records in the input.
        design: their features.
        groups: (n,) document, or joined documents, of each record.
        labels: (G,) class of each group.
        fold: (G,) fold of each group.
    """

    order: NDArray[np.intp]
    design: Design
    groups: NDArray[np.intp]
    labels: NDArray[np.bool_]
    fold: NDArray[np.intp]

    def ranks(self, labelings: Labelings) -> Iterator[NDArray[np.float64]]:
        """Out-of-fold ranks of these records under labelings of theirs, (n, b) for each (n, b) of `labelings`."""
        return out_of_fold_ranks(self.design, labelings)


@dataclass(frozen=True)
class BagOfWords(BlindAttack):
    """score = rank, within its fold, of a ridge regression on words, looks and length that never saw its document.

    Meeus et al. 2024, arXiv 2406.17975 (SoK: Membership Inference Attacks on LLMs are Rushing Nowhere), who show that
    such a baseline beats published attacks where members and non-members differ by date or source. No model is asked:
    what it finds is a difference of the data, and the attacks' AUROC must be read against it.

    Which one this is: the authors fit a random forest on raw counts and pool the probabilities of five stratified
    folds by record. Here the classifier is linear (see `out_of_fold`: it makes an interval possible
    that holds), folds are by document, copies of a text count as one document, and scores are ranks
    within the fold, since pooled probabilities rank null data below 0.5. The features are fitted on all texts; labels
    play no part in them. Besides words, which are read in lower case, it sees what theirs does not: how a text is
    written, by n-grams of two and three classes of characters (case, digits, each punctuation mark and kind of white
    space, the text's first and last characters). "User:" against "user:", or a line break at the end, moves a model's
    loss whatever it was trained on.

    Attributes:
        folds: number of folds.
        words: how many words at most are features, those in most texts first.
        looks: how many n-grams of classes of characters at most are, those nearest to standing in half of the texts
            first.
    """

    name = "bag_of_words"
    title = "Bag of words (sees no model)"
    about = "a classifier of words, looks and length that sees no model: what the data give away by themselves"

    folds: int = 5
    words: int = 2000
    looks: int = 128

    def __post_init__(self) -> None:
        if not is_count(self.folds) or self.folds < 2:
            raise SpvmiaError(f"bag_of_words folds: expected a whole number >= 2, got {self.folds!r}; the default is 5")
        if not is_count(self.words):
            raise SpvmiaError(
                f"bag_of_words words: expected a whole number >= 1, got {self.words!r}; the default is 2000"
            )
        if not is_count(self.looks):
            raise SpvmiaError(
                f"bag_of_words looks: expected a whole number >= 1, got {self.looks!r}; the default is 128"
            )

    def fold(
        self, texts: Sequence[str], is_member: NDArray[np.bool_], clusters: Sequence[str], seed: int
    ) -> FoldedTexts | None:
        """Deal the records to folds and compute their features; None if a class has too few documents."""
        if len(texts) == 0:
            return None
        order = np.array(sorted(range(len(texts)), key=lambda i: (texts[i], clusters[i], bool(is_member[i]))))
        sorted_texts = [texts[i] for i in order]
        groups = join_same_texts(sorted_texts, [clusters[i] for i in order])
        labels = group_labels(groups, np.asarray(is_member, dtype=bool)[order])
        fold = assign_folds(groups, labels, self.folds, np.random.default_rng(seed))
        if fold is None:
            return None
        return FoldedTexts(order, design_of(sorted_texts, fold[groups], self.words, self.looks), groups, labels, fold)

    def score_all(
        self, texts: Sequence[str], is_member: NDArray[np.bool_], clusters: Sequence[str], seed: int
    ) -> list[float | Unscored]:
        """Score every record out of fold.

        Args:
            texts: the records' texts.
            is_member: (n,) their labels.
            clusters: the document of each.
            seed: of the folds.

        Returns:
            Scores in (0, 1) in the order of `texts`; all unscored if a class has fewer than two documents a fold.
        """
        folded = self.fold(texts, is_member, clusters, seed)
        if folded is None:
            return [Unscored(NOT_FOLDABLE)] * len(texts)
        labels = np.asarray(is_member, dtype=bool)[folded.order][:, np.newaxis]
        (ranks,) = folded.ranks(lambda: [labels])
        scores = np.empty(len(texts))
        scores[folded.order] = ranks[:, 0]
        return [float(score) for score in scores]
