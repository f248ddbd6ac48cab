"""What is said of weights, on drawn audits: folds over documents, variants, the control."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from spvmia_plugin.attacks.learned import standardised
from spvmia_plugin.attacks.pooled import FEATURE_NAMES, features_of
from spvmia_plugin.attacks.weights import names_of, parse_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import STRENGTH, Labelled
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.shadow.fitting import (
    FOLDS,
    STRENGTHS,
    cross_validated,
    fit_shadows,
    folds_of_documents,
    in_order,
    lacking,
    some,
    variants_of,
)
from spvmia_plugin.signals import Role
from tests.attacks.simulated import EVERY, simulate


def drawn(n=120, seed=0, *, roles=EVERY, per_document=1, **how) -> Labelled:
    signals, labels = simulate(n, (20, 40), seed=seed, roles=roles, **how)
    table = np.array(features_of(signals), dtype=np.float32)
    documents = [f"{label}-{row // (2 * per_document)}" for row, label in enumerate(labels)]
    return Labelled(table, labels, FEATURE_NAMES, documents, {"seed": seed})


@pytest.fixture(scope="module")
def audits():
    return [drawn(seed=seed) for seed in (1, 2)]


def test_folds_keep_documents_together_and_cover_every_record():
    audits = [drawn(per_document=3), drawn(seed=1)]
    folds = folds_of_documents(audits)
    assert len(folds) == FOLDS
    for number, audit in enumerate(audits):
        parts = [fold[number] for fold in folds]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(audit.labels)))
        owners = [{audit.clusters[row] for row in rows} for rows in parts]
        assert not any(a & b for k, a in enumerate(owners) for b in owners[:k])
        assert all(0 < audit.labels[rows].sum() < len(rows) for rows in parts)


def test_too_few_documents_to_fold_are_refused():
    assert len(folds_of_documents([drawn(per_document=12)])) == FOLDS
    with pytest.raises(SpvmiaError, match=r"^--data: expected at least 5 documents .* got 4 in shadow 2; name data"):
        folds_of_documents([drawn(), drawn(per_document=15)])


def test_the_cross_validated_number_is_what_a_naive_loop_gives(audits):
    from sklearn.linear_model import LogisticRegression

    folds = folds_of_documents(audits)
    names = names_of("both")
    columns = [FEATURE_NAMES.index(name) for name in names]

    def scaled(table):
        return np.column_stack([standardised(table[:, column]) for column in columns])

    expected = []
    scores = [np.zeros(len(audit.labels)) for audit in audits]
    for fold in folds:
        keep = [np.setdiff1d(np.arange(len(a.labels)), rows) for a, rows in zip(audits, fold, strict=True)]
        x = np.concatenate([scaled(a.table[k]) for a, k in zip(audits, keep, strict=True)])
        y = np.concatenate([a.labels[k] for a, k in zip(audits, keep, strict=True)])
        model = LogisticRegression(C=STRENGTH / len(names), max_iter=5000, tol=1e-8).fit(x, y)
        for of_audit, audit, rows in zip(scores, audits, fold, strict=True):
            of_audit[rows] = scaled(audit.table)[rows] @ model.coef_[0]
    expected = np.mean([auroc(s, a.labels) for s, a in zip(scores, audits, strict=True)])
    assert cross_validated(audits, "both", STRENGTH, folds) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.7


def test_nothing_is_fitted_on_the_records_that_it_is_judged_by():
    """Labels that nothing tells: an AUROC on the fitting records themselves would be far above chance."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(6):
        audit = drawn(120, seed=seed)
        guess = rng.permutation(audit.labels)
        coin = dataclasses.replace(audit, labels=guess, clusters=None)
        found.append(cross_validated([coin], "both", STRENGTHS[-1], folds_of_documents([coin])))
    assert abs(np.mean(found) - 0.5) < 0.08


def test_variants_are_those_whose_models_are_there():
    everything = drawn(40)
    assert variants_of([everything]) == ["both", "candidate", "reference", "base"]
    bare = drawn(40, roles=(Role.TARGET, Role.BASE, Role.REFERENCE))
    assert variants_of([bare]) == ["reference", "base"]
    assert variants_of([everything, bare]) == ["reference", "base"]
    same = everything.table.copy()
    same[:, FEATURE_NAMES.index("reference.mean")] = same[:, FEATURE_NAMES.index("base.mean")]  # mia_reference=base
    assert variants_of([dataclasses.replace(everything, table=same)]) == ["candidate", "base"]


def test_every_variant_is_fitted_with_its_card(audits):
    found = fit_shadows(audits, "two drawn shadows", seed=3)
    assert list(found.weights.variants) == ["both", "candidate", "reference", "base"]
    assert found.variant == "both"
    card = found.weights.card
    assert (card.summary, card.records) == ("two drawn shadows", 240)
    assert [each["seed"] for each in card.audits] == [1, 2]
    assert set(card.control) == set(card.settings["strength"]) == set(card.settings["auroc_in_folds"])
    assert all(strength in STRENGTHS for strength in found.strengths.values())
    assert found.auroc == card.settings["auroc_in_folds"]["both"] > 0.7
    assert abs(card.control["both"]["auroc"] - 0.5) < 0.15
    import json

    again = parse_weights(json.dumps(found.weights.to_json()).encode())
    assert again.digest == found.weights.digest


def test_no_weight_depends_on_the_order_of_the_records():
    audit = drawn(60, per_document=2, roles=(Role.TARGET, Role.BASE))
    order = np.random.default_rng(0).permutation(60)
    found = [fit_shadows([each], "", seed=3) for each in (audit, some(audit, order))]
    assert found[0].weights.digest == found[1].weights.digest
    keyed = [hashlib.sha256(f"key {name}".encode()).hexdigest() for name in audit.clusters]
    renamed = fit_shadows([dataclasses.replace(audit, clusters=keyed)], "", seed=3)  # as units are
    assert renamed.weights.digest == found[0].weights.digest
    alone = dataclasses.replace(audit, clusters=None)
    one, other = (in_order(each) for each in (alone, some(alone, order)))
    assert np.array_equal(one.table, other.table, equal_nan=True)
    assert np.array_equal(one.labels, other.labels)


def test_what_an_audit_has_too_little_of_is_told():
    assert lacking(drawn(60)) is None
    assert str(lacking(drawn(60, per_document=15))).startswith("at least 5 documents of each class, which folds can be")
    assert lacking(drawn(24)) == (
        "at least 20 records of both classes, with all models of the variant both, in every fold and half of them, "
        "got 19"
    )


def test_the_strength_is_the_best_of_the_folds(audits):
    found = fit_shadows(audits, "", seed=3)
    audits = list(map(in_order, audits))
    folds = folds_of_documents(audits, 3)
    tried = [cross_validated(audits, "base", strength, folds) for strength in STRENGTHS]
    assert found.strengths["base"] == STRENGTHS[int(np.argmax(tried))]
