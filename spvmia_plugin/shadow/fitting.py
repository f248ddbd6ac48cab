"""Weights of `learned` from audits of shadows: which variants there can be, how strong, and what they are worth.

What is said of weights is said of records that they were not fitted on, fold by fold over whole documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.learned import LEAST_RECORDS
from spvmia_plugin.attacks.pooled import blocks_there
from spvmia_plugin.attacks.weights import VARIANTS, Weights, names_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import STRENGTH, Labelled, design, fit, halves, learn
from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.roc import auroc

STRENGTHS = tuple(STRENGTH * times for times in (0.1, 0.3, 1, 3, 10, 30, 100))
"""Those that are tried."""
FOLDS = 5

Rows = NDArray[np.intp]


def variants_of(audits: Sequence[Labelled]) -> list[str]:
    """The variants whose models all audits have, the one with most models first.

    A reference that is the base itself (`mia_reference=base`) is none.
    """
    there = set.intersection(*(blocks_there(each.table, each.names) for each in audits))
    return [name for name, blocks in VARIANTS.items() if there.issuperset(blocks)]


def some(audit: Labelled, rows: Rows) -> Labelled:
    """An audit of some of the records."""
    clusters = None if audit.clusters is None else [audit.clusters[row] for row in rows.tolist()]
    return replace(audit, table=audit.table[rows], labels=audit.labels[rows], clusters=clusters)


def in_order(audit: Labelled) -> Labelled:
    """The same audit with its records in an order of their own: by their features, not as they came.

    Names of documents decide only between equals: those of units are hashes, and with another key there would be
    other folds.
    """
    names = [""] * len(audit.labels) if audit.clusters is None else list(map(repr, audit.clusters))
    _, place = np.unique(names, return_inverse=True)
    return some(audit, np.lexsort((place, audit.labels, *audit.table.T[::-1])))  # the last key counts first


def fewest_documents(audit: Labelled) -> int:
    """How many documents the class has that has fewer of them."""
    codes = cluster_codes(audit.clusters, len(audit.labels))
    return min(len(np.unique(codes[audit.labels == label])) for label in (True, False))


def lacking(audit: Labelled, seed: int = 0) -> str | None:
    """What an audit has too little of to be fitted on, in words; None where it has enough.

    Args:
        audit: of one shadow.
        seed: as for `fit_shadows`.
    """
    if (fewest := fewest_documents(audit)) < FOLDS:
        return f"at least {FOLDS} documents of each class, which folds can be made of, got {fewest}"
    rows = np.arange(len(audit.labels))
    parts = [some(audit, np.setdiff1d(rows, held_out)) for (held_out,) in folds_of_documents([audit], seed)]
    for variant in variants_of([audit]):
        for part in [*parts, *halves(audit, seed)]:  # what weights and their control are fitted on
            _, able = design(part.table, part.names, names_of(variant))
            if len(able) < LEAST_RECORDS or len(np.unique(part.labels[able])) < 2:
                return (
                    f"at least {LEAST_RECORDS} records of both classes, with all models of the variant {variant}, in "
                    f"every fold and half of them, got {len(able)}"
                )
    return None


def folds_of_documents(audits: Sequence[Labelled], seed: int = 0) -> list[list[Rows]]:
    """For each fold the rows of every audit that are held out; no document is on both sides.

    Raises:
        SpvmiaError: an audit has too few documents.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    held_out: list[list[Rows]] = [[] for _ in range(FOLDS)]
    for number, audit in enumerate(audits, 1):
        if (fewest := fewest_documents(audit)) < FOLDS:
            raise SpvmiaError(
                f"--data: expected at least {FOLDS} documents of each class, which folds can be made of, got {fewest} "
                f"in shadow {number}; name data of more documents"
            )
        codes = cluster_codes(audit.clusters, len(audit.labels))
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        folds = [rows for _, rows in splitter.split(audit.table, audit.labels, codes)]
        for fold, rows in zip(held_out, folds, strict=True):
            fold.append(rows)
    return held_out


def cross_validated(audits: Sequence[Labelled], variant: str, strength: float, folds: Sequence[list[Rows]]) -> float:
    """Mean AUROC over the audits, of records under weights that were fitted on the other folds.

    Scores of two audits are not on one scale, so that each has an AUROC of its own.
    """
    scores = [np.full(len(audit.labels), np.nan) for audit in audits]
    standardised = None
    for held_out in folds:
        rest = [
            some(audit, np.setdiff1d(np.arange(len(audit.labels)), rows))
            for audit, rows in zip(audits, held_out, strict=True)
        ]
        fitted = fit([e.table for e in rest], [e.labels for e in rest], rest[0].names, variant, strength)
        if standardised is None:
            standardised = [design(audit.table, audit.names, fitted.names) for audit in audits]
        for of_audit, (z, able), rows in zip(scores, standardised, held_out, strict=True):
            place = np.isin(able, rows)
            of_audit[able[place]] = z[place] @ np.array(fitted.weights)
    found = []
    for audit, of_audit in zip(audits, scores, strict=True):
        known = np.isfinite(of_audit)
        found.append(auroc(of_audit[known], audit.labels[known]))
    return float(np.mean(found))


@dataclass(frozen=True)
class Fitted:
    """What was fitted on shadows.

    Attributes:
        weights: of every variant, with their card.
        variant: the one with most models.
        auroc: its cross-validated AUROC, mean over the shadows. The strength was chosen among a few by it, so that it
            is a little high.
        strengths: that was chosen, by variant.
    """

    weights: Weights
    variant: str
    auroc: float
    strengths: dict[str, float]


def fit_shadows(audits: Sequence[Labelled], summary: str, seed: int = 0) -> Fitted:
    """Fit every variant that the shadows have the models for, each with the strength that does best in the folds.

    The order of the records changes nothing.

    Args:
        audits: of the shadows.
        summary: one line for the card.
        seed: of the folds and of the permuted labels.

    Raises:
        SpvmiaError: too few records or documents.
    """
    audits = list(map(in_order, audits))
    folds = folds_of_documents(audits, seed)
    variants = variants_of(audits)
    aurocs: dict[str, float] = {}
    strengths: dict[str, float] = {}
    found: list[Weights] = []
    for variant in variants:
        tried = [cross_validated(audits, variant, strength, folds) for strength in STRENGTHS]
        best = int(np.argmax(tried))  # of equals the strongest regularisation
        aurocs[variant], strengths[variant] = tried[best], STRENGTHS[best]
        found.append(learn(audits, summary, [variant], STRENGTHS[best], seed=seed))
    card = replace(
        found[0].card,
        settings={
            **found[0].card.settings,
            "strength": strengths,
            "tried": list(STRENGTHS),
            "folds": f"{FOLDS} over documents",
            "auroc_in_folds": aurocs,
        },
        control={name: each.card.control[name] for name, each in zip(variants, found, strict=True)},
    )
    together = {name: each.variants[name] for name, each in zip(variants, found, strict=True)}
    return Fitted(Weights(card, together), variants[0], aurocs[variants[0]], strengths)
