"""What a sample does not show: a few records at the far end of which it holds none, documents memorised as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from spvmia_plugin.metrics.intervals import design_effect, estimate_auroc
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.metrics.tpr import tpr_interval


def labelled(members, others):
    return np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members)


# 300 audits: a true coverage of 95 % stays above 91.2 % with three standard errors
@pytest.mark.parametrize(
    ("m", "n", "share", "before"), [(60, 60, 0.02, 0.65), (20, 1000, 0.04, 0.53), (30, 30, 0.04, 0.67)]
)
def test_members_below_all_others_may_be_missing_from_the_sample(m, n, share, before):
    """Rows that the training left out. `before`: the coverage of an error of what the sample shows."""
    rng = np.random.default_rng(0)
    missed = {"low": 0, "high": 0}
    for _ in range(300):
        scores, labels = labelled(np.where(rng.random(m) < share, -1.0, 1.0) + 0.01 * rng.random(m), rng.random(n) / 2)
        low, high = estimate_auroc(scores, labels, np.arange(m + n)).interval(0.95)
        missed["low"] += low > 1 - share
        missed["high"] += high < 1 - share
    assert missed["low"] < 300 * 0.05
    assert 1 - sum(missed.values()) / 300 >= max(0.91, before + 0.2)


@pytest.mark.parametrize(("m", "n", "of_members", "of_others"), [(1000, 20, 0.1, 0.02), (20, 1000, 0.98, 0.5)])
def test_a_small_class_may_be_alike_by_chance(m, n, of_members, of_others):
    rng = np.random.default_rng(1)
    truth = 0.5 + (of_members - of_others) / 2
    covered = 0
    for _ in range(300):
        scores, labels = labelled((rng.random(m) < of_members) * 1.0, (rng.random(n) < of_others) * 1.0)
        low, high = estimate_auroc(scores, labels, np.arange(m + n)).interval(0.95)
        covered += low <= truth <= high
    assert covered / 300 >= 0.92


def test_what_an_exact_test_does_not_tell_apart_is_no_evidence():
    scores, labels = labelled(np.arange(300) < 31, np.zeros(25))
    assert fisher_exact([[31, 269], [0, 25]]).pvalue > 0.1
    found = compare({"rmia": scores * 1.0}, labels).strongest()
    assert not found.auroc.excludes(0.5)


@pytest.mark.parametrize("n", [20, 250])
def test_perfect_separation_rules_out_what_would_have_been_seen(n):
    scores, labels = labelled(np.arange(n) + n, np.arange(n))
    low, high = estimate_auroc(scores * 1.0, labels, np.arange(2 * n)).interval(0.95)
    assert (low, high) == (pytest.approx(0.025 ** (1 / n)), 1)  # Clopper and Pearson's limit after none of n
    low, high = estimate_auroc(-scores * 1.0, labels, np.arange(2 * n)).interval(0.95)
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / n)))


@pytest.mark.parametrize("share", [0.03, 0.06])
def test_documents_that_are_memorised_whole_may_be_missing_from_the_sample(share):
    """Without the document that may be there too, 71 % of these intervals held the TPR at 1 % with a share of 3 %."""
    rng = np.random.default_rng(2)
    documents, each, fpr = 40, 10, 0.01
    labels = np.arange(2 * documents * each) < documents * each
    codes = np.arange(len(labels)) // each
    truth, covered = share + (1 - share) * fpr, 0
    for _ in range(150):
        memorised = rng.random(2 * documents) < share
        low, high = tpr_interval(rng.random(len(labels)) + 2 * (labels & memorised[codes]), labels, codes, fpr, 0.95)
        covered += low <= truth <= high
    assert covered / 150 >= 0.95


def test_the_design_effect_with_a_document_that_is_not_there():
    rng = np.random.default_rng(3)
    hits = rng.random(200) < 0.02
    assert design_effect(hits, np.arange(200), unseen=True) == 1  # one record a document: nothing changes
    codes = np.repeat(np.arange(20), 10)
    seen = design_effect(hits, codes)
    assert seen < 2
    assert 7 < design_effect(hits, codes, unseen=True) < 10
    few = np.repeat([True, False], 10)  # as if the records of a document were copies, at most
    assert design_effect(few, codes[:20], unseen=True) == design_effect(np.zeros(20, dtype=bool), codes[:20]) == 10
    # Where documents differ anyway one more hardly counts.
    whole = np.repeat(rng.random(400) < 0.5, 10)
    many = np.repeat(np.arange(400), 10)
    assert design_effect(whole, many, unseen=True) == pytest.approx(design_effect(whole, many), rel=0.02)
    half = rng.random(4000) < 0.5
    naive = np.append(half, np.ones(10, dtype=bool))
    assert design_effect(half, many, unseen=True) == design_effect(naive, np.append(many, np.full(10, 400)))
