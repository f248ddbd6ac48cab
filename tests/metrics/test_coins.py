"""Bounds from coins hold what they promise, whatever mechanism made the scores; every simulation is seeded."""

from __future__ import annotations

import numpy as np
import pytest

from tests.metrics.coins import (
    MECHANISMS,
    RULES,
    audited_bounds,
    one_bit_bounds,
    randomised_response_bounds,
    response_scores,
    rule_shares,
)


@pytest.mark.parametrize("epsilon", [0, 1, 2, 4])
@pytest.mark.parametrize("n", [20, 2000])
def test_one_run_bound_rarely_exceeds_epsilon(epsilon, n):
    rng = np.random.default_rng([epsilon, n])
    assert np.mean(randomised_response_bounds(epsilon, n, 2000, rng) > epsilon) <= 0.06
    assert np.mean(one_bit_bounds(epsilon, n, 2000, rng) > epsilon) <= 0.06


@pytest.mark.parametrize("epsilon", [1, 2, 4])
@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_one_run_bound_is_near_epsilon_for_the_optimal_attack(epsilon, delta):
    bounds = randomised_response_bounds(epsilon, 2000, 500, np.random.default_rng(epsilon), delta)
    assert np.quantile(bounds, 0.05) >= 0.6 * epsilon


@pytest.mark.parametrize("epsilon", [0, 1, 2, 4])
def test_a_canary_audit_as_it_is_run_holds_and_is_not_idle(epsilon):
    """Scores of randomised response through the audit itself, with its own number of guesses, 178 of 2,000."""
    bounds = audited_bounds(*response_scores(epsilon, 2000, 300, np.random.default_rng(epsilon)))[:, 2]
    # 300 audits: 5 % stays below 9.2 % with three standard errors
    assert np.mean(bounds > epsilon) <= 0.092
    assert np.mean(bounds) >= 0.6 * epsilon


@pytest.mark.parametrize(("epsilon", "n", "as_run", "all_guessed"), [(4, 200, 2.5, 3.2), (2, 2000, 1.6, 1.9)])
def test_the_documented_power_is_that_of_the_guesses_that_are_made(epsilon, n, as_run, all_guessed):
    """Not all canaries are guessed: guessing all would tell more of randomised response, and of it alone."""
    rng = np.random.default_rng(0)
    assert audited_bounds(*response_scores(epsilon, n, 300, rng))[:, 2].mean() == pytest.approx(as_run, abs=0.1)
    assert randomised_response_bounds(epsilon, n, 300, rng, 1e-5).mean() == pytest.approx(all_guessed, abs=0.1)


def check_rule(found, least_share):
    """The best of the rules by the average over mechanisms and by the worst case."""
    average = {rule: np.mean([found[rule, kind][0] for kind in MECHANISMS]) for rule in RULES}
    least = {rule: min(found[rule, kind][1] for kind in MECHANISMS) for rule in RULES}
    assert max(average, key=average.get) == max(least, key=least.get) == "2 sqrt(M) (what runs)"
    assert least["2 sqrt(M) (what runs)"] >= least_share


def test_the_number_of_guesses_is_a_defensible_one():
    check_rule(rule_shares(sizes=(100, 1000), audits=60), least_share=0.65)


@pytest.mark.slow
def test_the_number_of_guesses_is_a_defensible_one_over_all_sizes():
    check_rule(rule_shares(audits=300), least_share=0.65)
