"""Weights of the attack `learned`, fitted on audits of models whose members are known: shadows, or the benchmark's.

Each audit is standardised by itself, as the attack does with the one it scores, so that weights see what is alike from
audit to audit. Nothing here runs in an audit: it only reads the numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.learned import LEAST_RECORDS, standardised
from spvmia_plugin.attacks.weights import VARIANTS, Card, Variant, Weights, names_of
from spvmia_plugin.checks.shifts import majority
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.util.libraries import versions
from spvmia_plugin.util.schema import as_json

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STRENGTH = 0.005
"""Variance of the log-odds that is expected of the weights before any record is seen; over the F features, that is the
inverse regularisation C = STRENGTH / F. It says how much features can know together, so it does not change with their
number, nor with that of the records. So little leaves weights near the mean difference of members and others, which
carries over to another base, text and strength; which features make up for which does so less."""
RECORDS_OF_AN_AUDIT = 400
"""An audit counts as so many records at most. What differs between audits (the base, the text, the recipe, the draw of
the references) is drawn once for all of its records: more of them say nothing new of that, and would drown a small
audit of another model."""
CONTROL_FITS = 20
"""Fits on permuted labels, for the control."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """One audit to fit on.

    Attributes:
        table: (n, F) features, `audit.tables.FeatureTable.table`.
        labels: (n,) bool, whether a record is a member.
        names: of the features.
        clusters: (n,) the document of each record; each its own where there are none.
        about: what a card says of the audit: base, data, strength, seed.
    """

    table: NDArray[np.floating]
    labels: Bools
    names: tuple[str, ...]
    clusters: Sequence[Hashable] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """What weights have that were fitted in the same way on permuted labels: chance, or the fit is wrong.

    Attributes:
        auroc: mean over the fits, on records with their true labels that they were not fitted on.
        sd: its deviation from fit to fit.
        fits: how many.
    """

    auroc: float
    sd: float
    fits: int


def fit(
    tables: Sequence[NDArray[np.floating]],
    labels: Sequence[Bools],
    names: Sequence[str],
    variant: str,
    strength: float = STRENGTH,
) -> Variant:
    """Fit the weights of one variant by a strongly regularised logistic regression.

    Args:
        tables: (n, F) features of each audit; a record that lacks a model of the variant is left out.
        labels: (n,) bool of each audit.
        names: of the F features.
        variant: which models there are, as in `VARIANTS`.
        strength: as `STRENGTH`.

    Raises:
        SpvmiaError: no such variant, no audit, a feature that it needs is not among `names`, or an audit has too few
            records with all models of the variant, or of one class alone.
    """
    if variant not in VARIANTS:
        raise SpvmiaError(f"learned: expected one of the variants {', '.join(VARIANTS)}, got {variant!r}; correct it")
    if not tables or len(tables) != len(labels):
        raise SpvmiaError(
            f"learned: expected audits with their labels, got {len(tables)} and {len(labels)}; name at least one"
        )
    if not strength > 0:
        raise SpvmiaError(f"learned: expected a strength > 0, got {strength!r}; the default is {STRENGTH}")
    wanted = names_of(variant)
    if absent := [name for name in wanted if name not in names]:
        raise SpvmiaError(f"learned: expected the feature {absent[0]}, got none; audit with this version again")
    from sklearn.linear_model import LogisticRegression

    inputs, members, counts = [], [], []
    for number, (table, of_table) in enumerate(zip(tables, labels, strict=True)):
        z, able = design(table, names, wanted)
        of_able = np.asarray(of_table, dtype=bool)[able]
        if len(of_able) < LEAST_RECORDS or of_able.all() or not of_able.any():
            raise SpvmiaError(
                f"learned: expected at least {LEAST_RECORDS} records of both classes with all models of the variant "
                f"{variant}, got {len(of_able)}, {int(of_able.sum())} of them members, in audit {number + 1}; leave "
                "the audit out, or audit more records"
            )
        inputs.append(z)
        members.append(of_able)
        counts.append(np.full(len(of_able), min(1.0, RECORDS_OF_AN_AUDIT / len(of_able))))
    model = LogisticRegression(C=strength / len(wanted), max_iter=5000, tol=1e-8)
    model.fit(np.concatenate(inputs), np.concatenate(members), sample_weight=np.concatenate(counts))
    return Variant(wanted, tuple(map(float, model.coef_[0])))


def design(table: NDArray[np.floating], names: Sequence[str], wanted: Sequence[str]) -> tuple[Floats, NDArray[np.intp]]:
    """The standardised features of the records that have all that are wanted, and which records these are."""
    columns = [list(names).index(name) for name in wanted]
    able = np.flatnonzero(np.isfinite(table[:, columns]).all(axis=1))
    if not len(able):
        return np.zeros((0, len(columns))), able
    return np.column_stack([standardised(table[able, column]) for column in columns]), able


def control(
    audits: Sequence[Labelled],
    variant: str,
    strength: float = STRENGTH,
    fits: int = CONTROL_FITS,
    seed: int = 0,
) -> Control:
    """Fit on permuted labels, and see what that has on audits which it was not fitted on; with one audit, on halves.

    Labels are permuted within each audit, by whole documents where these are known: what is left is what the
    procedure itself makes up.

    Raises:
        SpvmiaError: as `fit`.
    """
    parts = [part for audit in audits for part in ([audit] if len(audits) > 1 else halves(audit, seed))]
    found = []
    for number in range(fits):
        rng = np.random.default_rng(stable_seed("learned control", seed, number))
        held_out = number % len(parts)
        rest = [part for place, part in enumerate(parts) if place != held_out]
        fitted = fit(
            [part.table for part in rest],
            [permuted_labels(part.labels, part.clusters, rng) for part in rest],
            rest[0].names,
            variant,
            strength,
        )
        z, able = design(parts[held_out].table, parts[held_out].names, fitted.names)
        found.append(auroc(z @ np.array(fitted.weights), np.asarray(parts[held_out].labels, dtype=bool)[able]))
    return Control(float(np.mean(found)), float(np.std(found, ddof=1)) if fits > 1 else float("nan"), fits)


def permuted_labels(labels: Bools, clusters: Sequence[Hashable] | None, rng: np.random.Generator) -> Bools:
    """Labels (n,) exchanged among the documents: records of one document stay of one class.

    A document of both classes counts as that of most of its records. How many records are members can change, where
    documents differ in their number of records.
    """
    codes = cluster_codes(clusters, len(labels))
    dealt: Bools = rng.permutation(majority(np.asarray(labels, dtype=bool), codes))[codes]
    return dealt


def halves(audit: Labelled, seed: int) -> list[Labelled]:
    """An audit as two, by documents of each class."""
    codes, labels = cluster_codes(audit.clusters, len(audit.labels)), np.asarray(audit.labels, dtype=bool)
    rng = np.random.default_rng(stable_seed("learned halves", seed))
    second = np.zeros(codes.max() + 1, dtype=bool)
    for label in (False, True):
        of_class = rng.permutation(np.unique(codes[labels == label]))
        second[of_class[::2]] = True
    return [
        Labelled(audit.table[rows], labels[rows], audit.names, [int(code) for code in codes[rows]], audit.about)
        for rows in (np.flatnonzero(~second[codes]), np.flatnonzero(second[codes]))
    ]


def learn(
    audits: Sequence[Labelled],
    summary: str,
    variants: Sequence[str] = tuple(VARIANTS),
    strength: float = STRENGTH,
    fits: int = CONTROL_FITS,
    seed: int = 0,
) -> Weights:
    """Fit all variants, with their controls and a card.

    Args:
        audits: to fit on.
        summary: one line for the card: fitted on what.
        variants: to fit, those that the audits have the models for.
        strength: as `STRENGTH`.
        fits: of each control.
        seed: of the permutations.

    Raises:
        SpvmiaError: as `fit`.
    """
    found = {
        name: fit([each.table for each in audits], [each.labels for each in audits], audits[0].names, name, strength)
        for name in variants
    }
    controls = {name: as_json(control(audits, name, strength, fits, seed)) for name in variants}
    told = tuple(
        {**each.about, "members": int(np.sum(each.labels)), "nonmembers": int(np.sum(~np.asarray(each.labels)))}
        for each in audits
    )
    settings = {"strength": strength, "records_of_an_audit": RECORDS_OF_AN_AUDIT, "control_fits": fits, "seed": seed}
    card = Card(
        summary=summary,
        audits=told,
        records=sum(len(each.labels) for each in audits),
        settings=settings,
        control=controls,
        versions=versions(),
        date=date.today().isoformat(),
    )
    return Weights(card, found)
