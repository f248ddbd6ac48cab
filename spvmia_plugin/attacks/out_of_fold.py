"""Out-of-fold scores of texts by words, looks and length: folds by document, ridge regression, ranks within folds.

Ridge regression on labels of -1 and 1 is one Newton step of penalised logistic regression from zero. It is linear in
the labels, so that scoring hundreds of permuted labelings costs little more than scoring one: that is what makes an
honest null distribution affordable (`spvmia_plugin.checks.blind`). Nothing here holds features or scores of all
records under all labelings: features lie in blocks of rows, packed, and scores are made for some labelings at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spvmia_plugin.attacks.characters import count_classes, words_of

PENALTY = 1.0
"""Ridge penalty. Rows of word weights have length 1, those of looks on average, so this much is at home at any number
of records."""

MIN_DOCUMENTS_PER_FOLD = 2
"""Fewer documents of a class in a fold than this, and the folds cannot be compared."""


ROWS = 2048
"""Records in a block of features."""

COLUMNS = 256
"""Features whose products with all others are made at once."""

SCORES_AT_A_TIME = 4_000_000
"""Scores that are held at once: of all records, under so many labelings as that makes."""


def join_same_texts(texts: Sequence[Hashable], clusters: Sequence[str]) -> NDArray[np.intp]:
    """Number the clusters 0..G-1, clusters that share a text joined: a copy must not be fitted on.

    Returns:
        (n,) group of every record.
    """
    names = [str(name) for name in clusters]
    number_of = {name: number for number, name in enumerate(sorted(set(names)))}
    cluster = [number_of[name] for name in names]
    # Not scipy's `connected_components`: what goes wrong in its compiled part is printed and ignored, and the answer
    # is then one group, which looks like too few documents (scipy 1.11 with 64-bit indices).
    parent = list(range(len(number_of)))  # of each cluster, a lower one that it was joined to, or itself

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    holder: dict[Hashable, int] = {}  # a cluster with each text
    for text, number in zip(texts, cluster, strict=True):
        left, right = root(number), root(holder.setdefault(text, number))
        parent[max(left, right)] = min(left, right)
    return np.unique([root(number) for number in cluster], return_inverse=True)[1]


def group_labels(groups: NDArray[np.intp], is_member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether at least half of each group's records are members, shape (G,)."""
    return np.bincount(groups, weights=is_member) * 2 >= np.bincount(groups)


def assign_folds(
    groups: NDArray[np.intp], labels: NDArray[np.bool_], n_folds: int, rng: np.random.Generator
) -> NDArray[np.intp] | None:
    """Deal the groups to folds, each class by itself, so that every fold has the classes in nearly the same proportion.

    Args:
        groups: (n,) group of each record.
        labels: (G,) class of each group.
        n_folds: number of folds.
        rng: source of the order within a class; large groups go first, each to the fold with the fewest records.

    Returns:
        (G,) fold of each group, or None if a fold would get fewer than two groups of a class.
    """
    sizes = np.bincount(groups)
    fold = np.empty(len(sizes), dtype=np.intp)
    for label in (False, True):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < n_folds * MIN_DOCUMENTS_PER_FOLD:
            return None
        load = np.zeros((n_folds, 2), dtype=np.int64)  # records, then groups, of this class
        for group in members[np.argsort(-sizes[members], kind="stable")]:
            lightest = np.lexsort((load[:, 0], load[:, 1]))[0]
            fold[group] = lightest
            load[lightest] += (sizes[group], 1)
    return fold


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some records' counts and their lengths: a third of what the features take, which are made when needed.

    Attributes:
        rows: (m,) position of each of these records among all.
        starts: (m + 1,) where each one's entries begin in `columns` and `counts`.
        columns: (k,) number of a word.
        counts: (k,) how often the record has it.
        lengths: (m, 2) standardised logs of the numbers of characters and words.
        looks: (m, F) how often the record has each n-gram of classes of characters.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.int64]
    columns: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    lengths: NDArray[np.float64]
    looks: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Word weights, lengths and looks of n texts; labels play no part in them.

    Weights are log(1 + count) * idf of the words that occur in most texts, each row of length 1. Looks are log(1 +
    count) of n-grams of classes of characters, less their mean, all divided by one number so that the squares of a row
    sum to 1 on average.

    Attributes:
        folds: the blocks of each fold.
        idf: (W,) of each word.
        mean: (F,) of log(1 + count) of each n-gram.
        scale: what looks are multiplied by.
        n: number of texts.
    """

    folds: Sequence[Sequence[Block]]
    idf: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: float
    n: int

    @property
    def width(self) -> int:
        """p, the number of features."""
        return len(self.idf) + 2 + len(self.mean)

    def matrix(self, block: Block) -> tuple[Any, NDArray[np.float64]]:
        """The features of a block's records: `scipy.sparse.csr_array` (m, W) of words, and the others (m, p - W)."""
        m, sizes = len(block.rows), np.diff(block.starts)
        weights = np.log1p(block.counts, dtype=np.float64) * self.idf[block.columns]
        norm = np.sqrt(np.bincount(np.repeat(np.arange(m), sizes), weights=weights**2, minlength=m))
        weights /= np.repeat(norm, sizes)
        entries = weights, block.columns.astype(np.int32), block.starts.astype(np.int32)
        words = scipy.sparse.csr_array(entries, shape=(m, len(self.idf)))
        looks = _LOG1P[block.looks] - self.mean
        return words, np.concatenate([block.lengths, looks * self.scale], axis=1)


