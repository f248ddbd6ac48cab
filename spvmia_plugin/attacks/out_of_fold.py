"""Out-of-fold scores of texts by their words and length: folds by document, ridge regression, ranks within folds.

Ridge regression on labels of -1 and 1 is one Newton step of penalised logistic regression from zero. It is linear in
the labels, so that scoring hundreds of permuted labelings costs little more than scoring one: that is what makes an
honest null distribution affordable (`spvmia_plugin.metrics.blind`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTY = 1.0
"""Ridge penalty. Rows of word weights have length 1, so this much is at home at any number of records."""

MIN_DOCUMENTS_PER_FOLD = 2
"""Fewer documents of a class in a fold than this, and the folds cannot be compared."""


def join_same_texts(texts: Sequence[str], clusters: Sequence[str]) -> NDArray[np.intp]:
    """Number the clusters 0..G-1, clusters that share a text joined: a copy must not be fitted on.

    Returns:
        (n,) group of every record.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, cluster = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    text_ids = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    text = np.array([text_ids[text] for text in texts]) + len(cluster)
    size = 2 * len(cluster)
    # 32 bits: connected_components takes no other indices until SciPy 1.15 or so.
    edges = (cluster.astype(np.int32), text.astype(np.int32))
    graph = coo_array((np.ones(len(cluster)), edges), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.unique(component[cluster], return_inverse=True)[1]


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


def design_matrix(texts: Sequence[str], n_words: int) -> Any:
    """Word weights and lengths of every text; labels play no part in it.

    Weights are log(1 + count) * idf of the `n_words` words that occur in most texts (at least two), each row of
    length 1; then the standardised logs of the numbers of characters and words.

    Returns:
        (n, at most n_words + 2) `scipy.sparse.csr_array`.
    """
    from scipy.sparse import csr_array, hstack

    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    occurrences = Counter(word for count in counts for word in count)
    frequent = sorted((-n, word) for word, n in occurrences.items() if n > 1)[:n_words]
    column = {word: number for number, (_, word) in enumerate(frequent)}
    idf = np.log((1 + len(texts)) / (1 - np.array([n for n, _ in frequent], dtype=np.float64))) + 1
    entries = [
        (row, column[word], n) for row, count in enumerate(counts) for word, n in count.items() if word in column
    ]
    rows, columns, values = np.array(entries, dtype=np.intp).reshape(-1, 3).T
    weights = np.log1p(values) * idf[columns]
    norm = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(texts)))
    words = csr_array((weights / norm[rows], (rows, columns)), shape=(len(texts), len(column)))
    lengths = np.log1p([[len(text), count.total()] for text, count in zip(texts, counts, strict=True)])
    spread = lengths.std(axis=0)
    lengths = (lengths - lengths.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return csr_array(hstack([words, csr_array(lengths)]))


def out_of_fold_ranks(design: Any, labels: NDArray[np.bool_], fold: NDArray[np.intp]) -> NDArray[np.float64]:
    """Score every record by a ridge regression fitted on the other folds, as its rank within its own fold.

    Ranks make folds comparable: raw scores of several fits, pooled, rank null data below 0.5, for a record and its
    opposite in another fold are each in the other's training set (Parker et al. 2007, doi 10.1186/1471-2105-8-326).

    Args:
        design: (n, p) sparse features.
        labels: (n, B) labelings, each scored by itself.
        fold: (n,) fold of every record.

    Returns:
        (n, B) mid-ranks within the fold over its size, in (0, 1); higher is more like a member.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.stats import rankdata

    signs = np.where(labels, 1.0, -1.0)
    whole = (design.T @ design).toarray() + PENALTY * np.eye(design.shape[1])
    ranks = np.empty(labels.shape)
    for held_out in np.unique(fold):
        test, train = fold == held_out, fold != held_out
        rest, part = design[train], design[test]
        factor = cho_factor(whole - (part.T @ part).toarray(), lower=True, overwrite_a=True)
        weights = cho_solve(factor, rest.T @ (signs[train] - signs[train].mean(axis=0)))
        # Rounded so that equal features tie, whatever the order of the sums.
        ranks[test] = (rankdata(np.round(part @ weights, 9), axis=0) - 0.5) / test.sum()
    return ranks
