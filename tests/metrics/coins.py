"""Simulated canary audits of mechanisms whose epsilon or mu is known.

`python -m tests.metrics.coins` prints the tables of the docs. A row of `coins` is an audit, a column a canary; bounds
come at delta 1e-5 unless said otherwise.
"""

from __future__ import annotations

import sys

import numpy as np

from spvmia_plugin.metrics.gaussian_dp import gaussian_bound, gaussian_epsilon
from spvmia_plugin.metrics.one_run import canary_audit, default_guesses, epsilon_lower_bound


def randomised_response_bounds(epsilon, n, audits, rng, delta=0.0):
    """Bounds of audits of randomised response: every coin is reported, each truthfully with e^eps / (1 + e^eps)."""
    correct = rng.binomial(n, 1 / (1 + np.exp(-epsilon)), size=audits)
    return np.array([epsilon_lower_bound(n, int(v), n, delta, 0.95) for v in correct])


def one_bit_bounds(epsilon, n, audits, rng):
    """Bounds of audits of a mechanism that gives out one bit for all coins, so that every guess is the same.

    P(bit = 1) = sigmoid(eps * sum of the coins as +-1 / 2): a coin moves the argument by eps, so it is eps-DP.
    """
    ones = rng.binomial(n, 0.5, size=audits)
    bit = rng.random(audits) < 1 / (1 + np.exp(-np.clip(epsilon * (2 * ones - n) / 2, -700, 700)))
    correct = np.where(bit, ones, n - ones)
    return np.array([epsilon_lower_bound(n, int(v), n, 0.0, 0.95) for v in correct])


def fair_coins(n, audits, rng):
    return rng.random((audits, n)) < 0.5


def response_scores(epsilon, n, audits, rng):
    """Randomised response: every coin is reported, each truthfully with e^eps / (1 + e^eps)."""
    coins = fair_coins(n, audits, rng)
    return np.where(rng.random((audits, n)) < 1 / (1 + np.exp(-epsilon)), coins, ~coins) * 1.0, coins


def gaussian_scores(mu, n, audits, rng):
    """The Gaussian mechanism: a number a coin."""
    coins = fair_coins(n, audits, rng)
    return rng.standard_normal((audits, n)) + mu * coins, coins


def uneven_scores(share, n, audits, rng):
    """Some of the canaries in training are remembered (3 standard deviations), the others hardly (0.3)."""
    coins = fair_coins(n, audits, rng)
    remembered = np.where(rng.random((audits, n)) < share, 3.0, 0.3)
    return rng.standard_normal((audits, n)) + coins * remembered, coins


def audited_bounds(scores, coins):
    """mu and epsilon of the bound within Gaussian mechanisms, epsilon of Steinke's, right guesses; a row an audit.

    Args:
        scores: (audits, M).
        coins: (audits, M).
    """
    found = [canary_audit(*audit) for audit in zip(scores, coins, strict=True)]
    return np.array([(a.gaussian_dp.mu_lb, a.gaussian_dp.epsilon_lb, a.epsilon_lb, a.n_correct) for a in found])


def gaussian_bounds(mu, n, audits, rng):
    """Of the Gaussian mechanism, audited as the tool does: a number a coin, N(+-mu / 2, 1)."""
    return audited_bounds(*gaussian_scores(mu, n, audits, rng))


def all_guessed(right, n):
    """As `audited_bounds` of mechanisms of which every coin is guessed."""
    found = [(gaussian_bound(n, int(v), n, 1e-5, 0.05), epsilon_lower_bound(n, int(v), n, 1e-5, 0.95)) for v in right]
    return np.array([(g.mu_lb, g.epsilon_lb, s, v) for (g, s), v in zip(found, right, strict=True)])


def shared_size_bounds(mu, n, audits, rng):
    """Bounds of a mechanism whose right guesses go together, and that is exactly mu-GDP all the same.

    It draws one size a = |N(mu / 2, 1)| for all and gives out a and, of each coin, a sign that is right with
    probability e^(mu a) / (1 + e^(mu a)). Of one coin, sign times a is N(+-mu / 2, 1); the others say nothing of it.
    """
    size = np.abs(rng.standard_normal(audits) + mu / 2)
    return all_guessed(rng.binomial(n, 1 / (1 + np.exp(-mu * size))), n)


def one_number_bounds(mu, n, audits, rng):
    """Bounds of a mechanism that gives out one number for all coins, so that every guess is the same.

    N(mu (ones - n / 2), 1): a coin moves the mean by mu.
    """
    ones = rng.binomial(n, 0.5, size=audits)
    told = rng.standard_normal(audits) + mu * (ones - n / 2) > 0
    return all_guessed(np.where(told, ones, n - ones), n)