_LOG1P = np.log1p(np.arange(256))
"""Of each count that an n-gram can have."""


def design_of(texts: Sequence[str], fold: NDArray[np.intp], n_words: int, n_looks: int) -> Design:
    """Count the words and the n-grams of classes of characters of every text.

    Args:
        texts: n of them.
        fold: (n,) fold of each.
        n_words: how many words at most are features: those that occur in most texts, in at least two.
        n_looks: how many n-grams of classes of characters at most are.
    """
    occurrences: Counter[str] = Counter()
    lengths = np.empty((len(texts), 2))
    for row, text in enumerate(texts):
        words = words_of(text.lower())
        occurrences.update(set(words))
        lengths[row] = len(text), len(words)
    frequent = sorted((-n, word) for word, n in occurrences.items() if n > 1)[:n_words]
    del occurrences
    column = {word: number for number, (_, word) in enumerate(frequent)}
    idf = np.log((1 + len(texts)) / (1 - np.array([n for n, _ in frequent], dtype=np.float64))) + 1
    lengths = np.log1p(lengths)
    spread = lengths.std(axis=0)
    lengths = (lengths - lengths.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    looks = count_classes(texts, n_looks).counts
    shares = np.array([np.bincount(each, minlength=256) for each in looks.T]).reshape(-1, 256) / max(len(texts), 1)
    mean = shares @ _LOG1P
    variance = float((shares @ _LOG1P**2 - mean**2).sum())
    folds = []
    for number in np.unique(fold):
        rows = np.flatnonzero(fold == number)
        parts = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        folds.append([_block([texts[i] for i in part], part, column, lengths[part], looks[part]) for part in parts])
    return Design(folds, idf, mean, 1 / math.sqrt(variance) if variance > 1e-9 else 1.0, len(texts))


def _block(
    texts: Sequence[str],
    rows: NDArray[np.intp],
    column: dict[str, int],
    lengths: NDArray[np.float64],
    looks: NDArray[np.uint8],
) -> Block:
    columns: list[int] = []
    counts: list[int] = []
    starts = [0]
    for text in texts:
        found = Counter(word for word in words_of(text.lower()) if word in column)
        columns += [column[word] for word in found]
        counts += found.values()
        starts.append(len(columns))
    narrow = np.min_scalar_type(max(len(column), 1)), np.min_scalar_type(max(counts, default=1))
    entries = np.array(columns, narrow[0]), np.array(counts, narrow[1])
    return Block(rows, np.array(starts, dtype=np.int64), *entries, lengths, looks)


Labelings = Callable[[], Iterable[NDArray[np.bool_]]]
"""Gives the labelings (n, b) to score, some at a time; called twice, and must give the same."""


def labelings_at_a_time(n: int) -> int:
    """How many labelings of n records are scored together, so that their scores take some tens of megabytes."""
    return max(1, SCORES_AT_A_TIME // max(n, 1))


def out_of_fold_ranks(design: Design, labelings: Labelings) -> Iterator[NDArray[np.float64]]:
    """Score every record by a ridge regression fitted on the other folds, as its rank within its own fold.

    Ranks make folds comparable: raw scores of several fits, pooled, rank null data below 0.5, for a record and its
    opposite in another fold are each in the other's training set (Parker et al. 2007, doi 10.1186/1471-2105-8-326).

    Args:
        design: features.
        labelings: (n, b) at a time, each labeling scored by itself.

    Yields:
        For each (n, b) of `labelings` the mid-ranks (n, b) within the fold over its size, in (0, 1); higher is more
        like a member.
    """
    weights = _weights(design, labelings)
    done = 0
    for labels in labelings():
        ranks = np.empty(labels.shape)
        for blocks, of_fold in zip(design.folds, weights, strict=True):
            mine = of_fold[:, done : done + labels.shape[1]]
            # Rounded so that equal features tie, whatever the order of the sums.
            scores = np.concatenate([np.round(_product(*design.matrix(block), mine), 9) for block in blocks])
            rows = np.concatenate([block.rows for block in blocks])
            ranks[rows] = (scipy.stats.rankdata(scores, axis=0) - 0.5) / len(rows)
        done += labels.shape[1]
        yield ranks


def _weights(design: Design, labelings: Labelings) -> list[NDArray[np.float64]]:
    """For each fold the regression weights (p, B) of every labeling, fitted on the other folds.

    The sums of a fit, X'X and X'y, are those of all folds less those of the fold that is left out.
    """
    sums = [np.zeros((design.width, 1)) for _ in design.folds]  # X'1 of each fold
    products: list[list[NDArray[np.float64]]] = [[] for _ in design.folds]  # X'y
    totals: list[list[NDArray[np.float64]]] = [[] for _ in design.folds]  # 1'y
    for labels in labelings():
        for k, blocks in enumerate(design.folds):
            of_fold = np.zeros((design.width, labels.shape[1]))
            for block in blocks:
                of_fold += _transposed(*design.matrix(block), np.where(labels[block.rows], 1.0, -1.0))
            products[k].append(of_fold)
            inside = np.concatenate([block.rows for block in blocks])
            totals[k].append(2.0 * labels[inside].sum(axis=0) - len(inside))
    for k, blocks in enumerate(design.folds):
        for block in blocks:
            sums[k] += _transposed(*design.matrix(block), np.ones((len(block.rows), 1)))
    by_fold, signs = [np.concatenate(each, axis=1) for each in products], [np.concatenate(each) for each in totals]
    del products
    whole = PENALTY * np.eye(design.width)
    for blocks in design.folds:
        whole += _gram(design, blocks)
    found = []
    for k, blocks in enumerate(design.folds):
        part = _gram(design, blocks)
        np.subtract(whole, part, out=part)
        # The transpose is the same matrix, in the order of LAPACK: factorised where it lies.
        factor = scipy.linalg.cho_factor(part.T, lower=True, overwrite_a=True)
        others = design.n - sum(len(block.rows) for block in blocks)
        mean = (sum(signs) - signs[k]) / others
        found.append(
            scipy.linalg.cho_solve(factor, sum(by_fold) - by_fold[k] - (sum(sums) - sums[k]) * mean, overwrite_b=True)
        )
    return found


def _product(words: Any, others: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """X w (m, b) of features (m, W) and (m, p - W)."""
    found: NDArray[np.float64] = words @ weights[: words.shape[1]]
    found += others @ weights[words.shape[1] :]
    return found


def _transposed(words: Any, others: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """X'y (p, b) of features (m, W) and (m, p - W)."""
    return np.concatenate([words.T @ values, others.T @ values])


def _gram(design: Design, blocks: Sequence[Block]) -> NDArray[np.float64]:
    """X'X (p, p) of one fold."""
    gram = np.zeros((design.width, design.width))
    n_words = len(design.idf)
    for block in blocks:
        words, others = design.matrix(block)
        left, right = words.T.tocsr(), words.tocsc()
        for start in range(0, n_words, COLUMNS):  # a product of all columns takes as much as three matrices
            some = slice(start, min(start + COLUMNS, n_words))
            gram[:n_words, some] += (left @ right[:, some].tocsr()).toarray()
        gram[:n_words, n_words:] += left @ others
        gram[n_words:, n_words:] += others.T @ others
    gram[n_words:, :n_words] = gram[:n_words, n_words:].T
    return gram
