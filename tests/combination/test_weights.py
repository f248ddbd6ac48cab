"""Fitting a combination: what it learns, what it must not see, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from spvmia_plugin.combination import Scored, compare, fit, fitting
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc

GAPS = {"spv": 1.0, "ez": 1.0, "loss": 0.3}


def scored(seed, *, gaps=GAPS, n=200, scale=1.0, blocks=2):
    """Attacks whose errors are independent but for a little, two records a document."""
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * n) // blocks % 2 == 0
    common = 0.3 * rng.standard_normal(2 * n)
    scores = {name: scale * (rng.standard_normal(2 * n) + common + gap * labels) for name, gap in gaps.items()}
    return Scored(scores, labels, [f"document {i // blocks}" for i in range(2 * n)])


@pytest.mark.parametrize("normalise", ["z", "rank"])
def test_no_label_of_the_target_touches_the_fit_or_the_scores(normalise):
    shadow, target = scored(0), scored(1, scale=50)
    fitted = fit([shadow], tuple(GAPS), normalise)
    permuted = Scored(target.scores, np.random.default_rng(2).permutation(target.labels), target.clusters)
    honest, shuffled = compare(fitted, target), compare(fitted, permuted)
    assert np.array_equal(fitted.score(target.scores), fitted.score(permuted.scores))
    assert honest.combined.auroc > 0.75
    assert abs(shuffled.combined.auroc - 0.5) < 0.08


def test_the_scores_are_a_weighted_sum_of_robust_z_scores():
    target = scored(1, scale=7)
    fitted = fit([scored(0)], tuple(GAPS))
    expected = np.zeros(400)
    for name, weight in zip(fitted.attacks, fitted.weights, strict=True):
        values = target.scores[name]
        low, middle, high = np.percentile(values, [25, 50, 75])
        expected += weight * np.clip((values - middle) / ((high - low) / 1.349), -5, 5)
    assert np.allclose(fitted.score(target.scores), expected)


def test_a_huge_outlier_moves_no_other_record():
    target = scored(1)
    fitted = fit([scored(0)], tuple(GAPS))
    before = fitted.score(target.scores)
    spoilt = {name: values.copy() for name, values in target.scores.items()}
    top = int(np.argmax(spoilt["ez"]))
    spoilt["ez"][top] = 1e9
    after = fitted.score(spoilt)
    assert np.allclose(np.delete(after, top), np.delete(before, top))


def test_what_helps_gets_weight_and_what_misleads_gets_a_negative_one():
    rng = np.random.default_rng(0)

    def audit(seed):
        one = scored(seed, gaps={"spv": 0.5})
        noise = rng.standard_normal(400)
        return Scored({"spv": one.scores["spv"] + noise, "noise": noise}, one.labels, one.clusters)

    fitted = fit([audit(3)], ("spv", "noise"))
    assert fitted.weights[0] > 0 > fitted.weights[1]


def test_two_shadows_are_each_on_their_own_scale():
    both = fit([scored(0), scored(5, scale=1000)], tuple(GAPS))
    same_scale = fit([scored(0), scored(5)], tuple(GAPS))
    assert np.allclose(both.weights, same_scale.weights)


@pytest.mark.parametrize("normalise", ["z", "rank"])
def test_no_weight_depends_on_the_order_of_the_records(normalise):
    one = scored(3, gaps={"spv": 0.4, "ez": 0.4, "loss": 0.1}, n=60)
    one.scores["loss"][::3] = np.nan  # equal features
    found = [fit([one], tuple(GAPS), normalise)]
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(120)
        scores = {name: values[order] for name, values in one.scores.items()}
        found.append(fit([Scored(scores, one.labels[order], [one.clusters[i] for i in order])], tuple(GAPS), normalise))
    assert found[0] == found[1] == found[2]


def test_documents_of_two_shadows_with_one_id_are_two_documents(monkeypatch):
    """Ids are `file:row`, and shadows come from files of one name: a fold must not tear apart what it takes for one."""
    seen = []
    monkeypatch.setattr(fitting, "_fitted", lambda _, __, codes, *___: seen.append(codes))
    fit([scored(0), scored(1)], tuple(GAPS))
    assert len(np.unique(seen[0])) == 400


def test_each_shadow_needs_both_classes():
    """Each is normalised by itself: two of one class each would have their whole signal taken out."""
    one = scored(0)
    halves = [
        Scored({name: v[one.labels == member] for name, v in one.scores.items()}, one.labels[one.labels == member],
               [c for c, label in zip(one.clusters, one.labels, strict=True) if label == member])
        for member in (True, False)
    ]  # fmt: skip
    with pytest.raises(SpvmiaError, match="--shadow: expected non-members of at least 5 documents, got 0"):
        fit(halves, tuple(GAPS))
    with pytest.raises(SpvmiaError, match="members of at least 5 documents, got 2"):
        fit([scored(0, n=4)], tuple(GAPS))


def test_folds_that_cannot_hold_both_classes_are_an_error():
    held = [(9, 9), (7, 8), (0, 10), (23, 0), (6, 6), (5, 5), (26, 0)]  # members and non-members of each document
    labels = np.concatenate([np.arange(m + n) < m for m, n in held])
    clusters = [number for number, (m, n) in enumerate(held) for _ in range(m + n)]
    with pytest.raises(SpvmiaError, match="--shadow: expected documents that 5 folds of both classes"):
        fit([Scored({"spv": np.arange(len(labels))}, labels, clusters)], ("spv",))


def test_nothing_to_fit_is_an_error():
    with pytest.raises(SpvmiaError, match="--shadow: expected at least one shadow and one attack, got 0 and 1"):
        fit([], ("spv",))
    with pytest.raises(SpvmiaError, match="got 1 and 0"):
        fit([scored(0)], ())


def test_arrays_of_other_lengths_are_an_error_and_labels_may_be_numbers():
    assert Scored({"spv": np.zeros(2)}, np.array([0, 1]), "ab").labels.dtype == bool
    with pytest.raises(SpvmiaError, match="one score for each label"):
        Scored({"spv": np.zeros(3)}, np.array([0, 1]), "ab")
    with pytest.raises(SpvmiaError, match="clusters: expected 2"):
        Scored({"spv": np.zeros(2)}, np.array([0, 1]), "abc")


def test_a_record_without_a_score_counts_as_the_middle():
    target = scored(1)
    target.scores["ez"][:50] = np.nan
    fitted = fit([scored(0)], tuple(GAPS))
    values = fitted.score(target.scores)
    assert np.isfinite(values).all()
    assert auroc(values, target.labels) > 0.75
    found = compare(fitted, target)
    assert found.unscored == {"spv": 0, "ez": 50, "loss": 0}
    assert found.singles["ez"].n_members + found.singles["ez"].n_nonmembers == 400


def test_an_attack_that_says_nothing_at_all_changes_nothing():
    shadow, target = scored(0), scored(1)
    for silent in (np.full(400, np.nan), np.zeros(400)):
        names = ("spv", "ez", "silent")
        audits = [
            Scored({**audit.scores, "silent": silent}, audit.labels, audit.clusters) for audit in (shadow, target)
        ]
        found = fit(audits[:1], names)
        assert np.allclose(found.score(audits[1].scores), fit([shadow], names[:2]).score(target.scores), atol=1e-3)


def test_attacks_that_a_shadow_lacks_are_an_error():
    with pytest.raises(SpvmiaError, match="--shadow: expected scores of rmia"):
        fit([scored(0)], ("spv", "rmia"))


def test_an_unknown_scale_is_an_error():
    with pytest.raises(SpvmiaError, match="--normalise: expected one of z, rank, got 'log'"):
        fit([scored(0)], ("spv",), "log")
