"""Simulated audits with a known truth; `python -m tests.metrics.simulation` prints the coverage table of the docs."""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import norm

from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.gaussian_dp import gaussian_bound
from spvmia_plugin.metrics.intervals import estimate_auroc, tpr_interval
from spvmia_plugin.metrics.one_run import canary_audit, epsilon_lower_bound
from spvmia_plugin.metrics.several import gains

SIZES = (100, 400, 2000)
AUROCS = (0.5, 0.7, 0.95)
PER_DOCUMENT = (1, 5)
FPR = 0.01
CORRELATION = 0.5
"""Between the scores of two records of one document."""


def binormal_audit(n, auroc, per_document, rng):
    """Scores, labels and documents of n members and n non-members in documents of `per_document` records."""
    documents = n // per_document
    shift = np.sqrt(2) * norm.ppf(auroc)
    shared = np.repeat(rng.standard_normal(2 * documents), per_document)
    own = rng.standard_normal(2 * n)
    is_member = np.repeat([True, False], n)
    scores = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own + shift * is_member
    return scores, is_member, np.repeat(np.arange(2 * documents), per_document)


def binormal_tpr(auroc, fpr=FPR):
    """The true TPR of `binormal_audit` at an FPR."""
    return norm.cdf(np.sqrt(2) * norm.ppf(auroc) - norm.ppf(1 - fpr))


def coverage(n, auroc, per_document, audits, seed):
    """Shares of audits whose 95 % intervals of AUROC and of TPR at 1 % FPR hold the truth (TPR: NaN below n = 400)."""
    rng = np.random.default_rng([seed, n, int(1000 * auroc), per_document])
    truth = binormal_tpr(auroc)
    hits, tpr_hits = 0, 0
    for _ in range(audits):
        scores, labels, documents = binormal_audit(n, auroc, per_document, rng)
        codes = cluster_codes(documents, len(scores))
        low, high = estimate_auroc(scores, labels, codes).interval(0.95)
        hits += low <= auroc <= high
        if n >= 400:
            low, high = tpr_interval(scores, labels, codes, FPR, 0.95)
            tpr_hits += low <= truth <= high
    return hits / audits, tpr_hits / audits if n >= 400 else float("nan")


def gain_coverage(n, theirs, ours, per_document, audits, seed):
    """Shares of audits whose 95 % intervals of the gain of one attack over another hold the truth, AUROC and TPR.

    The errors of the two attacks have a correlation of 0.7.
    """
    rng = np.random.default_rng([seed, n, int(1000 * theirs), int(1000 * ours), per_document])
    truth = (ours - theirs, binormal_tpr(ours) - binormal_tpr(theirs))
    hits = np.zeros(2)
    for number in range(audits):
        second, labels, documents = binormal_audit(n, 0.5, per_document, rng)
        own, _, _ = binormal_audit(n, 0.5, per_document, rng)
        first = 0.7 * second + np.sqrt(1 - 0.7**2) * own + np.sqrt(2) * norm.ppf(ours) * labels
        second = second + np.sqrt(2) * norm.ppf(theirs) * labels
        found = gains(first, second, labels, documents, fpr=FPR, seed=number)
        hits += [low <= true <= high for true, (low, high) in zip(truth, (g.interval for g in found), strict=True)]
    return tuple(hits / audits)


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


def audited_bounds(scores, coins):
    """mu and epsilon of the bound within Gaussian mechanisms, epsilon of Steinke's, right guesses; a row an audit.

    Args:
        scores: (audits, M).
        coins: (audits, M).
    """
    found = [canary_audit(*audit) for audit in zip(scores, coins, strict=True)]
    return np.array([(a.gaussian_dp.mu_lb, a.gaussian_dp.epsilon_lb, a.epsilon_lb, a.n_correct) for a in found])


def gaussian_bounds(mu, n, audits, rng):
    """Of the Gaussian mechanism, audited with the tool's own number of guesses: a number a coin, N(+-mu / 2, 1)."""
    coins = rng.random((audits, n)) < 0.5
    return audited_bounds(rng.standard_normal((audits, n)) + mu * coins, coins)


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


def main(audits=2000):
    print("n/class  records/document  AUROC   coverage AUROC  coverage TPR at 1 % FPR")
    for per_document in PER_DOCUMENT:
        for n in SIZES:
            for auroc in AUROCS:
                of_auroc, of_tpr = coverage(n, auroc, per_document, audits, seed=0)
                print(f"{n:7d}  {per_document:16d}  {auroc:5.2f}  {of_auroc:14.4f}  {of_tpr:14.4f}", flush=True)
    rng = np.random.default_rng(0)
    for epsilon in (0, 1, 2, 4):
        for n in (20, 200, 2000):
            independent = randomised_response_bounds(epsilon, n, audits, rng)
            one_bit = one_bit_bounds(epsilon, n, audits, rng)
            print(
                f"eps {epsilon} M {n:4d}: exceeded {np.mean(independent > epsilon):.4f} (independent) "
                f"{np.mean(one_bit > epsilon):.4f} (one bit); bound 5 % {np.quantile(independent, 0.05):.3f} "
                f"mean {independent.mean():.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
