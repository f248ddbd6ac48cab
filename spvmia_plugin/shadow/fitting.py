"""Weights of `learned` from audits of shadows: which variants there can be, how strong, and what they are worth.

What is said of weights is said of records that they were not fitted on, fold by fold over whole documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.weights import VARIANTS, Weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import STRENGTH, Labelled, design, fit, learn
from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.roc import auroc

STRENGTHS = (STRENGTH / 10, STRENGTH / 3, STRENGTH, 3 * STRENGTH, 10 * STRENGTH, 30 * STRENGTH)
"""Those that are tried."""
FOLDS = 5
_REFERENCES = ("reference", "candidate")

Rows = NDArray[np.intp]


def variants_of(audits: Sequence[Labelled]) -> list[str]:
    """The variants whose models all audits have, the one with most models first.

    A reference that is the base itself (`mia_reference=base`) is none.
    """
    there = {"target", "base"}
    for block in _REFERENCES:
        columns = [audits[0].names.index(f"{block}_base.{name}") for name in ("mean", "sd")]
        if all(np.nanmax(np.abs(each.table[:, columns]), initial=0.0) > 0 for each in audits):
            there.add(block)
    if there.issuperset(_REFERENCES):
        there.add("both")
    return [name for name, blocks in VARIANTS.items() if there.issuperset(blocks)]


def some(audit: Labelled, rows: Rows) -> Labelled:
    """An audit of some of the records."""
    clusters = None if audit.clusters is None else [audit.clusters[row] for row in rows.tolist()]
    return replace(audit, table=audit.table[rows], labels=audit.labels[rows], clusters=clusters)


def folds_of_documents(audits: Sequence[Labelled], seed: int = 0) -> list[list[Rows]]:
    """For each fold the rows of every audit that are held out; no document is on both sides.

    Raises:
        SpvmiaError: an audit has too few documents.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    held_out: list[list[Rows]] = [[] for _ in range(FOLDS)]
    for number, audit in enumerate(audits, 1):
        codes = cluster_codes(audit.clusters, len(audit.labels))
        fewest = min(len(np.unique(codes[audit.labels == label])) for label in (True, False))
        if fewest < FOLDS:
            raise SpvmiaError(
                f"--data: expected at least {FOLDS} documents of each class, which folds can be made of, got {fewest} "
                f"in shadow {number}; name data of more documents"
            )
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

    Args:
        audits: of the shadows.
        summary: one line for the card.
        seed: of the folds and of the permuted labels.

    Raises:
        SpvmiaError: too few records or documents.
    """
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
