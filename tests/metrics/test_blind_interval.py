"""The interval around the blind baseline's AUROC holds where a formula for independent scores does not."""

from __future__ import annotations

import ast
import math
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from spvmia_plugin.attacks import out_of_fold
from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.checks import blind
from spvmia_plugin.checks.blind import BlindInterval, auroc_columns, blind_interval, not_computed
from spvmia_plugin.checks.copies import near_copies
from spvmia_plugin.harness.shared import SharedData
from spvmia_plugin.records import AuditData, Record
from tests.attacks.corpora import auroc, half, names, texts
from tests.attacks.test_bag_of_words import documents, naive_features
from tests.metrics.made_up import CORPORA, changed


def docstrings() -> list[str]:
    """Real text that every Python brings: what its library says of itself, in an order of its own."""
    found: dict[str, None] = {}
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text.split()) >= 12:
                    found[text] = None
    return list(found)


def test_auroc_by_columns_equals_counted_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, (40, 5)) / 6, rng.random((40, 5)) < 0.4
    expected = [auroc(list(scores[:, column]), labels[:, column]) for column in range(5)]
    np.testing.assert_allclose(auroc_columns(scores, labels), expected, atol=1e-12)


def test_is_about_the_scores_of_the_attack() -> None:
    corpus, labels, clusters = documents(3)
    scores = BagOfWords().score_all(corpus, labels, clusters, 5)
    found = blind_interval(BagOfWords(), corpus, labels, clusters, 5)
    assert found.auroc == pytest.approx(auroc(scores, labels), abs=1e-12)
    assert 0 <= found.low <= found.auroc <= found.high <= 1
    assert found == blind_interval(BagOfWords(), corpus, labels, clusters, 5)
    assert (found.confidence, found.permutations) == (0.95, 399)


