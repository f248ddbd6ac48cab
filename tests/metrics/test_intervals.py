from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, norm

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics import tpr
from spvmia_plugin.metrics.arrays import cluster_codes, effective_number
from spvmia_plugin.metrics.intervals import clopper_pearson, design_effect, estimate_auroc
from spvmia_plugin.metrics.tpr import Bootstrap, tpr_at_fpr, tpr_interval, tpr_stderrs
from tests.metrics.simulation import binormal_audit


def naive_estimates(deviations, clusters):
    """By cluster its part of a mean's error, as large as from the truth; and the mean's variance if all are alike."""
    n = len(clusters)
    rows = {cluster: [row for row in range(n) if clusters[row] == cluster] for cluster in clusters}
    parts = {}
    for cluster, own in rows.items():
        rest = sum((len(others) / n) ** 2 for name, others in rows.items() if name != cluster)
        parts[cluster] = sum(deviations[own]) / n / math.sqrt((1 - len(own) / n) ** 2 + rest)
    if len(rows) == n:
        return parts, 0.0
    within = sum(np.sum((deviations[own] - np.mean(deviations[own])) ** 2) for own in rows.values()) / (n - len(rows))
    between = sum(len(own) * np.mean(deviations[own]) ** 2 for own in rows.values()) / (len(rows) - 1)
    typical = (n - sum(len(own) ** 2 for own in rows.values()) / n) / (len(rows) - 1)
    of_document = (between - within) / typical
    return parts, sum((len(own) / n) ** 2 * (of_document + within / len(own)) for own in rows.values())


def naive_variance(scores, labels, codes):
    """Obuchowski (1997) by its definition, O(mn), each class's part at least as large as if its documents are alike."""
    members, others = scores[labels], scores[~labels]
    kernel = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    auc = kernel.mean()
    total = dict.fromkeys(codes, 0.0)
    for deviations, own in ((kernel.mean(axis=1) - auc, codes[labels]), (kernel.mean(axis=0) - auc, codes[~labels])):
        parts, alike = naive_estimates(deviations, own)
        squares = sum(part**2 for part in parts.values())
        factor = math.sqrt(max(alike / squares, 1)) if squares else 1
        for cluster, part in parts.items():
            total[cluster] += factor * part
    return auc, sum(part**2 for part in total.values())


