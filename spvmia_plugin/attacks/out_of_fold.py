"""Out-of-fold scores of texts by their words and length: folds by document, ridge regression, ranks within folds.

Ridge regression on labels of -1 and 1 is one Newton step of penalised logistic regression from zero. It is linear in
the labels, so that scoring hundreds of permuted labelings costs little more than scoring one: that is what makes an
honest null distribution affordable (`spvmia_plugin.checks.blind`). Nothing here holds features or scores of all
records under all labelings: features lie in blocks of rows, packed, and scores are made for some labelings at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTY = 1.0
"""Ridge penalty. Rows of word weights have length 1, so this much is at home at any number of records."""

MIN_DOCUMENTS_PER_FOLD = 2
"""Fewer documents of a class in a fold than this, and the folds cannot be compared."""


ROWS = 2048
"""Records in a block of features."""

COLUMNS = 256
"""Features whose products with all others are made at once."""

SCORES_AT_A_TIME = 4_000_000
"""Scores that are held at once: of all records, under so many labelings as that makes."""

_WORD = re.compile(r"\w+")


def join_same_texts(texts: Sequence[str], clusters: Sequence[str]) -> NDArray[np.intp]:
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

    holder: dict[str, int] = {}  # a cluster with each text
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
    """Some records' counts of words and their lengths: a third of what the matrix takes, which is made when needed.

    Attributes:
        rows: (m,) position of each of these records among all.
        starts: (m + 1,) where each one's entries begin in `columns` and `counts`.
        columns: (k,) number of a word.
        counts: (k,) how often the record has it.
        lengths: (m, 2) standardised logs of the numbers of characters and words.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.int64]
    columns: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    lengths: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Word weights and lengths of n texts; labels play no part in them.

    Weights are log(1 + count) * idf of the words that occur in most texts, each row of length 1.

    Attributes:
        folds: the blocks of each fold.
        idf: (W,) of each word.
        n: number of texts.
    """

    folds: Sequence[Sequence[Block]]
    idf: NDArray[np.float64]
    n: int

    @property
    def width(self) -> int:
        """p, the number of features."""
        return len(self.idf) + 2

    def matrix(self, block: Block) -> Any:
        """The features of a block's records, `scipy.sparse.csr_array` (m, p)."""
        from scipy.sparse import csr_array

        m, sizes = len(block.rows), np.diff(block.starts)
        weights = np.log1p(block.counts, dtype=np.float64) * self.idf[block.columns]
        norm = np.sqrt(np.bincount(np.repeat(np.arange(m), sizes), weights=weights**2, minlength=m))
        # The two lengths of a row follow its words.
        place = np.repeat(np.arange(m) * 2, sizes) + np.arange(len(weights))
        ends = block.starts[1:] + 2 * np.arange(m)
        values, columns = np.empty(len(weights) + 2 * m), np.empty(len(weights) + 2 * m, dtype=np.int32)
        values[place], columns[place] = weights / np.repeat(norm, sizes), block.columns
        for side in (0, 1):
            values[ends + side], columns[ends + side] = block.lengths[:, side], len(self.idf) + side
        starts = block.starts + 2 * np.arange(m + 1)
        return csr_array((values, columns, starts.astype(np.int32)), shape=(m, self.width))


