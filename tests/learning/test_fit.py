"""Weights that are fitted on some audits: what carries over to others, and what permuted labels leave of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.attacks.learned import Learned, standardised
from spvmia_plugin.attacks.pooled import FEATURE_NAMES
from spvmia_plugin.attacks.weights import FILE, names_of, read_weights, write_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import STRENGTH, Control, Labelled, control, fit, learn, permuted_labels
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.signals import Role
from tests.attacks.simulated import simulate


def audit(n=200, tokens=32, *, per_document=1, **drawn) -> Labelled:
    records, labels = simulate(n, tokens, **drawn)
    rows = Learned().rows(records)
    documents = [f"{i % 2}:{i // 2 // per_document}" for i in range(n)]
    return Labelled(np.array(rows), labels, FEATURE_NAMES, documents, {"base": "drawn"})


def test_the_fit_is_that_of_its_formula():
    """The gradient of log-loss, each record by its weight, plus w / C, is 0."""
    audits = [audit(seed=1), audit(900, seed=2)]
    found = fit([a.table for a in audits], [a.labels for a in audits], FEATURE_NAMES, "base")
    assert found.names == names_of("base")
    w = np.array(found.weights)
    columns = [FEATURE_NAMES.index(name) for name in found.names]
    z = np.concatenate([np.column_stack([standardised(a.table[:, c]) for c in columns]) for a in audits])
    y = np.concatenate([a.labels for a in audits]).astype(float)
    counts = np.r_[np.ones(200), np.full(900, 400 / 900)]
    # the intercept, which the score does without, is where the mean residual is 0
    low, high = -5.0, 5.0
    for _ in range(100):
        middle = (low + high) / 2
        residual = counts * (1 / (1 + np.exp(-(z @ w + middle))) - y)
        low, high = (middle, high) if residual.sum() < 0 else (low, middle)
    assert z.T @ residual + w * len(w) / STRENGTH == pytest.approx(np.zeros(len(w)), abs=1e-2)
    assert np.abs(w).max() > 1e-3


def test_a_weaker_strength_gives_smaller_weights():
    one = audit(seed=1)
    weak, strong = (fit([one.table], [one.labels], FEATURE_NAMES, "both", s).weights for s in (1e-3, 1.0))
    assert np.linalg.norm(weak) < np.linalg.norm(strong)


def test_weights_carry_over_to_another_length_and_strength(tmp_path):
    fitted = learn([audit(seed=1), audit(seed=2, scale=1.5)], "drawn", fits=2)
    write_weights(tmp_path / FILE, fitted)
    records, labels = simulate(400, (60, 200), seed=9, scale=3.0, learnt=0.15)
    scores = Learned(shadow=str(tmp_path)).score_many(records)
    assert auroc(np.array(scores), labels) > 0.8


def test_permuted_labels_leave_chance():
    audits = [audit(seed=seed, per_document=3) for seed in range(3)]
    found = control(audits, "both", fits=24)
    assert found.fits == 24
    assert abs(found.auroc - 0.5) < 3 * found.sd / math.sqrt(24) + 0.01
    assert found.sd > 0.01
    assert found == control(audits, "both", fits=24)
    assert found != control(audits, "both", fits=24, seed=1)


def test_the_control_of_one_audit_is_on_its_other_half():
    found = control([audit(120, per_document=4)], "reference", fits=6)
    assert 0.2 < found.auroc < 0.8
    assert np.isnan(control([audit(120)], "base", fits=1).sd)


def test_the_control_sees_labels_that_are_not_permuted(monkeypatch):
    """If permuting did nothing, the control would be far from chance: it can fail."""
    monkeypatch.setattr("spvmia_plugin.learning.permuted_labels", lambda labels, clusters, rng: labels)
    assert control([audit(seed=seed) for seed in range(3)], "both", fits=3).auroc > 0.85


def test_labels_are_permuted_by_document():
    """Documents of unequal size, too: none is split between the classes, and as many documents are members."""
    sizes = [1, 7, 2, 5, 3, 4, 6, 1, 9, 2]
    clusters = [document for document, size in enumerate(sizes) for _ in range(size)]
    labels = np.array([document < 5 for document in clusters])
    drawn = [permuted_labels(labels, clusters, np.random.default_rng(seed)) for seed in range(20)]
    for permuted in drawn:
        by_document = [set(permuted[[c == document for c in clusters]].tolist()) for document in range(len(sizes))]
        assert all(len(classes) == 1 for classes in by_document)
        assert sum(True in classes for classes in by_document) == 5
    assert len({permuted.tobytes() for permuted in drawn}) > 15


def test_a_document_of_both_classes_counts_as_that_of_most_of_its_records():
    labels, clusters = np.array([True, True, False, False]), ["a", "a", "a", "b"]
    drawn = {tuple(permuted_labels(labels, clusters, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert drawn == {(True, True, True, False), (False, False, False, True)}


def test_a_card_says_what_was_fitted_on():
    audits = [audit(60, seed=1), replace(audit(60, seed=2), clusters=None)]
    fitted = learn(audits, "two drawn audits", ("base", "both"), fits=2)
    assert fitted.variants.keys() == {"base", "both"}
    card = fitted.card
    assert (card.summary, card.records) == ("two drawn audits", 120)
    assert card.audits == ({"base": "drawn", "members": 30, "nonmembers": 30},) * 2
    assert card.settings["strength"] == STRENGTH
    assert card.control["both"].keys() == set(Control.__dataclass_fields__)
    assert card.versions["scikit-learn"]


def test_records_without_all_models_are_left_out(tmp_path):
    one = audit()
    lacking = one.table.copy()
    lacking[:50, [name.startswith("candidate.") for name in FEATURE_NAMES]] = np.nan
    got = fit([lacking], [one.labels], FEATURE_NAMES, "both")
    assert got == fit([one.table[50:]], [one.labels[50:]], FEATURE_NAMES, "both")
    assert fit([lacking], [one.labels], FEATURE_NAMES, "base") == fit([one.table], [one.labels], FEATURE_NAMES, "base")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variant": "most"}, "learned: expected one of the variants both, candidate, reference, base, got 'most'"),
        ({"tables": []}, "learned: expected audits with their labels, got 0 and 1"),
        ({"labels": []}, "learned: expected audits with their labels, got 1 and 0"),
        ({"strength": 0}, "learned: expected a strength > 0, got 0"),
        ({"strength": math.nan}, "learned: expected a strength > 0, got nan"),
        ({"names": FEATURE_NAMES[1:]}, "learned: expected the feature target.mean, got none"),
        ({"labels": [np.ones(60, bool)]}, "records of both classes with all models of the variant both, got 60, 60 of"),
        ({"tables": [np.full((60, len(FEATURE_NAMES)), np.nan)]}, "of the variant both, got 0, 0 of them members, in"),
    ],
)
def test_what_cannot_be_fitted_is_told(changes, told):
    one = audit(60)
    given = {"tables": [one.table], "labels": [one.labels], "names": FEATURE_NAMES, "variant": "both"}
    with pytest.raises(SpvmiaError) as refused:
        fit(**{**given, **changes})
    assert told in str(refused.value)


def test_a_variant_without_its_models_is_told():
    lacking = audit(60, roles=(Role.TARGET, Role.BASE, Role.REFERENCE))
    with pytest.raises(SpvmiaError, match="with all models of the variant candidate, got 0"):
        learn([lacking], "drawn", ("reference", "candidate"), fits=2)


def test_weights_of_a_fit_are_read_as_they_were_written(tmp_path):
    fitted = learn([audit(60)], "drawn", ("base",), fits=2)
    write_weights(tmp_path / FILE, fitted)
    assert read_weights(tmp_path / FILE).variants == fitted.variants
