"""Simulated audits with a known truth; `python -m tests.metrics.simulation` prints the coverage table of the docs."""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import norm

from spvmia_plugin.metrics.arrays import cluster_codes
from spvmia_plugin.metrics.asr import asr_interval
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.names import METRICS_WITH_INTERVAL
from spvmia_plugin.metrics.paired import gains
from spvmia_plugin.metrics.several import strongest
from spvmia_plugin.metrics.tpr import tpr_interval

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


def even(n):
    """Every record a document of its own."""
    return np.ones(n, dtype=int)


def zipf(documents, n):
    """Documents whose sizes fall as 1 / rank, about n records together."""
    shares = 1 / np.arange(1, documents + 1)
    return np.maximum(1, np.round(n * shares / np.sum(shares))).astype(int)


def few_large(documents, records, others):
    """Some documents of so many records each, and others of a single one."""
    return np.r_[np.full(documents, records), even(others)]


UNEVEN = {
    "1 to 5 records": (np.arange(250) % 5 + 1, np.arange(250) % 5 + 1),
    "10 of 20 records, 200 of one": (few_large(10, 20, 200), few_large(10, 20, 200)),
    "Zipf, 20 documents": (zipf(20, 250), zipf(20, 250)),
    "Zipf, 60 documents": (zipf(60, 500), zipf(60, 500)),
    "Zipf, 200 documents": (zipf(200, 1000), zipf(200, 1000)),
    "one member document has half": (few_large(1, 125, 125), even(250)),
    "one of each class has half": (few_large(1, 125, 125), few_large(1, 125, 125)),
}
"""Records of each document of the members and of the non-members."""
ASRS = (0.5, 0.6, 0.8, 0.95, 0.99)
NEAR_ONE = (0.99, 0.995, 0.999, 0.9995, 0.9999)


def uneven_audit(sizes_m, sizes_n, auroc, correlation, rng):
    """Scores, labels and documents of binormal scores in documents of these sizes."""
    sizes = np.r_[sizes_m, sizes_n]
    documents = np.repeat(np.arange(len(sizes)), sizes)
    is_member = np.arange(len(documents)) < np.sum(sizes_m)
    shared, own = rng.standard_normal(len(sizes))[documents], rng.standard_normal(len(documents))
    scores = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return scores + np.sqrt(2) * norm.ppf(auroc) * is_member, is_member, documents


def auroc_coverage(sizes_m, sizes_n, auroc, audits, seed, correlation=CORRELATION):
    """Share of audits whose 95 % interval of AUROC holds the truth, and the median width of the interval."""
    rng = np.random.default_rng([seed, len(sizes_m), len(sizes_n), int(10_000 * auroc), int(100 * correlation)])
    ends = []
    for _ in range(audits):
        ends.append(estimate_auroc(*uneven_audit(sizes_m, sizes_n, auroc, correlation, rng)).interval(0.95))
    low, high = np.transpose(ends)
    return np.mean((low <= auroc) & (auroc <= high)), np.median(high - low)


def tpr_coverage(sizes_m, sizes_n, auroc, audits, seed, fpr=0.05):
    """Share of audits whose 95 % interval of the TPR holds the truth, and the median width of the interval."""
    rng = np.random.default_rng([seed, len(sizes_m), int(10_000 * auroc)])
    ends = []
    for _ in range(audits):
        audit = uneven_audit(sizes_m, sizes_n, auroc, CORRELATION, rng)
        ends.append(tpr_interval(*audit, fpr, 0.95))
    low, high = np.transpose(ends)
    truth = binormal_tpr(auroc, fpr)
    return np.mean((low <= truth) & (truth <= high)), np.median(high - low)


def asr_coverage(sizes_m, sizes_n, asr, audits, seed, spread_of_members=1.0):
    """Share of audits whose 95 % interval of the ASR holds the truth, and the median width of the interval.

    Non-members are standard normal, members have a standard deviation of `spread_of_members` and the mean at which the
    TPR is `asr` where FPR + TPR = 1.
    """
    rng = np.random.default_rng([seed, len(sizes_m), int(10_000 * asr), int(100 * spread_of_members)])
    ends = []
    for _ in range(audits):
        scores, labels, documents = uneven_audit(sizes_m, sizes_n, 0.5, CORRELATION, rng)
        scores = np.where(labels, spread_of_members * scores + (1 + spread_of_members) * norm.ppf(asr), scores)
        ends.append(asr_interval(scores, labels, documents, 0.95))
    low, high = np.transpose(ends)
    return np.mean((low <= asr) & (asr <= high)), np.median(high - low)


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


def exposed_audit(n, attacks, rng, memorised=0.05, sensitive=None):
    """Scores of correlated attacks on n members and n non-members, of which a share of the members is memorised.

    Args:
        n: records a class.
        attacks: how many; their errors have a correlation of 0.6.
        rng: draws.
        memorised: share of the members that score 4 standard deviations higher; all others score like non-members.
        sensitive: how many of the attacks see it, None for all.
    """
    labels = np.arange(2 * n) < n
    known = np.arange(2 * n) < round(memorised * n)
    common = rng.standard_normal(2 * n)
    scores = {
        f"a{number}": np.sqrt(0.6) * common
        + np.sqrt(0.4) * rng.standard_normal(2 * n)
        + 4 * known * (sensitive is None or number < sensitive)
        for number in range(attacks)
    }
    return scores, labels


def evidence(n, attacks, audits, seed, **of_audit):
    """Shares of audits that call evidence: by AUROC, at the low end, and by either."""
    found = np.zeros(3)
    rng = np.random.default_rng([seed, n, attacks])
    for number in range(audits):
        result = strongest(*exposed_audit(n, attacks, rng, **of_audit), seed=number)
        whole = result.auroc.excludes(0.5)
        few = result.most_exposed.excludes(METRICS_WITH_INTERVAL[result.low_end].guess)
        found += [whole, few, whole or few]
    return found / audits


def main(audits=2000):
    print("n/class  records/document  AUROC   coverage AUROC  coverage TPR at 1 % FPR")
    for per_document in PER_DOCUMENT:
        for n in SIZES:
            for auroc in AUROCS:
                of_auroc, of_tpr = coverage(n, auroc, per_document, audits, seed=0)
                print(f"{n:7d}  {per_document:16d}  {auroc:5.2f}  {of_auroc:14.4f}  {of_tpr:14.4f}", flush=True)
    print("n/class  attacks  memorised  that see it   evidence by AUROC  at the low end  by either")
    for n in (200, 500, 1000):
        for attacks in (1, 17):
            for memorised, sensitive in ((0.0, None), (0.05, None), (0.05, 1)):
                shares = evidence(n, attacks, audits // 5, 0, memorised=memorised, sensitive=sensitive)
                told = "  ".join(f"{share:.3f}" for share in shares)
                print(f"{n:7d}  {attacks:7d}  {memorised:9.2f}  {sensitive or 'all':>11}   {told}", flush=True)


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
