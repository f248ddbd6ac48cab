from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.roc import attack_success_rate, auroc, privacy_score, roc_curve
from spvmia_plugin.metrics.tpr import tpr_at_fpr

floats = st.floats(-1e6, 1e6, allow_nan=False, width=32)
few_values = st.sampled_from([-1.0, 0.0, 0.5, 2.0])


@st.composite
def audits(draw):
    """Scores with and without ties, both classes present."""
    scores = draw(st.lists(draw(st.sampled_from([floats, few_values])), min_size=2, max_size=60))
    labels = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    labels[0], labels[-1] = True, False
    return np.array(scores), np.array(labels)


@given(audits())
@settings(max_examples=150)
def test_equals_scikit_learn(audit):
    scores, labels = audit
    fpr, tpr, thresholds = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    ours = roc_curve(scores, labels)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    np.testing.assert_array_equal(ours.thresholds, thresholds)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


@given(audits(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_the_records_changes_no_bit(audit, random):
    """The harness's row and the attack that leads are of the same records in two orders."""
    scores, labels = audit
    order = list(range(len(scores)))
    random.shuffle(order)
    codes = np.arange(len(scores))
    found = {auroc(scores, labels), auroc(scores[order], labels[order])}
    assert {estimate_auroc(scores[order], labels[order], codes).auroc} == found


@given(audits(), st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9]))
@settings(max_examples=150)
def test_tpr_equals_its_definitions(audit, fpr):
    scores, labels = audit
    found = tpr_at_fpr(scores, labels, fpr)
    if (~labels).sum() * fpr < 1:
        assert math.isnan(found.tpr)
        assert math.isnan(found.threshold)
        assert "at least" in found.reason
        return
    points = [
        (np.mean(scores[labels] >= t), np.mean(scores[~labels] >= t), t)
        for t in [math.inf, *scores]
        if np.mean(scores[~labels] >= t) <= fpr
    ]
    assert found.largest == max(points)[0]
    assert found.realised_fpr <= fpr
    assert found.largest == np.mean(scores[labels] >= found.threshold)
    assert found.realised_fpr == np.mean(scores[~labels] >= found.threshold)
    assert found.reason is None
    assert found.tpr == pytest.approx(tpr_by_definition(scores.tolist(), labels.tolist(), fpr))


def tpr_by_definition(scores, labels, fpr):
    """The TPR read at rank fpr * (n + 1) of the n non-members, straight between two ranks."""
    members = [score for score, label in zip(scores, labels, strict=True) if label]
    others = sorted((score for score, label in zip(scores, labels, strict=True) if not label), reverse=True)
    ranks = [math.inf, *others, -math.inf]
    rank = round(fpr * (len(others) + 1), 9)
    shares = [sum(score > ranks[at] for score in members) / len(members) for at in (math.floor(rank), math.ceil(rank))]
    return shares[0] + (rank - math.floor(rank)) * (shares[1] - shares[0])


@pytest.mark.parametrize("n", [100, 137, 150, 1000])
def test_a_guess_gets_the_fpr_on_average(n):
    """The largest TPR with an FPR of at most 1 % gives it (k + 1) / (n + 1), 1.98 % with 100 non-members."""
    rng = np.random.default_rng(n)
    labels = np.arange(2 * n) < n
    found = [tpr_at_fpr(rng.standard_normal(2 * n), labels, 0.01) for _ in range(1500)]
    error = math.sqrt(2 * 0.01 / n / 1500)
    assert np.mean([each.tpr for each in found]) == pytest.approx(0.01, abs=4 * error)
    expected = (math.floor(n * 0.01) + 1) / (n + 1)
    assert np.mean([each.largest for each in found]) == pytest.approx(expected, abs=4 * error)


def test_a_bound_that_is_not_exact_in_binary_still_counts_whole_records():
    # 0.07 * 100 = 7.000000000000001 and 0.29 * 100 = 28.999999999999996
    scores, labels = np.arange(200.0), np.arange(200) >= 100
    for percent in (1, 7, 29, 57):
        assert tpr_at_fpr(-scores, labels, percent / 100).realised_fpr == percent / 100
        assert tpr_at_fpr(scores, labels, percent / 100).tpr == 1


def test_too_few_nonmembers_are_told_with_the_number_needed():
    scores, labels = np.arange(199.0), np.arange(199) < 100
    assert tpr_at_fpr(scores, labels, 0.01).reason == (
        "99 non-members cannot resolve an FPR of 1 %: at least 100 are needed"
    )
    assert "0.1 %: at least 1000" in tpr_at_fpr(scores, labels, 0.001).reason
    assert tpr_at_fpr([1.0], [True], 0.01).reason == "no non-member has a score"
    assert tpr_at_fpr([1.0], [False], 0.01).reason == "no member has a score"


def test_a_tie_above_the_bound_is_left_out_as_a_whole():
    scores = np.array([3.0, 3.0, 3.0, *np.zeros(98)])
    labels = np.array([True, False, False, *[False] * 98])
    found = tpr_at_fpr(scores, labels, 0.01)
    assert (found.tpr, found.largest, found.realised_fpr, found.threshold) == (0.0, 0.0, 0.0, math.inf)


def test_empty_classes_are_nan():
    for scores, labels in (([], []), ([1.0], [True]), ([1.0], [False])):
        assert math.isnan(auroc(scores, labels))
        assert math.isnan(attack_success_rate(scores, labels))
    assert np.isnan(roc_curve([1.0], [True]).fpr).all()
    np.testing.assert_array_equal(roc_curve([1.0], [True]).tpr, [0, 1])


@given(audits())
@settings(max_examples=100)
def test_asr_is_where_the_curve_meets_the_antidiagonal(audit):
    scores, labels = audit
    asr = attack_success_rate(scores, labels)
    fpr, tpr, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    crossings = []
    for f0, f1, t0, t1 in zip(fpr, fpr[1:], tpr, tpr[1:], strict=False):
        along = (1 - f0 - t0) / (f1 + t1 - f0 - t0)
        if -1e-9 <= along <= 1 + 1e-9:
            assert f0 + along * (f1 - f0) == pytest.approx(1 - asr)  # FPR = 1 - TPR: the equal error rate
            crossings.append(t0 + along * (t1 - t0))
    assert crossings
    np.testing.assert_allclose(crossings, asr)


def test_asr_of_known_cases():
    labels = np.array([True] * 4 + [False] * 4)
    assert attack_success_rate([5, 6, 7, 8, 1, 2, 3, 4], labels) == 1
    assert attack_success_rate([1, 2, 3, 4, 5, 6, 7, 8], labels) == 0
    assert attack_success_rate(np.ones(8), labels) == 0.5
    assert attack_success_rate([5, 6, 7, 1, 8, 2, 3, 4], labels) == 0.75


def test_privacy_score_is_the_same_for_an_attack_and_its_negative():
    assert privacy_score(0.5) == 1
    assert privacy_score(1.0) == privacy_score(0.0) == 0
    assert privacy_score(0.6) == pytest.approx(privacy_score(0.4))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [True], "got shapes"),
        ([[1.0]], [[True]], "got shapes"),
        ([1.0, math.nan], [True, False], "got nan at index 1"),
        ([math.inf, 1.0], [True, False], "got inf at index 0"),
    ],
)
def test_bad_scores_are_named(scores, labels, message):
    for function in (auroc, roc_curve, attack_success_rate):
        with pytest.raises(SpvmiaError, match=message):
            function(scores, labels)
