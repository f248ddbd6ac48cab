from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.mean import error_correlations, mean_stderr
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.metrics.tpr import tpr_at_fpr

LABELS = np.arange(400) < 200


def draw(rng, attacks=4, shared=0.8):
    """Scores of attacks that agree with each other to some degree."""
    common = rng.standard_normal(400) + 0.8 * LABELS
    return {f"a{k}": shared * common + (1 - shared) * rng.standard_normal(400) for k in range(attacks)}


def stderr_of_mean(scores, metric):
    found = error_correlations(scores, LABELS)[metric]
    summaries = [summarise(values, LABELS) for values in scores.values()]
    stderrs = [s.auroc_stderr if metric == "auroc" else s.tpr_at_1pct_fpr.stderr for s in summaries]
    correlations = [[found[one, other] for other in scores] for one in scores]
    return mean_stderr(stderrs, np.full(len(scores), 1 / len(scores)), correlations), stderrs


@pytest.mark.parametrize("metric", ["auroc", "tpr_at_1pct_fpr"])
def test_the_error_of_a_mean_is_how_much_means_vary(metric):
    """Against the spread of the mean over fresh audits: between what independence and full agreement would say."""
    rng = np.random.default_rng(0)
    value = auroc if metric == "auroc" else lambda values: tpr_at_fpr(values, LABELS, 0.01).tpr
    means = [np.mean([value(values) for values in draw(rng).values()]) for _ in range(300)]
    spread = np.std(means, ddof=1)
    stderr, stderrs = stderr_of_mean(draw(np.random.default_rng(1)), metric)
    independent = math.sqrt(sum(s**2 for s in stderrs)) / len(stderrs)
    assert independent < 0.75 * stderr
    assert stderr == pytest.approx(spread, rel=0.25)
    assert stderr <= np.mean(stderrs) + 1e-12


def auroc(values):
    members, others = values[LABELS], values[~LABELS]
    return np.mean(members[:, None] > others)


def test_a_mean_of_copies_is_as_sure_as_one():
    scores = dict.fromkeys("abc", draw(np.random.default_rng(2))["a0"])
    for metric in ("auroc", "tpr_at_1pct_fpr"):
        stderr, stderrs = stderr_of_mean(scores, metric)
        assert stderr == pytest.approx(stderrs[0])


def test_opposite_attacks_cancel():
    values = draw(np.random.default_rng(3))["a0"]
    assert stderr_of_mean({"a": values, "b": -values}, "auroc")[0] == pytest.approx(0, abs=1e-9)


def test_auroc_correlations_are_those_of_naive_components():
    scores = {name: values[:] for name, values in draw(np.random.default_rng(4), attacks=3).items()}
    found = error_correlations(scores, LABELS)["auroc"]
    for one, other in itertools.combinations(scores, 2):
        a, b = components(scores[one]), components(scores[other])
        assert found[one, other] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
        assert found[one, other] == found[other, one]
    assert found["a0", "a0"] == 1


def components(values):
    """DeLong's components, each pair of records looked at, divided by their number."""
    members, others = values[LABELS], values[~LABELS]
    wins = (members[:, None] > others).astype(float)
    centre = wins.mean()
    correction = np.sqrt(200 / 199) / 200
    return np.concatenate([wins.mean(axis=1) - centre, wins.mean(axis=0) - centre]) * correction


def test_what_does_not_vary_counts_as_agreeing():
    scores = {"perfect": LABELS.astype(float), "noise": np.random.default_rng(5).standard_normal(400)}
    found = error_correlations(scores, LABELS)
    assert found["auroc"]["perfect", "noise"] == 1
    assert found["tpr_at_1pct_fpr"]["perfect", "noise"] == 1


def test_attacks_without_scores_of_both_classes_are_left_out():
    scores = draw(np.random.default_rng(6), attacks=2)
    scores["none"] = np.full(400, math.nan)
    scores["gaps"] = np.where(np.arange(400) % 3 == 0, math.nan, scores["a0"])
    found = error_correlations(scores, LABELS)
    for pairs in found.values():
        assert {name for pair in pairs for name in pair} == {"a0", "a1", "gaps"}
    assert found["auroc"]["a0", "gaps"] > 0.7
    assert error_correlations({}, LABELS) == {key: {} for key in found}


def test_few_scored_records_leave_replicates_without_a_class():
    scores = {"rare": np.where(np.isin(np.arange(400), [0, 399]), 1.0 * LABELS, math.nan), "all": np.arange(400.0)}
    found = error_correlations(scores, LABELS)
    assert all(-1 <= value <= 1 + 1e-9 for value in found["tpr_at_1pct_fpr"].values())


def test_lengths_have_to_match():
    with pytest.raises(SpvmiaError, match="got shapes"):
        error_correlations({"a": [1.0]}, LABELS)
