"""Differences of the classes that need no model: each is named, and classes that are drawn alike hardly ever are."""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import numpy as np
import pytest

from spvmia_plugin.checks.looks import look_shift
from spvmia_plugin.checks.shifts import compressibility_shift, length_shift, length_spread, source_shift
from spvmia_plugin.records import Record
from tests.metrics.made_up import CORPORA, vocabulary

NEW = [length_spread, compressibility_shift, look_shift, source_shift]


def records(members, nonmembers, source=lambda row, member: "d", cluster=lambda row: str(row)):
    rows = [(text, True) for text in members] + [(text, False) for text in nonmembers]
    return [
        Record(f"{source(row, member)}:{row}", text, member, cluster(row)) for row, (text, member) in enumerate(rows)
    ]


def draw(rng, count, lengths=None):
    sizes = np.full(count, 30) if lengths is None else lengths
    return [" ".join(rng.choice(vocabulary(3000), size)) for size in sizes]


TEMPLATES = [
    ("User: {}\nAssistant: {}", "user: {}\nassistant: {}", r"upper-case letters"),
    ("{} {}\n", "{} {}", r"line break"),
    ("### Instruction:\n{}\n### Response:\n{}", "Instruction: {} Response: {}", r"'#'|line break|start|starts"),
    ("{} {}.", "{} {}", r"'\.'"),
    ("The {} Is {}", "the {} is {}", r"upper-case letters"),
    ("{}\r\n{}", "{}\n{}", r"carriage return"),
    ("{}\t{}", "{} {}", r"tab"),
    ("{} {}", " {} {}", r"space"),
]