def _each(count):
    """A rule that guesses as many at both ends, at least 10 and at most half."""
    return lambda n: (min(n // 2, max(10, int(count(n)))),) * 2


RULES = {
    "M/20 at each end": _each(lambda n: n / 20),
    "M/10": _each(lambda n: n / 10),
    "M/5": _each(lambda n: n / 5),
    "M/2: all": _each(lambda n: n / 2),
    "2 sqrt(M) (what runs)": default_guesses,
    "M/5 at the upper end alone": lambda n: (min(n, max(20, n // 5)), 0),
}
"""Numbers of guesses that could be fixed ahead from M alone."""
MECHANISMS = {
    "randomised response": (response_scores, (1, 2, 4)),
    "Gaussian": (gaussian_scores, (0.5, 1, 2, 3)),
    "uneven": (uneven_scores, (0.1, 0.3)),
}


def rule_shares(sizes=(50, 100, 200, 400, 1000, 2000), audits=200):
    """Of each rule and mechanism: mean and least share, over strengths and sizes, of the best rule's mean bound."""
    found = {}
    for kind, (scores_of, strengths) in MECHANISMS.items():
        shares = []
        for strength in strengths:
            for n in sizes:
                scores, coins = scores_of(strength, n, audits, np.random.default_rng(n))
                scores = scores + 1e-9 * np.random.default_rng(1).random(scores.shape)  # ties in any order
                ordered = np.take_along_axis(coins, np.argsort(scores, axis=1), axis=1)
                low = np.cumsum(np.pad(~ordered, ((0, 0), (1, 0))), axis=1)  # (audits, M + 1): right of the k lowest
                high = np.cumsum(np.pad(ordered[:, ::-1], ((0, 0), (1, 0))), axis=1)
                means = []
                for rule in RULES.values():
                    n_in, n_out = rule(n)
                    right = high[:, n_in] + low[:, n_out]
                    means.append(np.mean([epsilon_lower_bound(n_in + n_out, int(v), n, 1e-5, 0.95) for v in right]))
                if max(means) > 0.05:
                    shares.append(np.array(means) / max(means))
        for rule, of_rule in zip(RULES, np.transpose(shares), strict=True):
            found[rule, kind] = of_rule.mean(), of_rule.min()
    return found


def main(audits=2000):
    rng = np.random.default_rng(0)
    print("epsilon  M  guesses  exceeded  exceeded, one bit for all  mean bound  mean if all were guessed")
    for epsilon in (0, 1, 2, 4):
        for n in (20, 200, 2000):
            as_run = audited_bounds(*response_scores(epsilon, n, audits, rng))[:, 2]
            all_of_them = randomised_response_bounds(epsilon, n, audits, rng, 1e-5)
            one_bit = one_bit_bounds(epsilon, n, audits, rng)
            exceeded = " | ".join(f"{100 * np.mean(bounds > epsilon):.1f} %" for bounds in (as_run, one_bit))
            means = f"{as_run.mean():.2f} | {all_of_them.mean():.2f}"
            print(f"| {epsilon} | {n} | {sum(default_guesses(n))} | {exceeded} | {means} |", flush=True)
    print("mu  epsilon  M  exceeded: independent, shared size, one number  mean bound, Gaussian  Steinke  ratio")
    for mu in (0, 0.5, 1, 2, 3):
        for n in (50, 200, 1000):
            of_tool, shared, one = (
                of(mu, n, audits, rng) for of in (gaussian_bounds, shared_size_bounds, one_number_bounds)
            )
            exceeded = " | ".join(f"{100 * np.mean(bounds[:, 0] > mu):.1f} %" for bounds in (of_tool, shared, one))
            gaussian, steinke = of_tool[:, 1].mean(), of_tool[:, 2].mean()
            ratio = f"{gaussian / steinke:.2f}" if steinke > 0.05 else ""
            truth = f"{mu} | {gaussian_epsilon(mu, 1e-5):.2f}"
            print(f"| {truth} | {n} | {exceeded} | {gaussian:.2f} | {steinke:.2f} | {ratio} |", flush=True)
    found = rule_shares(audits=audits // 2)
    print("rule  mean (least) share of the best rule's bound:", *MECHANISMS)
    for rule in RULES:
        cells = " | ".join(f"{mean:.2f} ({least:.2f})" for mean, least in (found[rule, kind] for kind in MECHANISMS))
        print(f"| {rule} | {cells} |")


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