@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 4))
@settings(max_examples=60)
def test_delong_equals_its_definition(seed, ties, per_document):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(40) < rng.integers(12, 28))
    scores = rng.standard_normal(40) + labels
    scores = np.round(scores) if ties else scores
    codes = cluster_codes(rng.integers(0, 40 // per_document, 40), 40)
    if min(len(set(codes[labels])), len(set(codes[~labels]))) < 2:
        return
    auc, variance = naive_variance(scores, labels, codes)
    estimate = estimate_auroc(scores, labels, codes)
    assert estimate.auroc == pytest.approx(auc)
    assert estimate.stderr == pytest.approx(max(math.sqrt(variance), math.sqrt(1 / 32) / estimate.n_effective))
    assert np.sum(estimate.influence**2) == pytest.approx(variance)


@pytest.mark.parametrize("copies", [True, False])
def test_both_variances_are_right_on_average_however_uneven_the_documents(copies):
    """One document has most of the records. Copies: the mean's variance is the sum of the squared shares."""
    rng = np.random.default_rng(0)
    sizes = np.r_[30, 6, np.ones(14, dtype=int)]
    codes = np.repeat(np.arange(16), sizes)
    found = []
    for _ in range(1000):
        values = rng.standard_normal(16)[codes] + (0 if copies else rng.standard_normal(50))
        parts, alike = naive_estimates(values - values.mean(), codes)
        found.append((sum(part**2 for part in parts.values()), alike))
    truth = np.sum((sizes / 50) ** 2) + (0 if copies else 1 / 50)
    own, alike = np.mean(found, axis=0)
    assert alike == pytest.approx(truth, rel=0.08)
    assert own == pytest.approx(truth, rel=0.1)
    assert effective_number(sizes) == pytest.approx(1 / np.sum((sizes / 50) ** 2))


def test_one_document_with_nearly_all_records_leaves_one_degree_of_freedom():
    scores, labels, _ = binormal_audit(1000, 0.9, 1, np.random.default_rng(0))
    codes = np.where(labels, np.arange(2000) // 998, np.arange(2000))  # 998 and 2 of the members
    estimate = estimate_auroc(scores, labels, codes)
    low, high = estimate.interval(0.95)
    assert estimate.df >= 1
    assert high - low > 0.5


def test_next_to_one_the_upper_limit_lies_above_the_estimate():
    labels = np.arange(500) < 250
    scores = labels * 1000.0 + np.arange(500)
    scores[0] = 497.5  # below two of the non-members: an AUROC of 1 - 1/31,250
    for sign, near, far in ((1, 1, 0), (-1, 0, 1)):
        estimate = estimate_auroc(sign * scores, labels, np.arange(500))
        ends = estimate.interval(0.95)
        assert abs(estimate.auroc - near) == pytest.approx(2 / 250**2)
        assert abs(ends[near] - near) < 0.01 * abs(estimate.auroc - near)
        assert abs(ends[far] - near) == pytest.approx(3.69 / 250, rel=0.02)  # so many may be below without one here


def test_copies_of_records_within_a_document_change_nothing():
    rng = np.random.default_rng(0)
    scores, labels, documents = binormal_audit(60, 0.7, 1, rng)
    single = estimate_auroc(scores, labels, documents)
    copies = estimate_auroc(np.repeat(scores, 5), np.repeat(labels, 5), np.repeat(documents, 5))
    assert copies.stderr == pytest.approx(single.stderr)
    assert copies.interval(0.95) == pytest.approx(single.interval(0.95))
    unaware = estimate_auroc(np.repeat(scores, 5), np.repeat(labels, 5), np.arange(600))
    assert unaware.stderr < 0.5 * single.stderr


@pytest.mark.parametrize("n", [2, 20, 1000])
def test_perfect_separation_has_an_interval_of_positive_width(n):
    labels = np.arange(2 * n) < n
    above = estimate_auroc(labels.astype(float), labels, np.arange(2 * n))
    low, high = above.interval(0.95)
    assert high == 1
    assert 1 - 4 / n < low < 1 - 0.5 / n
    below = estimate_auroc(-labels.astype(float), labels, np.arange(2 * n))
    assert below.interval(0.95) == pytest.approx((0, 1 - low))
    assert above.stderr > 0


def test_a_constant_score_has_a_positive_error():
    estimate = estimate_auroc(np.zeros(100), np.arange(100) < 50, np.arange(100))
    low, high = estimate.interval(0.95)
    assert estimate.auroc == 0.5
    assert low < 0.5 < high
    assert estimate.df == 98


def test_one_document_in_a_class_gives_no_error():
    estimate = estimate_auroc(np.arange(6.0), np.arange(6) < 3, np.array([0, 0, 0, 1, 2, 3]))
    assert math.isnan(estimate.stderr)
    assert all(math.isnan(end) for end in estimate.interval(0.95))
    assert "two documents" in estimate.reason


def test_higher_confidence_is_wider():
    scores, labels, documents = binormal_audit(100, 0.9, 5, np.random.default_rng(1))
    estimate = estimate_auroc(scores, labels, documents)
    inner, outer = estimate.interval(0.8), estimate.interval(0.99)
    assert outer[0] < inner[0] < estimate.auroc < inner[1] < outer[1] < 1
    inner, outer = (tpr_interval(scores, labels, documents, 0.1, level) for level in (0.8, 0.99))
    assert outer[0] < inner[0] < inner[1] < outer[1]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (17, 400)])
def test_clopper_pearson_equals_scipy(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.9, "exact")
    assert clopper_pearson(successes, trials, 0.9) == pytest.approx((expected.low, expected.high))


def test_design_effect():
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.3
    assert design_effect(hits, np.arange(400)) == pytest.approx(1.0)
    assert design_effect(np.repeat(hits, 5), np.repeat(np.arange(400), 5)) == pytest.approx(5, rel=0.01)
    assert design_effect(np.zeros(100, dtype=bool), np.repeat(np.arange(20), 5)) == 5
    assert design_effect(np.arange(4) < 2, np.zeros(4, dtype=int)) == 4
    # half of 100 records in one document: as copies they count as 1 / (1/4 + 50/10,000) records
    assert design_effect(np.zeros(100, dtype=bool), np.r_[np.zeros(50, dtype=int), np.arange(50) + 1]) == 100 / 4 + 0.5
    # documents that hold one hit each are less variable than chance; that is not taken as more evidence
    assert design_effect(np.arange(400) % 2 == 0, np.repeat(np.arange(200), 2)) == 1


def test_the_interval_s_ends_are_order_statistics_of_the_beta_distribution():
    """With members beyond number only the threshold is uncertain: the ends are the TPRs at two order statistics."""
    others = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    members = np.linspace(0, 1001, 1_000_003)
    scores, labels = np.r_[members, others], np.arange(1_001_003) < 1_000_003
    low, high = tpr_interval(scores, labels, np.arange(len(scores)), 0.01, 0.95)
    j_above = max(j for j in range(1, 40) if beta.cdf(0.01, j, 1001 - j) >= 0.975)
    j_below = min(j for j in range(1, 40) if beta.cdf(0.01, j, 1001 - j) <= 0.025)
    assert low == pytest.approx(np.mean(members > 1001 - j_above), abs=1e-4)
    assert high == pytest.approx(np.mean(members >= 1001 - j_below), abs=1e-4)


def test_tpr_interval_holds_the_estimate_and_is_honest_at_the_ends():
    rng = np.random.default_rng(2)
    for target in (0.5, 0.8, 0.95):
        scores, labels, documents = binormal_audit(200, target, 5, rng)
        low, high = tpr_interval(scores, labels, documents, 0.01, 0.95)
        assert 0 <= low <= tpr_at_fpr(scores, labels, 0.01).tpr <= high <= 1
    labels = np.arange(2000) < 1000
    low, high = tpr_interval(labels * 100.0 + np.arange(2000) / 2000, labels, np.arange(2000), 0.01, 0.95)
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 1000))
    # 200 non-members: with probability 0.99^200 = 13 % none of them lies above the true threshold. The highest has an
    # FPR of at most u = 1.8 % with 97.5 %: at least 1/1.8 of the members that it lets pass are above the true one.
    few = np.r_[0:1000, 1000:1200]
    low, high = tpr_interval(labels[few] * 100.0 + few / 2000, labels[few], few, 0.01, 0.95)
    assert low == pytest.approx(0.01 / (1 - 0.025 ** (1 / 200)), rel=0.01)
    assert high == 1


