from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.one_run import canary_audit, default_guesses, epsilon_lower_bound, p_value
from spvmia_plugin.util.schema import as_json


def naive_p_value(guesses, correct, total, epsilon, delta):
    """Theorem 5.2 as it is written, term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    tail = binom.sf(correct - 1, guesses, q)
    steps = [(binom.sf(correct - i - 1, guesses, q) - tail) / i for i in range(1, total + 1)]
    return min(1.0, tail + 2 * total * delta * max(steps))


@pytest.mark.parametrize(
    ("guesses", "correct", "total"), [(10, 9, 10), (40, 30, 100), (40, 40, 40), (40, 1, 60), (40, 0, 60)]
)
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_p_value_equals_the_theorem(guesses, correct, total, epsilon, delta):
    expected = naive_p_value(guesses, correct, total, epsilon, delta)
    assert p_value(guesses, correct, total, epsilon, delta) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("guesses", "correct", "total", "delta"), [(100, 90, 100, 0.0), (2000, 1500, 2000, 1e-5), (20, 20, 50, 0)]
)
def test_bound_is_the_edge_of_what_is_rejected(guesses, correct, total, delta):
    bound = epsilon_lower_bound(guesses, correct, total, delta, 0.95)
    assert p_value(guesses, correct, total, bound, delta) < 0.05
    assert p_value(guesses, correct, total, bound + 1e-5, delta) >= 0.05


def test_all_guesses_right_without_delta_has_a_closed_form():
    # (e^eps / (1 + e^eps))^r = 0.05
    q = 0.05 ** (1 / 300)
    assert epsilon_lower_bound(300, 300, 500, 0.0, 0.95) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)


def test_bound_falls_with_delta_and_confidence_and_rises_with_correct_guesses():
    assert epsilon_lower_bound(100, 80, 100, 0.0, 0.95) > epsilon_lower_bound(100, 80, 100, 1e-3, 0.95) > 0
    assert epsilon_lower_bound(100, 80, 100, 0.0, 0.95) > epsilon_lower_bound(100, 80, 100, 0.0, 0.99)
    assert epsilon_lower_bound(100, 90, 100, 0.0, 0.95) > epsilon_lower_bound(100, 80, 100, 0.0, 0.95)
    assert epsilon_lower_bound(100, 50, 100, 0.0, 0.95) == 0
    assert epsilon_lower_bound(0, 0, 100, 0.0, 0.95) == 0
    assert epsilon_lower_bound(100, 100, 100, 1.0, 0.95) == 0


@pytest.mark.parametrize("numbers", [(10, 11, 20), (30, 5, 20), (10, -1, 20)])
def test_impossible_counts_are_refused(numbers):
    with pytest.raises(SpvmiaError, match="expected 0 <= correct"):
        epsilon_lower_bound(*numbers, 0.0, 0.95)


@pytest.mark.parametrize(("delta", "confidence"), [(-0.1, 0.95), (1.1, 0.95), (0.0, 1.0), (0.0, 0.0)])
def test_impossible_levels_are_refused(delta, confidence):
    with pytest.raises(SpvmiaError, match="expected delta"):
        epsilon_lower_bound(10, 5, 10, delta, confidence)


def test_default_number_of_guesses_knows_only_how_many_canaries_there_are():
    assert default_guesses(2000) == (89, 89)
    assert default_guesses(400) == (40, 40)
    assert default_guesses(60) == (15, 15)
    assert default_guesses(22) == (10, 10)
    assert default_guesses(7) == (3, 3)
    assert default_guesses(0) == (0, 0)


def test_counts_the_extremes():
    coins = np.array([True, True, False, True, False, False])
    scores = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    found = canary_audit(scores, coins, guesses=(3, 2), delta=0.0)
    assert found.n_correct == 4
    assert (found.guesses_in, found.guesses_out, found.n_canaries, found.n_included) == (3, 2, 6, 3)
    assert found.epsilon_lb == epsilon_lower_bound(5, 4, 6, 0.0, 0.95)
    assert canary_audit(scores, coins, guesses=(0, 1), delta=0.0).n_correct == 1


def test_leaky_scores_give_a_positive_bound_and_noise_none():
    rng = np.random.default_rng(0)
    coins = rng.random(1000) < 0.5
    leaky = canary_audit(rng.standard_normal(1000) + 2 * coins, coins)
    assert 2 < leaky.epsilon_lb < 6
    assert canary_audit(rng.standard_normal(1000), coins).epsilon_lb < 0.3
    json.dumps(as_json(leaky), allow_nan=False)


def test_equal_scores_do_not_leak_through_the_order_of_the_records():
    coins = np.arange(1000) < 500
    for order in (coins, ~coins):
        found = canary_audit(np.zeros(1000), order, delta=0.0)
        assert 30 < found.n_correct < 96  # of 126
        assert found.epsilon_lb == 0


def test_missing_scores_are_not_guessed_and_missing_guesses_are_wrong():
    coins = np.tile([True, False], 50)
    scores = np.where(np.arange(100) < 10, coins * 1.0, math.nan)
    found = canary_audit(scores, coins, guesses=(10, 10), delta=0.0)
    assert found.n_correct == 5
    assert found.guesses_in + found.guesses_out == 20


def test_what_cannot_be_audited_is_nan_with_a_reason():
    nothing = canary_audit(np.full(100, math.nan), np.tile([True, False], 50))
    assert math.isnan(nothing.epsilon_lb)
    assert nothing.reason == "no canary has a score"
    assert as_json(nothing)["epsilon_lb"] is None
    unfair = canary_audit(np.zeros(100), np.arange(100) < 90)
    assert math.isnan(unfair.epsilon_lb)
    assert "fair coins" in unfair.reason
    assert canary_audit([], []).reason == "no canary has a score"


def test_more_guesses_than_canaries_are_refused():
    with pytest.raises(SpvmiaError, match="expected 0 <= correct"):
        canary_audit(np.zeros(10), np.arange(10) < 5, guesses=(8, 8))
