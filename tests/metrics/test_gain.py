"""Paired differences of two attacks, against naive implementations and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.paired import _drawn_ends, gains
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.metrics.tpr import Bootstrap, tpr_at_fpr
from spvmia_plugin.util.schema import as_json
from tests.metrics.simulation import gain_coverage

LABELS = np.arange(400) < 200
DOCUMENTS = np.arange(400) // 2


def draw(seed=0):
    rng = np.random.default_rng(seed)
    theirs = rng.standard_normal(400) + 0.8 * LABELS
    return 0.7 * theirs + 0.7 * rng.standard_normal(400) + 0.5 * LABELS, theirs


def test_the_values_are_the_differences():
    ours, theirs = draw()
    of_auroc, of_tpr = gains(ours, theirs, LABELS)
    assert of_auroc.value == pytest.approx(auroc(ours, LABELS) - auroc(theirs, LABELS))
    assert of_tpr.value == pytest.approx(tpr_at_fpr(ours, LABELS, 0.01).tpr - tpr_at_fpr(theirs, LABELS, 0.01).tpr)
    assert of_auroc.interval[0] < of_auroc.value < of_auroc.interval[1]
    assert of_tpr.interval[0] <= of_tpr.value <= of_tpr.interval[1]


def test_the_auroc_interval_is_that_of_a_bootstrap_over_documents():
    ours, theirs = draw()
    rng = np.random.default_rng(1)
    by_class = [np.unique(DOCUMENTS[member == LABELS]) for member in (True, False)]
    drawn = []
    for _ in range(1000):
        picks = np.concatenate([rng.choice(documents, len(documents)) for documents in by_class])
        rows = (2 * picks[:, None] + np.arange(2)).ravel()
        drawn.append(auroc(ours[rows], LABELS[rows]) - auroc(theirs[rows], LABELS[rows]))
    low, high = gains(ours, theirs, LABELS, DOCUMENTS)[0].interval
    assert (high - low) / 2 == pytest.approx(1.97 * np.std(drawn), rel=0.1)


def test_an_attack_gains_nothing_over_itself_on_another_scale():
    ours, _ = draw()
    for gain in gains(ours, 3 * ours + 1, LABELS):
        assert (gain.value, gain.interval) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("gap", [0.0, 50.0])
def test_two_attacks_that_both_find_all_or_nothing_are_not_surely_equal(gap):
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random(400) + gap * LABELS for _ in range(2))
    if not gap:
        ours[399] = theirs[398] = ours[398] = theirs[399] = 2.0  # two others on top of all: both find no member
        ours[397] = theirs[396] = 2.0
    of_auroc, of_tpr = gains(ours, theirs, LABELS)
    assert of_tpr.value == 0
    assert -0.03 < of_tpr.interval[0] < 0 < of_tpr.interval[1] < 0.03
    assert of_auroc.interval[0] < 0 < of_auroc.interval[1]


def test_pairing_narrows_the_interval():
    ours, theirs = draw()
    paired = gains(ours, theirs, LABELS)[0].interval
    stranger = gains(ours, draw(seed=9)[1], LABELS)[0].interval
    assert paired[1] - paired[0] < 0.8 * (stranger[1] - stranger[0])


def test_what_is_not_resolved_has_a_reason_and_no_number():
    ours, theirs = draw()
    few = np.r_[0:40, 200:240]
    of_auroc, of_tpr = gains(ours[few], theirs[few], LABELS[few])
    assert math.isfinite(of_auroc.value)
    assert as_json(of_tpr) == {
        "value": None,
        "interval": [None, None],
        "reason": "40 non-members cannot resolve an FPR of 1 %: at least 100 are needed",
    }


def test_one_document_a_class_has_a_value_and_no_interval():
    ours, theirs = draw()
    of_auroc, _ = gains(ours, theirs, LABELS, ~LABELS)
    assert math.isfinite(of_auroc.value)
    assert math.isnan(of_auroc.interval[0])
    assert of_auroc.reason == "fewer than two documents in a class: no standard error"


def test_one_class_alone_has_nothing():
    of_auroc, of_tpr = gains([1.0, 2.0], [2.0, 1.0], [True, True])
    assert of_auroc is of_tpr
    assert of_auroc.reason == "a class has no record"


def test_scores_of_other_records_are_an_error():
    with pytest.raises(SpvmiaError, match="scores: expected one score for each label"):
        gains([1.0, 2.0], [1.0], [True, False])


def test_far_out_the_interval_reaches_further_than_the_replicates_do():
    """Many attacks and variants ask for .9998 each; of 400 replicates that percentile is the largest one."""
    ours, theirs = draw()
    codes, drawn = np.arange(400), Bootstrap(LABELS, np.arange(400), 0).tprs((ours, theirs), (0.05,))
    drawn = drawn[0, 0] - drawn[1, 0]
    reaches = [gains(ours, theirs, LABELS, codes, fpr=0.05, confidence=c)[1] for c in (0.95, 0.998, 0.9998, 0.99999)]
    assert reaches[0].interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)))
    widths = [high - low for low, high in (gain.interval for gain in reaches)]
    assert widths == sorted(widths)
    low, high = reaches[2].interval
    errors = stats.t.ppf(0.9999, 10 * 0.05 * 200)
    assert low <= reaches[2].value - errors * np.std(drawn) < drawn.min()
    assert high >= reaches[2].value + errors * np.std(drawn) > drawn.max()


def test_a_lopsided_bootstrap_stays_lopsided_far_out():
    drawn = np.random.default_rng(0).exponential(size=400) - 1
    low, high = _drawn_ends(drawn, 0.0, 0.001, 25)
    assert high > 1.25 * -low
    assert high == pytest.approx(np.quantile(drawn, 0.975) * stats.t.ppf(0.999, 250) / 1.96, rel=1e-4)
    assert _drawn_ends(drawn, 0.0, 0.001, 0.2)[1] == pytest.approx(high * 4.144 / 3.122, rel=1e-3)  # at 10 degrees


def test_coverage_of_few_audits():
    of_auroc, of_tpr = gain_coverage(250, 0.78, 0.82, 1, 200, seed=1)
    assert of_auroc >= 0.89
    assert of_tpr >= 0.89


@pytest.mark.slow
@pytest.mark.parametrize("n", [250, 1000])
@pytest.mark.parametrize(("theirs", "ours"), [(0.6, 0.6), (0.78, 0.82), (0.7, 0.95), (0.95, 0.97), (0.999, 0.9999)])
@pytest.mark.parametrize("per_document", [1, 5])
def test_coverage(n, theirs, ours, per_document):
    of_auroc, of_tpr = gain_coverage(n, theirs, ours, per_document, 500, seed=0)
    assert of_auroc >= 0.905  # 500 audits: a true coverage of 95 % stays within 4 standard errors
    assert of_tpr >= 0.905
