"""The bound within Gaussian mechanisms: the theorem written otherwise, an optimiser, closed forms, simulation."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import binom, norm

from spvmia_plugin.metrics.gaussian_dp import ASSUMPTION, gaussian_bound, gaussian_epsilon, rejects
from spvmia_plugin.metrics.one_run import canary_audit, epsilon_lower_bound
from spvmia_plugin.util.schema import as_json
from tests.metrics.coins import gaussian_bounds, one_number_bounds, shared_size_bounds

STANDARD = NormalDist()
LEVEL = 0.05


def naive_rejects(guesses, correct, total, mu, level):
    """As the paper has it: masses times right and wrong guesses, from the most right downwards."""
    right, wrong = level * correct / total, level * (guesses - correct) / total
    for i in range(correct - 1, -1, -1):
        if right >= 1:
            return True
        needed = STANDARD.cdf(STANDARD.inv_cdf(right) - mu)
        more = max(0.0, needed - wrong)
        wrong, right = wrong + more, right + more * i / (guesses - i)
    return right + wrong > guesses / total


@pytest.mark.parametrize(("guesses", "total"), [(10, 10), (40, 200), (200, 200), (100, 1000)])
@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, 3.0])
def test_it_rejects_what_the_papers_own_recursion_rejects(guesses, total, mu):
    for correct in range(guesses + 1):
        assert rejects(guesses, correct, total, mu, LEVEL) == naive_rejects(guesses, correct, total, mu, LEVEL)


@pytest.mark.parametrize(("guesses", "correct", "total", "mu"), [(4, 3, 6, 0.4), (5, 5, 5, 0.8), (6, 4, 12, 0.2)])
def test_no_distribution_that_keeps_the_inequalities_has_a_heavier_tail(guesses, correct, total, mu):
    """An optimiser looks for the largest P[W >= v]; the recursion says from which level on there is none."""
    k = np.arange(guesses + 1)

    def slack(p, i):
        right, wrong = (k * p)[k > i].sum() / total, ((guesses - k) * p)[k >= i].sum() / total
        return wrong - norm.cdf(norm.ppf(max(right, 1e-12)) - mu)

    constraints = [{"type": "eq", "fun": lambda p: p.sum() - 1}]
    constraints += [{"type": "ineq", "fun": slack, "args": (i,)} for i in range(guesses)]
    start = binom.pmf(k, guesses, 0.5)
    found = minimize(
        lambda p: -p[correct:].sum(), start, bounds=[(0, 1)] * len(k), constraints=constraints, options={"maxiter": 500}
    )
    largest = -found.fun
    assert found.success
    assert not rejects(guesses, correct, total, mu, largest - 1e-3)
    assert rejects(guesses, correct, total, mu, largest + 1e-3)


def test_with_nothing_to_tell_apart_it_is_the_binomial_and_a_little_more():
    for guesses, correct in ((100, 60), (400, 230), (20, 15)):
        tail = binom.sf(correct - 1, guesses, 0.5)
        assert not rejects(guesses, correct, 2 * guesses, 0.0, tail)
        assert rejects(guesses, correct, 2 * guesses, 0.0, 2 * tail)


def test_what_is_rejected_grows_with_right_guesses_and_level_and_falls_with_mu():
    bounds = [gaussian_bound(40, correct, 200, 1e-5, LEVEL).mu_lb for correct in range(41)]
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[20], bounds[40] > 1) == (0, 0, True)
    assert gaussian_bound(40, 35, 200, 1e-5, 0.01).mu_lb < bounds[35]
    edge = bounds[35]
    assert rejects(40, 35, 200, edge, LEVEL)
    assert not rejects(40, 35, 200, edge + 1e-5, LEVEL)
    assert gaussian_bound(2, 2, 2, 1e-5, 0.5).mu_lb > 1 / 4  # more than one doubling
    assert gaussian_bound(2000, 2000, 2000, 1e-5, LEVEL).mu_lb > 2


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_epsilon_of_mu_by_integration(mu, delta):
    """delta = the mass by which N(mu, 1) exceeds e^eps N(0, 1)."""
    epsilon = gaussian_epsilon(mu, delta)
    edge = epsilon / mu + mu / 2
    found, _ = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x), edge, edge + 12, epsabs=1e-12)
    assert found == pytest.approx(delta, rel=1e-4)


def test_epsilon_at_the_edges():
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_epsilon(1e-6, 1e-5) == 0
    assert gaussian_epsilon(1.0, 0.0) == math.inf
    assert gaussian_epsilon(1.0, 1.0) == 0
    assert as_json(gaussian_bound(40, 40, 40, 0.0, LEVEL))["epsilon_lb"] is None


def test_an_audit_has_both_bounds_and_the_assumption_of_the_tighter_one():
    rng = np.random.default_rng(0)
    coins = rng.random(1000) < 0.5
    found = canary_audit(rng.standard_normal(1000) + 2 * coins, coins)
    guesses = found.guesses_in + found.guesses_out
    assert found.epsilon_lb == epsilon_lower_bound(guesses, found.n_correct, 1000, 1e-5, 0.95)
    assert found.gaussian_dp == gaussian_bound(guesses, found.n_correct, 1000, 1e-5, 1 - 0.95)
    assert found.gaussian_dp.epsilon_lb > 1.4 * found.epsilon_lb
    told = json.loads(json.dumps(as_json(found), allow_nan=False))["gaussian_dp"]
    assert told == {
        "mu_lb": found.gaussian_dp.mu_lb,
        "epsilon_lb": found.gaussian_dp.epsilon_lb,
        "assumption": ASSUMPTION,
    }
    nothing = canary_audit(np.full(100, math.nan), np.tile([True, False], 50))
    assert as_json(nothing)["gaussian_dp"] == {"mu_lb": None, "epsilon_lb": None, "assumption": ASSUMPTION}


# --- the promise, by simulation: exceeded in at most 5 %, here with three standard errors ---


def check(audits, sizes):
    for mu in (0.0, 0.5, 1.0, 2.0):
        for total in sizes:
            rng = np.random.default_rng([int(10 * mu), total, audits])
            least = 0.05 + 3 * math.sqrt(0.05 * 0.95 / audits)
            independent = gaussian_bounds(mu, total, audits, rng)
            for bounds in (
                independent,
                shared_size_bounds(mu, total, audits, rng),
                one_number_bounds(mu, total, audits, rng),
            ):
                assert np.mean(bounds[:, 0] > mu) <= least
            if mu == 1 and total == 1000:
                assert independent[:, 0].mean() >= 0.5
                assert independent[:, 1].mean() >= 1.5 * independent[:, 2].mean()  # of Steinke's, the same guesses


def test_the_bound_rarely_exceeds_mu_and_is_not_idle():
    check(audits=200, sizes=(50, 1000))


@pytest.mark.slow
def test_the_bound_rarely_exceeds_mu_over_many_audits():
    check(audits=5000, sizes=(20, 50, 200, 1000))


def test_a_bound_that_took_the_guesses_for_independent_would_be_exceeded():
    """What the shared size is for: the binomial of the right share of independent guesses does not hold here."""
    rng = np.random.default_rng(1)
    correct = shared_size_bounds(1.0, 1000, 400, rng)[:, 3]
    naive = binom.sf(correct - 1, 1000, norm.cdf(0.5))
    assert np.mean(naive < LEVEL) > 0.2