@pytest.mark.parametrize("step", [0.25, 0.5, 2.0])
def test_ties_at_the_threshold_are_covered(step):
    """Scores of few values (ez, rmia): the threshold jumps over all that share one. 73 to 89 % before."""
    rng = np.random.default_rng(int(100 * step))
    values = np.arange(-12, 14, step)
    threshold = values[np.argmax(norm.sf(values + step / 2) <= 0.01)]
    truth, held = norm.sf(threshold + step / 2 - 2), 0
    for _ in range(300):
        labels = np.arange(1000) < 500
        scores = np.round((rng.standard_normal(1000) + 2 * labels) / step) * step
        low, high = tpr_interval(scores, labels, np.arange(1000), 0.01, 0.95)
        held += low <= truth <= high
    assert held >= 0.93 * 300


@pytest.mark.parametrize(
    ("members", "others", "fpr", "share"),
    [
        *((500, 500, 0.01, share) for share in (0.8, 0.95, 1.05)),
        *((50, 1000, 0.01, share) for share in (0.8, 0.95, 1.05)),
        # So few others don't show that a score is shared by more than the FPR: of that the interval knows nothing.
        *((300, 30, 0.05, share) for share in (0.8, 0.95)),
    ],
)
def test_a_score_that_the_top_shares_is_covered(members, others, fpr, share):
    """One score at the top (ez = 1) that a little more or less of the others than the FPR have: 78 to 87 % before."""
    rng, held = np.random.default_rng(int(100 * share)), 0
    labels, at_top = np.arange(members + others) < members, share * fpr
    truth = 0.3 + 0.7 * (fpr - at_top) / (1 - at_top) if share <= 1 else 0.0
    for _ in range(200):
        scores = rng.random(members + others)
        scores[rng.random(len(scores)) < np.where(labels, 0.3, at_top)] = 2.0
        low, high = tpr_interval(scores, labels, np.arange(len(labels)), fpr, 0.95)
        held += low <= truth <= high
    assert held >= 0.93 * 200


