"""Simulated audits with a known truth; `python -m tests.metrics.simulation` prints the coverage table of the docs."""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import norm

from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.intervals import estimate_auroc, tpr_interval
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


def main(audits=2000):
    print("n/class  records/document  AUROC   coverage AUROC  coverage TPR at 1 % FPR")
    for per_document in PER_DOCUMENT:
        for n in SIZES:
            for auroc in AUROCS:
                of_auroc, of_tpr = coverage(n, auroc, per_document, audits, seed=0)
                print(f"{n:7d}  {per_document:16d}  {auroc:5.2f}  {of_auroc:14.4f}  {of_tpr:14.4f}", flush=True)


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
