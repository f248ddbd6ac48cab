"""What an audit of so many records can tell, against audits that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri, stdtr

from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.power import auroc_ends, resolution, tpr_ends
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.metrics.tpr import tpr_interval


def drawn(n, rng, effect=0.0, memorised=0.0):
    labels = np.arange(2 * n) < n
    scores = rng.standard_normal(2 * n) + effect * labels
    scores[labels & (rng.random(2 * n) < memorised)] = 9.0
    return scores, labels


def audit(n, rng, attacks=1):
    """Simultaneous intervals of attacks that guess; their errors have a correlation of .5."""
    own = [drawn(n, rng) for _ in range(attacks)]
    shared = rng.standard_normal(2 * n)
    return compare({str(k): (scores + shared) / math.sqrt(2) for k, (scores, _) in enumerate(own)}, own[0][1])


@pytest.mark.parametrize(("n", "attacks"), [(15, 1), (30, 1), (250, 1), (2000, 1), (200, 6)])
def test_the_half_width_is_that_of_an_audit(n, attacks):
    """Whose intervals hold over all attacks, the AUROC and what TPRs so many records resolve: 1, 2, 3 and 4 numbers."""
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(3):
        found = audit(n, rng, attacks)
        widths += [(each.high - each.low) / 2 for each in found.leaders["auroc"].values()]
    told = resolution(n, n, attacks).half_width
    assert told == pytest.approx(np.mean(widths), rel=0.06)
    by_mann_and_whitney = math.sqrt((2 * n + 1) / (12 * n * n))  # 1947
    assert told == pytest.approx(found.critical * by_mann_and_whitney, rel=0.06)


@pytest.mark.parametrize("n", [100, 1000])
def test_the_smallest_auroc_is_found_in_half_of_the_audits_that_have_it(n):
    smallest = resolution(n, n).smallest["auroc"]
    rng = np.random.default_rng(1)
    critical = audit(n, rng).critical
    found = [
        estimate_auroc(*drawn(n, rng, math.sqrt(2) * ndtri(smallest)), np.arange(2 * n)).interval_at(critical)[0] > 0.5
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("fpr", "key"), [(0.05, "tpr_at_5pct_fpr"), (0.01, "tpr_at_1pct_fpr")])
def test_the_smallest_tpr_is_found_about_as_often_as_not(fpr, key):
    n = 1000
    smallest = resolution(n, n).smallest[key]
    assert fpr < smallest < 4 * fpr
    rng = np.random.default_rng(2)
    memorised = (smallest - fpr) / (1 - fpr)
    pointwise = 2 * stdtr(2 * n - 2, audit(n, rng).critical) - 1
    found = [
        tpr_interval(*drawn(n, rng, memorised=memorised), np.arange(2 * n), fpr, pointwise)[0] > fpr for _ in range(200)
    ]
    assert 0.3 < np.mean(found) < 0.7


def test_more_records_resolve_more_and_more_attacks_less():
    few, many = resolution(100, 100), resolution(1000, 1000)
    assert many.half_width < few.half_width
    assert all(not many.smallest[key] > few.smallest[key] for key in many.smallest)
    several = resolution(1000, 1000, attacks=20)
    assert several.half_width > 1.3 * many.half_width
    assert all(not several.smallest[key] < many.smallest[key] for key in many.smallest)


def test_what_is_not_resolved_has_a_reason():
    found = resolution(100, 100)
    assert math.isnan(found.smallest["tpr_at_0.1pct_fpr"])
    assert found.reasons["tpr_at_0.1pct_fpr"].startswith("100 non-members cannot resolve an FPR of 0.1 %")
    assert set(found.reasons) == {"tpr_at_0.1pct_fpr"}
    bare = resolution(0, 50)
    assert math.isnan(bare.half_width)
    assert all(math.isnan(value) for value in bare.smallest.values())
    assert set(bare.reasons) == set(bare.smallest)


def test_too_few_tell_nothing_apart():
    found = resolution(2, 20)
    assert math.isnan(found.smallest["tpr_at_5pct_fpr"])
    assert found.reasons["tpr_at_5pct_fpr"] == "no value is told apart from guessing by so few records"
    assert math.isnan(found.smallest["auroc"])
    assert found.reasons["auroc"] == found.reasons["tpr_at_5pct_fpr"]
    assert 0.9 < resolution(7, 20).smallest["auroc"] < 1
    assert math.isnan(resolution(7, 20, attacks=20).smallest["auroc"])


def test_the_ends_lie_around_the_value():
    assert auroc_ends(200, 300, 0.8, 0.95)[0] < 0.8 < auroc_ends(200, 300, 0.8, 0.95)[1]
    low, high = tpr_ends(200, 300, 0.4, 0.05, 0.95)
    assert low < 0.4 < high
    assert tpr_ends(50, 300, 1.0, 0.05, 0.95)[1] == 1.0