@pytest.mark.parametrize(("members", "others", "named"), TEMPLATES, ids=[each[2] for each in TEMPLATES])
@pytest.mark.parametrize("per_document", [1, 3])
def test_a_template_that_differs_is_named_without_a_word(members, others, named, per_document):
    rng = np.random.default_rng(0)
    sides = [
        [form.format(*pair) for pair in zip(draw(rng, 60), draw(rng, 60), strict=True)] for form in (members, others)
    ]
    (finding,) = look_shift(records(*sides, cluster=lambda row: str(row // per_document)))
    assert finding.severity == "warning"
    assert re.search(named, finding.details["feature"])
    assert finding.details["feature"] in finding.message
    assert abs(finding.details["auroc"] - 0.5) > 0.4
    written = json.dumps([finding.message, finding.details])
    assert not {word for word in vocabulary(3000) if len(word) > 5 and word in written}


def test_a_slight_difference_of_looks_is_a_note():
    rng = np.random.default_rng(1)
    sides = draw(rng, 1000), draw(rng, 1000)
    some = [text + "\n" * (row % 13 == 0) for row, text in enumerate(sides[0])]
    (finding,) = look_shift(records(some, sides[1]))
    assert finding.severity == "note"
    assert "line break" in finding.details["feature"]
    assert 0.07 < finding.details["members"] + 0.0 < 0.08 or finding.details["members"] < 0.01


def test_lengths_of_another_spread_are_told_though_the_middle_is_the_same():
    rng = np.random.default_rng(2)
    wide = draw(rng, 300, rng.integers(10, 71, 300))
    narrow = draw(rng, 300, rng.integers(35, 46, 300))
    rows = records(wide, narrow)
    assert length_shift(rows) == []
    (finding,) = length_spread(rows)
    assert (finding.code, finding.severity) == ("length_spread", "warning")
    assert finding.details["factor_members"] > finding.details["factor_nonmembers"] > 1
    (moved,) = length_shift(
        records(draw(rng, 300, rng.integers(20, 40, 300)), draw(rng, 100, rng.integers(40, 80, 100)))
    )
    assert moved.severity == "warning"


def test_texts_that_say_less_at_the_same_length_are_told():
    """As what machines write does: the same turns of phrase again and again, which any model finds likely."""
    rng = np.random.default_rng(3)
    formulaic = [
        " ".join(np.concatenate([rng.choice(vocabulary(3000), 5)] * 2 + [rng.choice(vocabulary(3000), 20)]))
        for _ in range(200)
    ]
    for sides, which in (((formulaic, draw(rng, 200)), "members"), ((draw(rng, 200), formulaic), "non-members")):
        (finding,) = compressibility_shift(records(*sides))
        assert finding.severity == "warning"
        assert f"texts of the {which} are more repetitive" in finding.message
        assert (finding.details["ratio"] < 1) == (which == "members")


def test_a_mix_of_files_is_told():
    rng = np.random.default_rng(4)
    texts = draw(rng, 600)

    def file(row, member):
        return f"shards/{'abc'[row % 3 if member or row % 4 else 0]}.jsonl"

    (finding,) = source_shift(records(texts[:300], texts[300:], file))
    assert (finding.code, finding.severity) == ("source_mix", "warning")
    assert finding.details["files"]["shards/a.jsonl"] == {
        "members": pytest.approx(1 / 3),
        "nonmembers": pytest.approx(0.5),
    }
    assert finding.details["distance"] == pytest.approx(1 / 6)
    assert source_shift(records(texts[:300], texts[300:], lambda row, _: f"{row % 3}.jsonl")) == []
    assert source_shift(records(texts[:300], texts[300:])) == []
    # Whole documents are permuted: three of them in each file say nothing.
    assert source_shift(records(texts[:300], texts[300:], file, cluster=lambda row: str(row // 100))) == []


@pytest.mark.parametrize("check", [*NEW, length_shift])
@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b"], ["", "", "", ""], ["same"] * 6])
def test_nothing_is_said_of_nearly_nothing(check, texts):
    for labels in (True, False, None):
        rows = [
            Record(f"f:{row}", text, row % 2 == 0 if labels is None else labels, str(row))
            for row, text in enumerate(texts)
        ]
        assert check(rows) == []


def test_one_document_of_both_classes_is_no_test():
    rows = records(["a b", "c"], ["d e", "f"], lambda row, _: f"{row % 2}", cluster=lambda _: "one")
    assert look_shift(rows) == source_shift(rows) == []


def alarms(kinds, seeds, size):
    """How often each check says something of classes that are drawn alike, some records in one document."""
    counted = Counter()
    for kind in kinds:
        for seed in range(seeds):
            rng = np.random.default_rng([13, seed])
            texts = CORPORA[kind](rng, 2 * size)
            per_document = 1 + seed % 3
            files = rng.integers(0, 4, 2 * size)
            member = rng.permutation(np.arange(2 * size) < size)
            rows = [
                Record(f"{files[row]}:{row}", text, bool(member[row // per_document]), str(row // per_document))
                for row, text in enumerate(texts)
            ]
            counted.update(finding.code for check in [*NEW, length_shift] for finding in check(rows))
    return counted


def test_few_false_alarms():
    counted = alarms(["logs", "en_US"], 30, 40)
    assert max(counted.values(), default=0) <= 4  # of 60 at 1 %: five have a probability of 0.0003


@pytest.mark.slow
def test_false_alarms_are_one_in_a_hundred():
    """Each of the checks at 1 %: of 600 audits more than 14 have a probability of 0.1 %."""
    counted = alarms(["logs", "code", "en_US", "zh_CN", "ru_RU", "chats"], 100, 60)
    limit = 600 * 0.01 + 3.3 * math.sqrt(600 * 0.01 * 0.99)
    assert max(counted.values(), default=0) <= limit, counted


@pytest.mark.parametrize("values", [[80, 81, 82, 83], [80, 160], list(range(20, 400))])
def test_spread_of_few_lengths_is_no_finding(values):
    """Distances from each class's own median were told on 29 % of audits of records of four lengths."""
    rng = np.random.default_rng(len(values))
    labels = np.arange(600) < 300
    told = 0
    for _ in range(100):
        lengths = rng.choice(values, 600)
        records = [
            Record(f"f:{row}", "x" * int(length), bool(label), f"f:{row}")
            for row, (length, label) in enumerate(zip(lengths, labels, strict=True))
        ]
        told += bool(length_spread(records))
    assert told <= 5
