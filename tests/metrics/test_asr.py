"""The interval of the attack success rate: against a bootstrap over documents, at its ends, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spvmia_plugin.metrics.asr import asr_interval
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.roc import attack_success_rate
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.util.schema import as_json
from tests.metrics.simulation import ASRS, UNEVEN, asr_coverage, binormal_audit, even


def naive_spread(scores, labels, documents, times, rng):
    """Standard deviation of the ASR over samples in which documents of each class are drawn with replacement."""
    drawn = []
    for _ in range(times):
        sides = [np.unique(documents[labels == side]) for side in (True, False)]
        picks = np.concatenate([rng.choice(side, len(side)) for side in sides])
        rows = np.concatenate([np.flatnonzero(documents == pick) for pick in picks])
        drawn.append(attack_success_rate(scores[rows], labels[rows]))
    return np.std(drawn)


@pytest.mark.parametrize("per_document", [1, 5])
@pytest.mark.parametrize("spread_of_members", [1.0, 3.0])
def test_it_is_as_wide_as_a_bootstrap_over_documents(per_document, spread_of_members):
    rng = np.random.default_rng(0)
    scores, labels, documents = binormal_audit(500, 0.5, per_document, rng)
    scores = np.where(labels, spread_of_members * scores + 1.5, scores)
    low, high = asr_interval(scores, labels, documents, 0.95)
    assert low < attack_success_rate(scores, labels) < high
    expected = 2 * 1.97 * naive_spread(scores, labels, documents, 300, rng)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_of_an_attack_that_says_yes_or_no_alone_it_is_the_auroc():
    rng = np.random.default_rng(1)
    labels = np.arange(1000) < 500
    accused = np.where(labels, np.arange(1000) % 500 < 400, np.arange(1000) % 500 < 100).astype(float)
    order = rng.permutation(1000)
    accused, labels = accused[order], labels[order]
    assert attack_success_rate(accused, labels) == pytest.approx(0.8)
    of_auroc = estimate_auroc(accused, labels, np.arange(1000)).interval(0.95)
    assert asr_interval(accused, labels, np.arange(1000), 0.95) == pytest.approx(of_auroc, abs=0.006)


def test_apart_alike_and_reversed():
    labels = np.arange(400) < 200
    low, high = asr_interval(labels * 1000.0 + np.arange(400), labels, np.arange(400), 0.95)
    assert high == 1
    assert 1 - 4 / 200 < low < 1 - 1 / 200
    below = asr_interval(labels * -1000.0 + np.arange(400), labels, np.arange(400), 0.95)
    assert below == pytest.approx((0, 1 - low))
    low, high = asr_interval(np.zeros(400), labels, np.arange(400), 0.95)
    assert low < 0.5 < high


def test_a_higher_confidence_is_wider_and_so_are_copies_by_document():
    scores, labels, _ = binormal_audit(200, 0.8, 1, np.random.default_rng(2))
    narrow, wide = (asr_interval(scores, labels, np.arange(400), level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    copies = (np.repeat(values, 4) for values in (scores, labels, np.arange(400)))
    assert asr_interval(*copies, 0.5) == pytest.approx(narrow, abs=1e-9)


def test_one_document_a_class_and_an_empty_class_have_none():
    scores, labels, _ = binormal_audit(50, 0.8, 1, np.random.default_rng(3))
    assert all(math.isnan(end) for end in summarise(scores, labels, labels).asr_interval)
    assert as_json(summarise(scores[:50], labels[:50]))["asr_interval"] == [None, None]


def test_it_holds_the_truth_in_few_audits():
    # 300 audits: a true coverage of 95 % stays above 91 % with three standard errors
    for asr, sizes in ((0.5, (even(250),) * 2), (0.95, (even(250),) * 2), (0.8, UNEVEN["Zipf, 20 documents"])):
        covered, _ = asr_coverage(*sizes, asr, 300, seed=1)
        assert covered >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("asr", ASRS)
@pytest.mark.parametrize("spread_of_members", [1.0, 3.0])
@pytest.mark.parametrize("n", [100, 250, 1000])
def test_coverage(n, asr, spread_of_members):
    covered, _ = asr_coverage(even(n), even(n), asr, 2000, seed=0, spread_of_members=spread_of_members)
    assert covered >= 0.91
