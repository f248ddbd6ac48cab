"""The blind baseline: folds by document, scores that are comparable, and what it finds and does not find."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest

from spvmia_plugin.attacks import out_of_fold
from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.out_of_fold import assign_folds, group_labels, join_same_texts
from spvmia_plugin.signals import Unscored
from tests.attacks.corpora import auroc, half, names, texts


def naive_classes(text: str) -> list[str]:
    """Classes of characters, "A", "a", "0" or the character itself; runs of letters and digits once, others twice."""
    found: list[str] = []
    for character in text:
        kind = "A" if character.isupper() else "a" if character.islower() else "0" if character.isdigit() else character
        if found[-1:] != [kind] or (kind not in "Aa0" and found[-2:] != [kind] * 2):
            found.append(kind)
    return ["^", *found, "$"]


def naive_looks(corpus: list[str], limit: int) -> np.ndarray:
    """Columns in no order that matters: those of the n-grams nearest to half of the texts."""
    bags = []
    for text in corpus:
        kinds = naive_classes(text)
        bags.append(Counter(tuple(kinds[i : i + n]) for n in (2, 3) for i in range(len(kinds) - n + 1)))
    share = Counter(ngram for bag in bags for ngram in bag)
    telling = [ngram for ngram, n in share.items() if 1 < n < len(corpus)]
    assert len(telling) <= limit, "otherwise ties decide"
    counts = np.array([[min(bag[ngram], 255) for ngram in telling] for bag in bags], dtype=float)
    looks = np.log1p(counts.reshape(len(corpus), len(telling)))
    looks -= looks.mean(axis=0)
    variance = (looks**2).sum() / len(corpus)
    return looks / math.sqrt(variance) if variance > 1e-9 else looks


def naive_features(corpus: list[str], limit: int) -> np.ndarray:
    bags = [Counter(re.findall(r"\w+", text.lower())) for text in corpus]
    documents = Counter(word for bag in bags for word in bag)
    words = sorted((word for word in documents if documents[word] > 1), key=lambda word: (-documents[word], word))
    rows = []
    for bag in bags:
        row = []
        for word in words[:limit]:
            row.append(math.log(1 + bag[word]) * (math.log((1 + len(corpus)) / (1 + documents[word])) + 1))
        length = math.sqrt(sum(value * value for value in row))
        rows.append([value / length for value in row] if length else row)
    for sizes in ([len(text) for text in corpus], [sum(bag.values()) for bag in bags]):
        logs = [math.log(1 + size) for size in sizes]
        middle = sum(logs) / len(logs)
        spread = math.sqrt(sum((value - middle) ** 2 for value in logs) / len(logs))
        for row, value in zip(rows, logs, strict=True):
            row.append((value - middle) / spread if spread > 1e-9 else 0.0)
    return np.concatenate([np.array(rows), naive_looks(corpus, 128)], axis=1)


CORPUS = [*texts(np.random.default_rng(0), 57), "Oil OIL oil, w0!", "???", "w0 w1 W2 seldom"]


@pytest.mark.parametrize("limit", [7, 2000])
@pytest.mark.parametrize("rows", [4, 2048])
def test_features_equal_naive_ones(limit: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks that they lie in; a word that a text has 300 times included."""
    monkeypatch.setattr(out_of_fold, "ROWS", rows)
    corpus = [*CORPUS, "w3 " * 300]
    fold = np.arange(len(corpus)) % 3
    design = out_of_fold.design_of(corpus, fold, limit, 128)
    got = np.full((len(corpus), design.width), np.nan)
    for number, blocks in enumerate(design.folds):
        for block in blocks:
            assert set(fold[block.rows]) == {number}
            assert len(block.rows) <= rows
            words, others = design.matrix(block)
            got[block.rows] = np.concatenate([words.toarray(), others], axis=1)
    expected = naive_features(corpus, limit)
    n_words = len(design.idf) + 2
    np.testing.assert_allclose(got[:, :n_words], expected[:, :n_words], atol=1e-12)
    np.testing.assert_allclose(by_column(got[:, n_words:]), by_column(expected[:, n_words:]), atol=1e-12)


def by_column(looks: np.ndarray) -> np.ndarray:
    """The columns in an order that rounding does not change."""
    return looks[:, np.lexsort(np.round(looks, 9))]


