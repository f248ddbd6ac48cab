"""Intervals next to an AUROC of 1, and of documents of very different sizes. Truth known by construction; seeded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.paired import gains
from spvmia_plugin.metrics.several import strongest
from spvmia_plugin.metrics.summary import summarise
from tests.metrics.simulation import NEAR_ONE, UNEVEN, auroc_coverage, even, tpr_coverage, uneven_audit

HALF = UNEVEN["one of each class has half"]


def attacks(sizes, aurocs, rng):
    """Scores of several attacks on the same records, errors with a correlation of about 0.5; labels, documents."""
    shared, labels, documents = uneven_audit(*sizes, 0.5, 0.5, rng)
    scores = {}
    for number, auroc in enumerate(aurocs):
        own, _, _ = uneven_audit(*sizes, 0.5, 0.5, rng)
        scores[f"a{number}"] = np.sqrt(0.5) * (shared + own) + np.sqrt(2) * norm.ppf(auroc) * labels
    return scores, labels, documents


# 300 audits: a true coverage of 95 % stays above 91.2 % with three standard errors
@pytest.mark.parametrize(("n", "auroc"), [(200, 0.9999), (250, 0.9995), (100, 0.99)])
def test_few_audits_next_to_one(n, auroc):
    covered, width = auroc_coverage(even(n), even(n), auroc, 300, seed=1)
    assert covered >= 0.92
    assert width < 4.5 / n  # 3.7 in n may lie at the far end without one of them in the sample


@pytest.mark.parametrize("documents", [name for name in UNEVEN if name != "1 to 5 records"])
@pytest.mark.parametrize("auroc", [0.7, 0.95])
def test_few_audits_of_uneven_documents(documents, auroc):
    covered, width = auroc_coverage(*UNEVEN[documents], auroc, 300, seed=1)
    assert covered >= 0.92
    assert width < 0.7


@pytest.mark.parametrize("documents", ["Zipf, 60 documents", "one of each class has half"])
def test_the_tpr_of_uneven_documents(documents):
    covered, width = tpr_coverage(*UNEVEN[documents], 0.95, 150, seed=1)
    assert covered >= 0.92
    assert width < 0.85


def test_a_truth_of_one_is_never_left_out():
    labels = np.arange(200) < 100
    for seed in range(20):
        scores = np.random.default_rng(seed).random(200) + 2 * labels
        assert estimate_auroc(scores, labels, np.arange(200)).interval(0.95)[1] == 1


def test_a_few_members_that_were_not_learnt_leave_the_truth_inside():
    """Not the distance between two bells: 1 member in 1,000 looks like any other text, all others are told apart."""
    rng = np.random.default_rng(0)
    truth, held = 1 - 0.001 / 2, 0
    for _ in range(300):
        labels = np.arange(500) < 250
        learnt = labels & (rng.random(500) >= 0.001)
        low, high = estimate_auroc(rng.random(500) + learnt, labels, np.arange(500)).interval(0.95)
        held += low <= truth <= high
    assert held / 300 >= 0.92


@pytest.mark.parametrize("sizes", [(even(200),) * 2, HALF], ids=["next to one", "uneven"])
def test_the_strongest_and_its_gain_hold_there_too(sizes):
    rng = np.random.default_rng(2)
    truth = 0.9999 if len(sizes[0]) == 200 else 0.8
    held, gained = 0, 0
    for seed in range(60):
        scores, labels, documents = attacks(sizes, [truth] * 4, rng)
        found = strongest(scores, labels, documents, seed=seed).auroc
        held += found.low <= truth <= found.high
        low, high = gains(scores["a0"], scores["a1"], labels, documents)[0].interval
        gained += low <= 0 <= high
    assert held / 60 >= 0.88
    assert gained / 60 >= 0.88


def test_documents_are_counted_by_their_effective_number():
    """A hundred documents of which one has most of the records are few; what is said names how uneven they are."""
    sizes = np.r_[300, even(99)]
    scores, labels, documents = uneven_audit(sizes, even(200), 0.8, 0.5, np.random.default_rng(0))
    found = summarise(scores, labels, documents)
    (warning,) = [warning for warning in found.warnings if "documents" in warning]
    assert "100 documents, of such different sizes that they count as only 1.8 (the largest holds 75 %)" in warning
    assert "intervals are wide" in warning
    one_size = summarise(*uneven_audit(np.full(20, 5), even(200), 0.8, 0.5, np.random.default_rng(0)))
    assert not any("documents" in warning for warning in one_size.warnings)
    codes = cluster_codes(documents, len(documents))
    assert estimate_auroc(scores, labels, codes).df < estimate_auroc(scores, labels, np.arange(len(labels))).df / 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200, 250, 1000])
@pytest.mark.parametrize("auroc", NEAR_ONE)
def test_coverage_next_to_one(n, auroc):
    covered, width = auroc_coverage(even(n), even(n), auroc, 1000, seed=0)
    assert covered >= 0.92
    assert width < 2.5 / n or auroc < 0.999


@pytest.mark.slow
@pytest.mark.parametrize("documents", UNEVEN)
@pytest.mark.parametrize("auroc", [0.7, 0.95])
def test_coverage_of_the_tpr_of_uneven_documents(documents, auroc):
    covered, _ = tpr_coverage(*UNEVEN[documents], auroc, 1000, seed=0)
    assert covered >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("documents", UNEVEN)
@pytest.mark.parametrize("auroc", [0.5, 0.7, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9])
def test_coverage_of_uneven_documents(documents, auroc, correlation):
    covered, _ = auroc_coverage(*UNEVEN[documents], auroc, 1000, seed=0, correlation=correlation)
    assert covered >= 0.92
