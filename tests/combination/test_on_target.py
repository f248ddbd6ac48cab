"""A combination beside single attacks: what is gained, and that nothing is where there is nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spvmia_plugin.combination import compare, fit
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.summary import summarise
from tests.combination.test_weights import GAPS, scored


def test_two_independent_signals_beat_the_better_one():
    target = scored(1)
    found = compare(fit([scored(0)], tuple(GAPS)), target)
    assert found.best["auroc"] in ("spv", "ez")
    gain = found.gain["auroc"]
    assert gain.interval[0] > 0
    assert gain.value == found.combined.auroc - max(single.auroc for single in found.singles.values())
    # As text: what cannot be resolved is NaN, and Python 3.13 compares the fields of dataclasses one by one.
    assert repr(found.singles["spv"]) == repr(summarise(target.scores["spv"], target.labels, target.clusters))


def test_where_there_is_nothing_to_learn_nothing_is_gained():
    nothing = dict.fromkeys(GAPS, 0.0)
    gain = compare(fit([scored(0, gaps=nothing)], tuple(GAPS)), scored(1, gaps=nothing)).gain["auroc"]
    assert gain.value < 0.03
    one = {"spv": 1.0, "ez": 0.0, "loss": 0.0}
    useless = compare(fit([scored(0, gaps=one)], tuple(one)), scored(1, gaps=one)).gain["auroc"]
    assert abs(useless.value) < 0.03


def test_each_metric_is_held_against_the_attack_that_has_most_of_it():
    target = scored(1)
    at_the_top = target.scores["loss"]
    at_the_top[np.flatnonzero(target.labels)[:50]] += 50  # finds 50 members without an error, and is weak otherwise
    found = compare(fit([scored(0)], tuple(GAPS)), target)
    assert found.best["tpr_at_1pct_fpr"] == "loss"
    assert found.best["auroc"] != "loss"


def test_the_outcome_is_json_with_null_for_what_is_not_resolved():
    found = compare(fit([scored(0)], tuple(GAPS)), scored(1, n=40)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["n"] == 80
    assert found["gain"]["tpr_at_1pct_fpr"]["value"] is None
    assert "40 non-members" in found["gain"]["tpr_at_1pct_fpr"]["reason"]
    assert set(found["combination"]["weights"]) == set(GAPS)


def test_attacks_that_the_target_lacks_are_an_error():
    fitted = fit([scored(0)], tuple(GAPS))
    with pytest.raises(SpvmiaError, match="RESULTS: expected scores of ez, loss, got none"):
        compare(fitted, scored(1, gaps={"spv": 1.0}))
