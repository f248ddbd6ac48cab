"""Simulated users with a known truth; `python -m tests.metrics.users` prints the tables of docs/statistics.md."""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import norm

from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.metrics.tpr import tpr_at_fpr
from spvmia_plugin.metrics.units import normal_scores, unit_scores

STYLE = 0.5
"""Correlation between the scores of two records of one user, who writes them all."""
NOISES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "t3": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
    "skewed": lambda rng, n: rng.exponential(1.0, n) - 1,
}
NUMBERS = {
    "5 each": ([5], [5]),
    "1 to 20": ([1, 2, 3, 5, 20], [1, 2, 3, 5, 20]),
    "members have more": ([5, 10, 20], [1, 2, 3]),
}
"""Records of a member and of a non-member, drawn from these."""


def users(n, numbers, rng, *, style=STYLE, noise="normal", all_by=0.0, one_by=0.0):
    """Scores, labels and users of the records of n members and n others.

    Args:
        n: users of each class.
        numbers: what the number of records of a member, and of another, is drawn from.
        rng: of all draws.
        style: correlation between records of one user.
        noise: of `NOISES`.
        all_by: how far every record of a member is moved.
        one_by: how far one record of each member is moved besides.
    """
    sizes = np.r_[rng.choice(numbers[0], n), rng.choice(numbers[1], n)]
    user = np.repeat(np.arange(2 * n), sizes)
    member = (np.arange(2 * n) < n)[user]
    draw = NOISES[noise]
    scores = np.sqrt(style) * draw(rng, 2 * n)[user] + np.sqrt(1 - style) * draw(rng, len(user)) + all_by * member
    scores[(np.cumsum(sizes) - sizes)[:n]] += one_by
    return scores, member, user


def _mean(z, user):
    return np.bincount(user, z) / np.bincount(user)


def _best(z, user, k=2):
    order = np.lexsort((-z, user))
    sizes = np.bincount(user)
    kept = order[np.arange(len(z)) - np.repeat(np.cumsum(sizes) - sizes, sizes) < k]
    return np.bincount(user[kept], z[kept]) / np.minimum(sizes, k)


def _z(scores):
    return (scores - np.mean(scores)) / np.std(scores)


WAYS = {
    "sum": lambda scores, user: np.bincount(user, _z(scores)),
    "mean of z": lambda scores, user: _mean(_z(scores), user),
    "best 1": lambda scores, user: _best(_z(scores), user, 1),
    "best 2": lambda scores, user: _best(_z(scores), user, 2),
    "mean of normal scores": lambda scores, user: _mean(normal_scores(scores), user),
    "spread allowed for": unit_scores,
}
"""How the scores of a user's records can become one; the last is what the audit does."""
SCENARIOS = {"nothing": {}, "all a little": {"all_by": 0.3}, "one strongly": {"one_by": 2.0}}


def ways(numbers, noise, audits, seed, n=100, style=STYLE, **effect):
    """Mean AUROC, and mean TPR at 5 % FPR, by user, of each of `WAYS`."""
    rng = np.random.default_rng(seed)
    found = {name: [] for name in WAYS}
    for _ in range(audits):
        scores, _, user = users(n, numbers, rng, noise=noise, style=style, **effect)
        labels = np.arange(2 * n) < n
        for name, way in WAYS.items():
            of_users = way(scores, user)
            found[name].append((auroc(of_users, labels), tpr_at_fpr(of_users, labels, 0.05).tpr))
    return {name: tuple(np.mean(values, axis=0)) for name, values in found.items()}


def truth(numbers, all_by, style, seed=99, n=40_000):
    """The AUROC by user of very many users."""
    rng = np.random.default_rng(seed)
    scores, _, user = users(n, numbers, rng, style=style, all_by=all_by)
    return auroc(unit_scores(scores, user), np.arange(2 * n) < n)


def coverage(n, numbers, audits, seed, all_by=0.3, style=STYLE):
    """Share of audits whose 95 % interval of the AUROC by user holds the truth, and the interval's median width."""
    rng, true = np.random.default_rng([seed, n]), truth(numbers, all_by, style)
    ends = []
    for _ in range(audits):
        scores, _, user = users(n, numbers, rng, style=style, all_by=all_by)
        of_users = unit_scores(scores, user)
        ends.append(estimate_auroc(of_users, np.arange(2 * n) < n, np.arange(2 * n)).interval(0.95))
    low, high = np.transpose(ends)
    return float(np.mean((low <= true) & (true <= high))), float(np.median(high - low)), true


def record_coverage_ignoring_users(n, audits, seed, all_by=0.3, style=STYLE):
    """The same of the AUROC by record with each record its own document: what units are for."""
    rng = np.random.default_rng([seed, n])
    true = norm.cdf(all_by / np.sqrt(2))
    held = []
    for _ in range(audits):
        scores, member, _ = users(n, NUMBERS["5 each"], rng, style=style, all_by=all_by)
        low, high = estimate_auroc(scores, member, np.arange(len(scores))).interval(0.95)
        held.append(low <= true <= high)
    return float(np.mean(held))


def main(audits=1000):
    """Print the tables."""
    print(f"coverage of 95 % intervals, {audits} audits: users a class, records, moved by -> coverage, width, truth")
    for n in (30, 100, 300):
        for name, numbers in list(NUMBERS.items())[:2]:
            for all_by in (0.0, 0.3, 1.0):
                held, width, true = coverage(n, numbers, audits, 0, all_by)
                print(f"  {n:3} | {name:8} | {all_by:.1f} | {100 * held:.1f} % ({width:.3f}) | {true:.3f}", flush=True)
    print(f"  records as if independent, 100 users of 5: {100 * record_coverage_ignoring_users(100, audits, 0):.1f} %")
    few = max(20, audits // 10)
    print(f"AUROC / TPR at 5 % FPR by user, 100 users a class, mean over {few} audits: {', '.join(WAYS)}")
    for noise in NOISES:
        for name, numbers in NUMBERS.items():
            for scenario, effect in SCENARIOS.items():
                if name != "members have more" or not effect:
                    found = ways(numbers, noise, few, 1, **effect)
                    cells = " | ".join(f"{a:.3f} / {t:.3f}" for a, t in found.values())
                    print(f"  {noise:6} | {name:17} | {scenario:12} | {cells}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