def design_of(texts: Sequence[str], fold: NDArray[np.intp], n_words: int) -> Design:
    """Count the words of every text.

    Args:
        texts: n of them.
        fold: (n,) fold of each.
        n_words: how many words at most are features: those that occur in most texts, in at least two.
    """
    occurrences: Counter[str] = Counter()
    lengths = np.empty((len(texts), 2))
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        occurrences.update(set(words))
        lengths[row] = len(text), len(words)
    frequent = sorted((-n, word) for word, n in occurrences.items() if n > 1)[:n_words]
    del occurrences
    column = {word: number for number, (_, word) in enumerate(frequent)}
    idf = np.log((1 + len(texts)) / (1 - np.array([n for n, _ in frequent], dtype=np.float64))) + 1
    lengths = np.log1p(lengths)
    spread = lengths.std(axis=0)
    lengths = (lengths - lengths.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    folds = []
    for number in np.unique(fold):
        rows = np.flatnonzero(fold == number)
        parts = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        folds.append([_block([texts[i] for i in part], part, column, lengths[part]) for part in parts])
    return Design(folds, idf, len(texts))


def _block(texts: Sequence[str], rows: NDArray[np.intp], column: dict[str, int], lengths: NDArray[np.float64]) -> Block:
    columns: list[int] = []
    counts: list[int] = []
    starts = [0]
    for text in texts:
        found = Counter(word for word in _WORD.findall(text.lower()) if word in column)
        columns += [column[word] for word in found]
        counts += found.values()
        starts.append(len(columns))
    narrow = np.min_scalar_type(max(len(column), 1)), np.min_scalar_type(max(counts, default=1))
    return Block(
        rows, np.array(starts, dtype=np.int64), np.array(columns, narrow[0]), np.array(counts, narrow[1]), lengths
    )


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
    from scipy.stats import rankdata

    weights = _weights(design, labelings)
    done = 0
    for labels in labelings():
        ranks = np.empty(labels.shape)
        for blocks, of_fold in zip(design.folds, weights, strict=True):
            mine = of_fold[:, done : done + labels.shape[1]]
            # Rounded so that equal features tie, whatever the order of the sums.
            scores = np.concatenate([np.round(design.matrix(block) @ mine, 9) for block in blocks])
            rows = np.concatenate([block.rows for block in blocks])
            for k in range(labels.shape[1]):
                ranks[rows, k] = (rankdata(scores[:, k]) - 0.5) / len(rows)
        done += labels.shape[1]
        yield ranks


def _weights(design: Design, labelings: Labelings) -> list[NDArray[np.float64]]:
    """For each fold the regression weights (p, B) of every labeling, fitted on the other folds.

    The sums of a fit, X'X and X'y, are those of all folds less those of the fold that is left out.
    """
    from scipy.linalg import cho_factor, cho_solve

    sums = [np.zeros((design.width, 1)) for _ in design.folds]  # X'1 of each fold
    products: list[list[NDArray[np.float64]]] = [[] for _ in design.folds]  # X'y
    totals: list[list[NDArray[np.float64]]] = [[] for _ in design.folds]  # 1'y
    for labels in labelings():
        for k, blocks in enumerate(design.folds):
            of_fold = np.zeros((design.width, labels.shape[1]))
            for block in blocks:
                of_fold += design.matrix(block).T @ np.where(labels[block.rows], 1.0, -1.0)
            products[k].append(of_fold)
            inside = np.concatenate([block.rows for block in blocks])
            totals[k].append(2.0 * labels[inside].sum(axis=0) - len(inside))
    for k, blocks in enumerate(design.folds):
        for block in blocks:
            sums[k][:, 0] += design.matrix(block).sum(axis=0)
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
        factor = cho_factor(part.T, lower=True, overwrite_a=True)
        others = design.n - sum(len(block.rows) for block in blocks)
        mean = (sum(signs) - signs[k]) / others
        found.append(cho_solve(factor, sum(by_fold) - by_fold[k] - (sum(sums) - sums[k]) * mean, overwrite_b=True))
    return found


def _gram(design: Design, blocks: Sequence[Block]) -> NDArray[np.float64]:
    """X'X (p, p) of one fold."""
    gram = np.zeros((design.width, design.width))
    for block in blocks:
        matrix = design.matrix(block)
        left, right = matrix.T.tocsr(), matrix.tocsc()
        for start in range(0, design.width, COLUMNS):  # a product of all columns takes as much as three matrices
            some = slice(start, start + COLUMNS)
            gram[:, some] += (left @ right[:, some].tocsr()).toarray()
    return gram