def test_some_at_a_time_gives_the_numbers_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows and of labelings change the order of sums, which scores are rounded for: the ranks stay."""
    corpus, labels, clusters = documents(3)
    whole = blind_interval(BagOfWords(), corpus, labels, clusters, 5, permutations=79)
    monkeypatch.setattr(out_of_fold, "ROWS", 7)
    monkeypatch.setattr(out_of_fold, "SCORES_AT_A_TIME", 9 * len(corpus))
    parts = blind_interval(BagOfWords(), corpus, labels, clusters, 5, permutations=79)
    assert parts == whole


def test_it_equals_a_naive_one() -> None:
    """All features, labelings and scores in dense arrays, as one would write it down."""
    rng = np.random.default_rng(8)
    labels = half(60)
    corpus = [f"{text} {'new' if label else 'old'}" for text, label in zip(texts(rng, 60), labels, strict=True)]
    corpus = [text if i % 3 else text.replace("new", "old") for i, text in enumerate(corpus)]
    attack = BagOfWords(folds=3, words=80)
    found = blind_interval(attack, corpus, labels, names(60), 4, permutations=39)
    folded = attack.fold(corpus, labels, names(60), 4)
    fold, features = folded.fold[folded.groups], naive_features([corpus[i] for i in folded.order], 80)
    rng = np.random.default_rng([4, 1])
    columns = [labels[folded.order]]
    for _ in range(39):
        drawn = folded.labels.copy()
        for number in range(3):
            drawn[folded.fold == number] = rng.permutation(folded.labels[folded.fold == number])
        columns.append(drawn[folded.groups])
    aurocs = []
    for column in columns:
        ranks = np.empty(60)
        for number in range(3):
            train, test = fold != number, fold == number
            signs = np.where(column[train], 1.0, -1.0)
            gram = features[train].T @ features[train] + np.eye(features.shape[1])
            raw = features[test] @ np.linalg.solve(gram, features[train].T @ (signs - signs.mean()))
            ranks[test] = (rankdata(np.round(raw, 9)) - 0.5) / test.sum()
        aurocs.append(auroc(list(ranks), column))
    assert found.auroc == pytest.approx(aurocs[0], abs=1e-9)
    assert found.p_value == pytest.approx((1 + sum(a >= aurocs[0] - 1e-12 for a in aurocs[1:])) / 40)


def test_memory_does_not_hold_every_record_under_every_labeling(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 records under 400 labelings: 13 MB of scores in one array, and several of them, if all were held."""
    monkeypatch.setattr(out_of_fold, "SCORES_AT_A_TIME", 40_000)
    corpus = [f"w{i % 7} w{i % 11} x{i}" for i in range(4000)]
    tracemalloc.start()
    try:
        blind_interval(BagOfWords(words=20), corpus, half(4000), names(4000), 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def test_why_nothing_was_computed() -> None:
    """Nine documents of members, in more records; ten would do."""
    clusters = [f"m{i % 9}" for i in range(20)] + [f"n{i}" for i in range(20)]
    labels, corpus = np.arange(40) < 20, texts(np.random.default_rng(0), 40)
    assert blind_interval(BagOfWords(), corpus, labels, clusters, 0) is None
    told = not_computed(BagOfWords(), labels, clusters)
    assert told.details == {"needed": 10, "members": 9, "nonmembers": 20}
    assert "needs 10 documents of each class" in told.message
    assert "got 9 of members and 20 of non-members" in told.message
    assert blind_interval(BagOfWords(), corpus, labels, [*clusters[:19], "m9", *clusters[20:]], 0) is not None
    assert not_computed(BagOfWords(), np.ones(40), clusters) is None  # an empty class is told by itself


def test_what_is_shared_says_so() -> None:
    corpus, clusters = texts(np.random.default_rng(0), 30), [f"f:{i}" for i in range(30)]
    records = tuple(Record(c, t, i < 9, c) for i, (c, t) in enumerate(zip(clusters, corpus, strict=True)))
    data = AuditData(records, (), (), "declared", "f" * 8, "made", 0)
    codes = [finding.code for finding in SharedData(data, 0).findings(clusters)]
    assert "blind_not_computed" in codes
    assert "blind_not_computed" not in [finding.code for finding in SharedData(data, 0).findings(clusters[9:])]


def test_too_few_documents() -> None:
    assert blind_interval(BagOfWords(), ["a", "b"], half(2), names(2), 0) is None


def test_a_date_shift_is_significant() -> None:
    rng, labels = np.random.default_rng(2), half(100)
    corpus = [f"{text} in {2019 if label else 2023}" for text, label in zip(texts(rng, 100), labels, strict=True)]
    found = blind_interval(BagOfWords(), corpus, labels, names(100), 0)
    assert found.low > 0.8
    assert found.p_value == 1 / 400
    finding = found.finding()
    assert (finding.code, finding.severity) == ("blind_above_chance", "warning")
    assert finding.details["low"] == found.low
    assert f"tells them apart with AUROC {found.auroc:.3f} (95% interval {found.low:.3f} to" in finding.message
    assert replace(found, low=0.5).finding() is None


def test_the_lower_end_agrees_with_the_test() -> None:
    """low > 0.5 means that fewer than 2.5 % of the labelings, the true one counted, score as high."""
    rng = np.random.default_rng(4)
    for seed in range(40):
        corpus = texts(rng, 40)
        shifted = [
            text + (" new" if label and seed % 3 == 0 else "") for text, label in zip(corpus, half(40), strict=True)
        ]
        found = blind_interval(BagOfWords(words=60), shifted, half(40), names(40), seed, permutations=79)
        assert (found.low > 0.5 + 1e-12) == (found.p_value <= 0.025 + 1e-12)


@pytest.mark.parametrize("unit", ["records", "documents"])
def test_level_on_null_data(unit: str) -> None:
    """A two-sided interval at 80 %: 10 % of the lower and of the upper ends lie on the wrong side of one half."""
    rng, runs, low, high = np.random.default_rng(5), 80, 0, 0
    for seed in range(runs):
        corpus, labels, clusters = texts(rng, 40), half(40), names(40)
        if unit == "documents":
            corpus, labels, clusters = documents(seed)
        attack = BagOfWords(words=60)
        found = blind_interval(attack, corpus, labels, clusters, seed, confidence=0.8, permutations=39)
        low, high = low + (found.low > 0.5), high + (found.high < 0.5)
    for count in (low, high):
        assert abs(count - 0.1 * runs) <= 3 * math.sqrt(runs * 0.09)


@pytest.mark.parametrize(
    ("above", "low", "high"), [(9, True, False), (10, False, False), (389, False, False), (390, False, True)]
)
def test_the_ends_are_the_tests_to_the_very_labeling(
    above: int, low: bool, high: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 399 labelings, the true one is no better with 10 above it, and no worse with 10 below it: 2.5 % of 400."""
    aurocs = iter([(399.5 - above) / 400, *(np.random.default_rng(0).permutation(399) + 1) / 400])
    monkeypatch.setattr(blind, "auroc_columns", lambda ranks, labels: np.array(list(islice(aurocs, labels.shape[1]))))
    corpus, labels, clusters = documents(3)
    found = blind_interval(BagOfWords(words=20), corpus, labels, clusters, 5)
    assert found.p_value == pytest.approx((1 + above) / 400)
    assert (found.low > 0.5, found.high < 0.5) == (low, high)


def families(rng: np.random.Generator, count: int, size: int) -> list[str]:
    """So many independent texts, each with versions of its own: one word in 12 changed, one after the other."""
    return [changed(rng, text, 12) for text in en_us(rng, count) for _ in range(size)]


en_us = CORPORA["en_US"]


def as_data(corpus: list[str], labels: np.ndarray) -> AuditData:
    records = tuple(
        Record(f"f:{i}", text, bool(label), f"f:{i}")
        for i, (text, label) in enumerate(zip(corpus, labels, strict=True))
    )
    return AuditData(records, (), (), "declared", "f" * 8, "made", 0)


def test_versions_of_a_text_are_one_document() -> None:
    """Families dealt to the classes as a whole, in files of their own: without joining them the baseline knows them."""
    before, after = [], []
    for seed in range(6):
        rng = np.random.default_rng([14, seed])
        data = as_data(families(rng, 40, 5), np.repeat(rng.permutation(40) < 20, 5))
        joined = near_copies(data).joined(data)
        for records, found in ((data.records, before), (joined.records, after)):
            texts_of, clusters = [record.text for record in records], [record.cluster for record in records]
            found.append(blind_interval(BagOfWords(), texts_of, half_of(records), clusters, seed, permutations=199))
        assert len({record.cluster for record in joined.records}) <= 50
    assert np.mean([each.auroc for each in before]) > 0.9
    assert abs(np.mean([each.auroc for each in after]) - 0.5) < 0.15
    assert sum(each.finding() is not None for each in after) <= 1


def half_of(records: tuple[Record, ...]) -> np.ndarray:
    return np.array([record.is_member for record in records])


@pytest.mark.parametrize("every", [6, 4])
def test_rewritten_members_among_the_non_members_turn_the_baseline_round(every: int) -> None:
    """One word in 6 changed: too much for spans of words to tell each pair, and the wrong way round for words."""
    rng = np.random.default_rng(15)
    members = en_us(rng, 150)
    rewritten = [changed(rng, text, every) for text in members[:100]]
    data = as_data([*members, *rewritten, *en_us(rng, 50)], np.arange(300) < 150)
    shared = SharedData(data, 0)
    finding = next(each for each in shared.findings([r.id for r in data.records]) if each.code == "blind_below_chance")
    assert finding.severity == "warning"
    assert finding.details["high"] < 0.5
    assert "the wrong way round" in finding.message


def test_a_finding_is_made_at_99_percent() -> None:
    """Of 400 labelings, the true one counted, at most 2 are as far out."""
    inside = BlindInterval(auroc=0.6, low=0.51, high=0.7, p_value=3 / 400, confidence=0.95, permutations=399)
    assert inside.finding() is None
    assert replace(inside, p_value=2 / 400).finding().code == "blind_above_chance"
    below = BlindInterval(auroc=0.4, low=0.3, high=0.49, p_value=398 / 400, confidence=0.95, permutations=399)
    assert below.finding() is None
    assert replace(below, p_value=1.0).finding().code == "blind_below_chance"
    assert replace(below, p_value=1.0, high=0.5).finding() is None


def test_near_copies_are_joined_for_every_number_and_every_reader() -> None:
    rng = np.random.default_rng(16)
    corpus = en_us(rng, 60)
    corpus[7] = changed(rng, corpus[3], 12)
    shared = SharedData(as_data(corpus, np.arange(60) < 30), 0)
    assert shared.record("f:7").cluster == shared.record("f:3").cluster == "f:3"
    assert [record.cluster for record in shared.data.records].count("f:3") == 2
    codes = [finding.code for finding in shared.findings([f"f:{i}" for i in range(60)])]
    assert {"near_copies_joined", "several_records_per_document"} <= set(codes)


@pytest.mark.slow
def test_re_splits_of_real_text() -> None:
    """Members and non-members drawn alike: over 200 seeded re-splits at most 8 % of the lower ends lie above 0.5."""
    corpus, labels = docstrings(), half(500)
    assert len(corpus) > 1000
    found = []
    for seed in range(200):
        chosen = np.random.default_rng([11, seed]).permutation(len(corpus))[:500]
        found.append(blind_interval(BagOfWords(), [corpus[i] for i in chosen], labels, names(500), seed))
    assert np.mean([item.low > 0.5 for item in found]) <= 0.08
    assert abs(np.mean([item.auroc for item in found]) - 0.5) < 0.01
