from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.names import METRICS, WITH_ERROR
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.util.schema import as_json
from tests.metrics.simulation import binormal_audit


def audit(n_members, n_nonmembers, shift=1.0, seed=0):
    labels = np.arange(n_members + n_nonmembers) < n_members
    return np.random.default_rng(seed).standard_normal(len(labels)) + shift * labels, labels


def test_numbers_of_a_full_audit():
    scores, labels, documents = binormal_audit(1000, 0.8, 5, np.random.default_rng(0))
    found = summarise(scores, labels, [f"doc {d}" for d in documents], seed=1)
    assert found.auroc_interval[0] < found.auroc < found.auroc_interval[1]
    assert found.privacy_score == pytest.approx(1 - 2 * abs(found.auroc - 0.5))
    assert (found.n_members, found.n_nonmembers, found.n_clusters) == (1000, 1000, 400)
    for tpr, fpr in ((found.tpr_at_1pct_fpr, 0.01), (found.tpr_at_0_1pct_fpr, 0.001)):
        assert tpr.interval[0] <= tpr.value <= tpr.interval[1]
        assert tpr.realised_fpr == fpr
        assert tpr.stderr > 0
        assert tpr.largest == np.mean(scores[labels] >= tpr.threshold)
        assert abs(tpr.value - tpr.largest) < 0.02
    assert found.warnings == ()
    assert found.reason is None


def test_json_names_the_metrics_and_has_no_nan():
    found = summarise(*audit(50, 150))
    written = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert written["auroc_interval"] == list(found.auroc_interval)
    assert written["tpr_at_0.1pct_fpr"]["value"] is None
    assert written["tpr_at_0.1pct_fpr"]["interval"] == [None, None]
    assert written["tpr_at_1pct_fpr"]["value"] == found.tpr_at_1pct_fpr.value
    assert written["warnings"] == ["150 non-members cannot resolve an FPR of 0.1 %: at least 1000 are needed"]


def test_the_harness_gets_every_number_by_its_name():
    found = summarise(*audit(50, 1000))
    errors = {metric.stderr_key for metric in WITH_ERROR}
    assert found.values().keys() == {*METRICS, *errors} - {"blind_auroc", "epsilon_lb"}
    tenth = found.tpr_at_0_1pct_fpr
    assert found.values()["tpr_at_0.1pct_fpr"] == tenth.value
    assert found.values()["tpr_at_0.1pct_fpr_stderr"] == tenth.stderr
    assert [metric.fpr for metric in found.tprs] == [0.05, 0.01, 0.001]


def test_thirty_nonmembers_resolve_neither_rate():
    found = summarise(*audit(1000, 30))
    assert math.isnan(found.tpr_at_1pct_fpr.value)
    assert math.isnan(found.tpr_at_1pct_fpr.stderr)
    assert "30 non-members cannot resolve an FPR of 1 %" in found.warnings[0]
    assert len(found.warnings) == 2
    assert found.auroc > 0.5


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([], "no record"), ([True, True], "no non-member"), ([False, False], "no member")],
)
def test_an_empty_class_leaves_everything_nan(labels, reason):
    found = summarise(np.arange(float(len(labels))), labels)
    written = as_json(found)
    assert reason in found.reason
    assert found.warnings == (found.reason,)
    assert [written[key] for key in ("auroc", "auroc_stderr", "asr", "privacy_score")] == [None] * 4
    assert written["tpr_at_1pct_fpr"]["reason"].startswith("no ")
    assert written["auroc_interval"] == [None, None]


def test_few_documents_and_single_documents_are_told():
    scores, labels = audit(200, 200)
    few = summarise(scores, labels, np.arange(400) // 20)
    assert any("only 10 documents" in warning for warning in few.warnings)
    one = summarise(scores, labels, np.where(labels, 0, np.arange(400)))
    assert any("fewer than two documents" in warning for warning in one.warnings)
    assert math.isnan(one.auroc_stderr)
    assert not math.isnan(one.auroc)


def test_constant_scores_and_reversed_classes_are_told():
    labels = np.arange(400) < 200
    assert any("all scores are equal" in warning for warning in summarise(np.ones(400), labels).warnings)
    tied = "one and the same score"
    mostly = np.where(np.arange(400) % 100 < 51, 0.0, np.arange(400.0))
    assert any(f"51 % of the records have {tied}" in warning for warning in summarise(mostly, labels).warnings)
    half = np.where(np.arange(400) % 2, 0.0, np.arange(1.0, 401.0))
    assert not any(tied in warning for warning in summarise(half, labels).warnings)
    reversed_ = summarise(*audit(200, 200, shift=-1.0))
    assert any("below 0.5" in warning for warning in reversed_.warnings)


def test_confidence_widens_every_interval():
    narrow, wide = (summarise(*audit(500, 500), confidence=level) for level in (0.5, 0.99))
    assert wide.auroc_interval[0] < narrow.auroc_interval[0]
    assert wide.tpr_at_1pct_fpr.interval[1] > narrow.tpr_at_1pct_fpr.interval[1]


def test_unscored_records_have_to_be_left_out():
    with pytest.raises(SpvmiaError, match="leave unscored records out"):
        summarise([math.nan, 1.0], [True, False])


def test_groups_of_the_harness_take_these_errors():
    # lm-eval's unweighted mean over tasks: sqrt(sum of squares) / k, on plain floats
    metrics = pytest.importorskip("lm_eval.api.metrics")
    if not hasattr(metrics, "unweighted_mean_stderr"):
        pytest.skip("lm-eval 0.5 has no such function")
    errors = [summarise(*audit(200, 200, seed=seed)).auroc_stderr for seed in range(3)]
    assert all(isinstance(error, float) for error in errors)
    assert metrics.unweighted_mean_stderr(errors) == pytest.approx(math.sqrt(sum(e**2 for e in errors)) / 3)
