"""Two models' audits on the same records: differences of all attacks and metrics, with intervals that hold at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.names import TPRS
from spvmia_plugin.metrics.paired import differences, gains
from spvmia_plugin.metrics.roc import auroc

KEYS = ["auroc", *(metric.key for metric in TPRS)]


def audits(n=300, attacks=4, effect=0.8, change=0.0, seed=0, per_document=1):
    """Scores of the same attacks under two models, which share what is the record's; the second is stronger."""
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * n) < n
    documents = np.arange(2 * n) // per_document
    of_record = rng.standard_normal(2 * n)
    first, second = {}, {}
    for k in range(attacks):
        first[f"attack {k}"] = of_record + 0.5 * rng.standard_normal(2 * n) + effect * labels
        second[f"attack {k}"] = of_record + 0.5 * rng.standard_normal(2 * n) + (effect + change) * labels
    return first, second, labels, documents


def test_each_is_the_gain_at_a_wider_confidence():
    ours, theirs, labels, documents = audits(per_document=2)
    found = differences(ours, theirs, labels, documents)
    assert list(found) == KEYS
    for name in ours:
        gain = found["auroc"][name]
        assert gain.value == pytest.approx(auroc(ours[name], labels) - auroc(theirs[name], labels))
        alone = gains(ours[name], theirs[name], labels, documents)[0]
        assert gain.value == alone.value
        assert gain.interval[0] < alone.interval[0] < alone.interval[1] < gain.interval[1]
    low, high = found["auroc"]["attack 0"].interval
    alone = gains(ours["attack 0"], theirs["attack 0"], labels, documents)[0].interval
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(
        2.8 / 1.96, rel=0.12
    )  # 8 to 16 differences, correlated


def test_one_attack_without_resolved_tprs_needs_no_wider_interval():
    ours, theirs, labels, _ = audits(n=12, attacks=1)
    found = differences(ours, theirs, labels)
    assert found["auroc"]["attack 0"].interval == pytest.approx(
        gains(ours["attack 0"], theirs["attack 0"], labels)[0].interval
    )
    assert all(math.isnan(found[metric.key]["attack 0"].value) for metric in TPRS)


def test_a_record_that_one_has_no_score_for_is_left_out_of_both():
    ours, theirs, labels, _ = audits(attacks=2)
    ours["attack 0"][:50] = np.nan
    theirs["attack 0"][20:70] = np.nan
    kept = np.arange(len(labels)) >= 70
    found = differences(ours, theirs, labels)["auroc"]
    expected = auroc(ours["attack 0"][kept], labels[kept]) - auroc(theirs["attack 0"][kept], labels[kept])
    assert found["attack 0"].value == pytest.approx(expected)
    assert found["attack 1"].value == pytest.approx(auroc(ours["attack 1"], labels) - auroc(theirs["attack 1"], labels))


def test_attacks_that_one_audit_lacks_are_left_out():
    ours, theirs, labels, _ = audits()
    del theirs["attack 1"], ours["attack 2"]
    assert set(differences(ours, theirs, labels)["auroc"]) == {"attack 0", "attack 3"}


def test_without_a_class_there_are_reasons():
    ours, theirs, labels, _ = audits(attacks=1)
    ours["attack 0"][labels] = np.nan
    gain = differences(ours, theirs, labels)["auroc"]["attack 0"]
    assert math.isnan(gain.value)
    assert gain.reason == "a class has no record"


def test_one_document_a_class_has_no_interval():
    ours, theirs, labels, _ = audits(n=40, attacks=2)
    found = differences(ours, theirs, labels, labels)["auroc"]
    assert all(math.isnan(gain.interval[0]) and gain.reason for gain in found.values())


def test_lengths_that_differ_are_refused():
    ours, theirs, labels, _ = audits()
    with pytest.raises(SpvmiaError):
        differences(ours, theirs, labels[:-1])


@pytest.mark.parametrize("pairs", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_all_intervals_of_two_equal_models_hold_at_once(pairs):
    """Of so many pairs of equally strong models few are called different by any attack or metric (5 % are allowed)."""
    wrong = 0
    for seed in range(pairs):
        ours, theirs, labels, _ = audits(n=100, attacks=5, seed=seed)
        found = differences(ours, theirs, labels, seed=seed)
        wrong += any(
            gain.interval[0] > 0 or gain.interval[1] < 0
            for of_attacks in found.values()
            for gain in of_attacks.values()
            if not math.isnan(gain.interval[0])
        )
    assert wrong <= binom.ppf(0.99, pairs, 0.05)


def test_a_change_is_found():
    ours, theirs, labels, _ = audits(n=300, change=0.5)
    assert all(gain.interval[1] < 0 for gain in differences(ours, theirs, labels)["auroc"].values())