@pytest.mark.parametrize(("n", "share"), [(300, 0.004), (300, 0.008), (100, 0.02)])
def test_scores_that_are_nearly_all_one_are_covered(n, share):
    """A few members differ, and no other record: 70 to 90 % before, and an audit in which none does had no width."""
    rng, held = np.random.default_rng(0), 0
    labels = np.arange(2 * n) < n
    for _ in range(400):
        scores = (labels & (rng.random(2 * n) < share)).astype(float)
        low, high = estimate_auroc(scores, labels, np.arange(2 * n)).interval(0.95)
        held += low <= 0.5 + share / 2 <= high
    assert held >= 0.93 * 400


def errors(scores, labels, codes, fprs, seed):
    drawn = Bootstrap(labels, codes, seed).tprs([scores], fprs)[0]
    return tpr_stderrs(scores, labels, codes, fprs, drawn)


def test_tpr_stderr_is_the_spread_over_repeated_audits():
    rng = np.random.default_rng(3)
    for per_document in (1, 5):
        audits = [binormal_audit(1000, 0.9, per_document, rng) for _ in range(60)]
        tprs = [tpr_at_fpr(scores, labels, 0.05).tpr for scores, labels, _ in audits]
        found = [errors(*audit, (0.05,), seed)[0] for seed, audit in enumerate(audits[:6])]
        assert np.mean(found) == pytest.approx(np.std(tprs), rel=0.35)


def naive_bootstrap(scores, labels, codes, fpr, times, rng):
    """Draw documents of each class with replacement and measure again."""
    sides = [np.unique(codes[side]) for side in (labels, ~labels)]
    tprs = []
    for _ in range(times):
        rows = [np.flatnonzero(codes == c) for side in sides for c in rng.choice(side, len(side))]
        rows = np.concatenate(rows)
        tprs.append(tpr_at_fpr(scores[rows], labels[rows], fpr).tpr)
    return np.std(tprs)


@pytest.mark.parametrize("rounding", [0.25, 1e-9])
def test_tpr_stderr_equals_a_naive_bootstrap(rounding, monkeypatch):
    rng = np.random.default_rng(4)
    scores, labels, documents = binormal_audit(120, 0.9, 3, rng)
    scores = np.round(scores / rounding) * rounding
    order = rng.permutation(len(scores))
    scores, labels, codes = scores[order], labels[order], cluster_codes(documents[order], len(order))
    expected = naive_bootstrap(scores, labels, codes, 0.1, 800, rng)
    assert errors(scores, labels, codes, (0.05, 0.1), 0)[1] == pytest.approx(expected, rel=0.15)
    monkeypatch.setattr(tpr, "_CHUNK", 7 * len(scores))
    assert errors(scores, labels, codes, (0.1,), 1)[0] == pytest.approx(expected, rel=0.15)