def test_scores_equal_naive_ones() -> None:
    """Dense ridge regression fold by fold, ranks by counting."""
    labels, attack = half(60), BagOfWords(folds=3, words=50)
    folded = attack.fold(CORPUS, labels, names(60), seed=4)
    got = attack.score_all(CORPUS, labels, names(60), seed=4)
    features = naive_features(CORPUS, 50)
    fold = np.empty(60, dtype=int)
    fold[folded.order] = folded.fold[folded.groups]
    for number in range(3):
        train, test = fold != number, fold == number
        signs = np.where(labels[train], 1.0, -1.0)
        gram = features[train].T @ features[train] + np.eye(features.shape[1])
        raw = features[test] @ np.linalg.inv(gram) @ features[train].T @ (signs - signs.mean())
        for position, value in zip(np.flatnonzero(test), raw, strict=True):
            below = sum(other < value - 1e-9 for other in raw)
            equal = sum(abs(other - value) <= 1e-9 for other in raw)
            assert got[position] == pytest.approx((below + equal / 2) / len(raw), abs=1e-9)


def test_null_data_are_centred_on_one_half() -> None:
    """Raw scores of the same fits, pooled, lie below: the trap that ranks within stratified folds avoid."""
    rng, found = np.random.default_rng(1), []
    for seed in range(100):
        corpus = texts(rng, 60)
        found.append(auroc(BagOfWords(words=100).score_all(corpus, half(60), names(60), seed), half(60)))
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(len(found))
    assert np.std(found) / math.sqrt(len(found)) < 0.012


@pytest.mark.parametrize("mark", ["words", "length"])
def test_finds_a_difference_of_the_data(mark: str) -> None:
    rng, labels = np.random.default_rng(2), half(100)
    corpus = texts(rng, 100)
    if mark == "words":
        corpus = [f"{text} in {2019 if label else 2023}" for text, label in zip(corpus, labels, strict=True)]
    else:
        corpus = [text + ("!" * 30 if label else "") for text, label in zip(corpus, labels, strict=True)]
    assert auroc(BagOfWords().score_all(corpus, labels, names(100), 0), labels) > 0.95