def test_tpr_stderr_repeats_with_its_seed():
    audit = binormal_audit(100, 0.8, 1, np.random.default_rng(5))
    assert errors(*audit, (0.05,), 3) == errors(*audit, (0.05,), 3)
    assert errors(*audit, (0.05,), 3) != errors(*audit, (0.05,), 4)


def test_documents_of_both_classes_are_drawn_as_a_whole():
    rng = np.random.default_rng(6)
    base = rng.standard_normal(300)
    scores = np.r_[base + 0.5, base]
    labels = np.arange(600) < 300
    together = estimate_auroc(scores, labels, np.tile(np.arange(300), 2)).stderr
    assert together < 0.8 * estimate_auroc(scores, labels, np.arange(600)).stderr
    assert errors(scores, labels, np.tile(np.arange(300), 2), (0.1,), 0)[0] > 0


def test_a_tpr_of_zero_has_a_positive_error():
    labels = np.arange(200) < 100
    (error,) = errors(-labels.astype(float), labels, np.arange(200), (0.01,), 0)
    assert 0.001 < error < 0.02


def test_codes_number_clusters_in_order_of_appearance():
    np.testing.assert_array_equal(cluster_codes(["b", "a", "b"], 3), [0, 1, 0])
    np.testing.assert_array_equal(cluster_codes(None, 3), [0, 1, 2])
    with pytest.raises(SpvmiaError, match="expected 3 entries"):
        cluster_codes(["a"], 3)


def test_interval_is_close_to_the_normal_theory_in_large_samples():
    scores, labels, documents = binormal_audit(5000, 0.5, 1, np.random.default_rng(7))
    low, high = estimate_auroc(scores, labels, documents).interval(0.95)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * math.sqrt(10001 / (12 * 5000**2)), rel=0.03)


@pytest.mark.parametrize("seed", range(12))
def test_bootstrap_tprs_read_off_the_top_are_those_of_the_whole_order(seed):
    """Against repeating every record as often as its document is drawn; ties, gaps, large documents, FPRs up to 0.9."""
    rng = np.random.default_rng(seed)
    n, fprs = int(rng.integers(30, 200)), ((0.9, 0.2, 0.05, 0.01), (0.05, 0.01))[seed % 2]
    labels = rng.random(n) < (0.2, 0.5, 0.9)[seed % 3]
    # Large documents of both classes have the highest scores: where they are not drawn a threshold lies far down.
    codes = np.where(np.arange(n) < n // 3, np.arange(n) % 3, np.arange(n))
    codes = np.unique(codes, return_inverse=True)[1]
    scores = np.round(rng.normal(size=n) + 3.0 * (3 - np.minimum(codes, 3)), 1)
    scores[rng.random(n) < 0.1] = np.nan
    bootstrap = Bootstrap(labels, codes, seed)
    weights = np.concatenate(list(bootstrap._weights()))[:40]
    found = bootstrap.tprs([scores], fprs)[0][:, :40]
    for column, of_documents in enumerate(weights):
        times = np.where(np.isfinite(scores), of_documents[codes], 0).astype(int)
        members = np.repeat(scores[labels], times[labels])
        others = np.sort(np.repeat(scores[~labels], times[~labels]))[::-1]
        for row, fpr in enumerate(fprs):
            rank = fpr * (len(others) + 1)
            whole = int(rank + 1e-9)
            above = [
                len(members) if j > len(others) else np.sum(members > others[j - 1]) if j else 0
                for j in (whole, whole + 1)
            ]
            share = max(rank - whole, 0.0)
            expected = ((1 - share) * above[0] + share * above[1]) / max(len(members), 1)
            assert found[row, column] == pytest.approx(expected, abs=1e-12)