def documents(seed: int) -> tuple[list[str], np.ndarray, list[str]]:
    """20 documents of 6 records that share most of their words; nothing but the document tells the label."""
    rng = np.random.default_rng(seed)
    own = [rng.choice(3000, 20) for _ in range(20)]
    corpus = [" ".join(f"d{word}" for word in rng.permutation(own[n // 6])[:17]) for n in range(120)]
    return corpus, half(20).repeat(6), [f"file:{n // 6}" for n in range(120)]


def test_no_record_is_scored_by_a_fit_on_its_document() -> None:
    by_document, by_record = [], []
    for seed in range(8):
        corpus, labels, clusters = documents(seed)
        by_document.append(auroc(BagOfWords().score_all(corpus, labels, clusters, seed), labels))
        by_record.append(auroc(BagOfWords().score_all(corpus, labels, names(120), seed), labels))
    assert abs(np.mean(by_document) - 0.5) < 0.12
    assert np.mean(by_record) > 0.95


def test_copies_of_a_text_are_one_document() -> None:
    rng, labels = np.random.default_rng(3), half(60).repeat(2)
    corpus = [text for text in texts(rng, 60) for _ in range(2)]
    scores = BagOfWords().score_all(corpus, labels, names(120), 0)
    assert scores[::2] == scores[1::2]
    assert auroc(scores, labels) < 0.75  # with copies across folds: 1


def test_groups_join_along_chains() -> None:
    corpus, clusters = ["a", "b", "b", "c", "c", "d"], ["1", "1", "2", "2", "3", "4"]
    groups = join_same_texts(corpus, clusters)
    assert len(set(groups[:5])) == 1
    assert groups[5] != groups[0]
    assert set(groups) == {0, 1}
    assert join_same_texts(["a", "a"], [5, 6]).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_parts(seed: int) -> None:
    """Against joining two records at a time until nothing changes; numbered by each part's first cluster."""
    rng = np.random.default_rng(seed)
    corpus = [f"t{number}" for number in rng.integers(0, 60, 80)]
    clusters = [f"c{number:02}" for number in rng.integers(0, 60, 80)]
    part = [clusters[i] for i in range(80)]
    changed = True
    while changed:
        changed = False
        for i in range(80):
            for j in range(80):
                if (corpus[i] == corpus[j] or clusters[i] == clusters[j]) and part[j] > part[i]:
                    part[j], changed = part[i], True
    expected = {name: number for number, name in enumerate(sorted(set(part)))}
    assert join_same_texts(corpus, clusters).tolist() == [expected[name] for name in part]


def test_a_mixed_document_counts_as_its_majority() -> None:
    assert group_labels(np.array([0, 0, 0, 1, 1, 2]), np.array([1, 0, 0, 1, 0, 0], dtype=bool)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_folds_hold_the_classes_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(83), rng.integers(1, 6, 83))
    labels = np.arange(83) < 29
    fold = assign_folds(groups, labels, 5, rng)
    for label in (False, True):
        of_class = np.bincount(fold[labels == label], minlength=5)
        assert of_class.max() - of_class.min() <= 1
        records = np.bincount(fold[groups[labels[groups] == label]], minlength=5)
        assert records.max() - records.min() <= 6


def test_seed_and_nothing_else_moves_the_folds() -> None:
    corpus, labels, clusters = documents(0)
    first = BagOfWords().score_all(corpus, labels, clusters, 1)
    assert BagOfWords().score_all(corpus, labels, clusters, 1) == first
    assert BagOfWords().score_all(corpus, labels, clusters, 2) != first
    order = np.random.default_rng(0).permutation(120)
    moved = BagOfWords().score_all([corpus[i] for i in order], labels[order], [clusters[i] for i in order], 1)
    assert moved == [first[i] for i in order]


@pytest.mark.parametrize(
    ("members", "others", "scored"), [(10, 10, True), (9, 40, False), (40, 9, False), (0, 0, False)]
)
def test_needs_two_documents_of_a_class_per_fold(members: int, others: int, scored: bool) -> None:
    corpus = texts(np.random.default_rng(0), members + others)
    scores = BagOfWords().score_all(corpus, np.arange(len(corpus)) < members, names(len(corpus)), 0)
    assert len(scores) == len(corpus)
    reason = "too few documents of a class for out-of-fold scores"
    assert all(isinstance(score, float) if scored else score == Unscored(reason) for score in scores)


def test_texts_that_look_alike_tie() -> None:
    same = ["!" * 3 + "." for _ in range(40)]  # one document, so too few
    assert set(BagOfWords().score_all(same, half(40), names(40), 0)) == {
        Unscored("too few documents of a class for out-of-fold scores")
    }
    different = [chr(0x4E00 + n) for n in range(40)]  # every word once, and the class of all characters the same
    assert BagOfWords().score_all(different, half(40), names(40), 0) == [0.5] * 40


@pytest.mark.parametrize(
    ("members", "others"),
    [
        ("User: {}\nAssistant: {}", "user: {}\nassistant: {}"),
        ("{} {}\n", "{} {}"),
        ("### Instruction:\n{}\n### Response:\n{}", "Instruction: {} Response: {}"),
        ("The {} Is {}", "the {} is {}"),
        ("{}\r\n{}", "{}\n{}"),
        ("“{}” {}", '"{}" {}'),
        ("{}  {}", "{} {}"),
    ],
    ids=["case of a role", "line break at the end", "template", "capitals", "line ends", "quotes", "double space"],
)
def test_a_template_that_differs_is_seen(members: str, others: str) -> None:
    """Words and length are the same: what tells the classes apart is the way they are written."""
    rng, labels = np.random.default_rng(6), half(200)
    first, second = texts(rng, 200, 20), texts(rng, 200, 20)
    corpus = [(members if label else others).format(*each) for label, *each in zip(labels, first, second, strict=True)]
    assert auroc(BagOfWords().score_all(corpus, labels, names(200), 0), labels) > 0.95


def test_scripts_without_spaces_have_words() -> None:
    """A character is a word: without that, a whole clause was one, which no other text had."""
    rng, labels = np.random.default_rng(7), half(200)
    letters = [chr(0x4E00 + 7 * k) for k in range(300)]
    corpus = ["".join(rng.choice(letters, 40)) + ("于今" if label and rng.random() < 0.8 else "") for label in labels]
    corpus = [text + "".join(rng.choice(letters, 42 + 40 - len(text))) for text in corpus]
    assert auroc(BagOfWords().score_all(corpus, labels, names(200), 0), labels) > 0.8
