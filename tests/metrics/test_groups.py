"""The strongest attack by group: its intervals against those of one group, and what is said of small groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.groups import FEWEST_DOCUMENTS, by_group
from spvmia_plugin.metrics.several import compare, max_quantile, max_quantile_over


def audit(strengths, n=80, seed=0):
    """Scores of two attacks, labels, documents and groups; members of each group are moved by its strength."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(list(strengths), 2 * n)
    member = np.tile(np.repeat([True, False], n), len(strengths))
    moved = np.array([strengths[group] for group in groups]) * member
    noise = rng.standard_normal(len(groups))
    scores = {"strong": noise + moved, "weak": rng.standard_normal(len(groups)) + moved / 4}
    return scores, member, [f"d{i}" for i in range(len(groups))], groups.tolist()


def test_the_worst_group_is_named_where_it_is_told_apart() -> None:
    found = by_group(*audit({"en": 0.2, "de": 2.5, "fr": 0.0}))
    assert found.groups[0].name == "de"
    assert found.worst == "de"
    assert found.groups[0].auroc.attack == "strong"
    assert (found.groups[0].members, found.groups[0].nonmembers) == (80, 80)
    assert found.n_attacks == 2
    assert found.confidence == 0.95
    assert by_group(*audit({"en": 0.2, "de": 0.6, "fr": 0.0})).worst is None


def test_a_single_group_has_the_intervals_of_its_attacks_alone() -> None:
    """As `compare` of as many numbers: two attacks by two metrics, where that has eight."""
    scores, member, documents, groups = audit({"all": 0.8})
    found = by_group(scores, member, documents, groups, seed=3)
    whole = compare(scores, member, documents, seed=3)
    group = found.groups[0]
    leader = whole.leaders["auroc"]["strong"]
    assert group.auroc.value == leader.value
    assert leader.low <= group.auroc.low < group.auroc.value < group.auroc.high <= leader.high
    assert 1.96 < found.critical <= whole.critical
    assert found.worst is None


def test_more_groups_widen_every_interval() -> None:
    few = by_group(*audit({"a": 0.5, "b": 0.5}))
    many = by_group(*audit(dict.fromkeys("abcdefgh", 0.5)))
    assert many.critical > few.critical + 0.2


def test_small_groups_and_records_of_none() -> None:
    scores, member, documents, groups = audit({"large": 1.0, "small": 1.0})
    kept = FEWEST_DOCUMENTS - 1
    groups = [
        group if group == "large" or place in range(160, 160 + kept) or place >= 240 else None
        for place, group in enumerate(groups)
    ]
    found = by_group(scores, member, documents, groups)
    assert [group.name for group in found.groups] == ["large", "small"]
    small = found.groups[1]
    assert small.reason == (
        f"its records are of {kept} members' and 80 non-members' documents or units: at least {FEWEST_DOCUMENTS} of "
        "each are needed"
    )
    assert math.isnan(small.auroc.value)
    assert found.worst is None


def test_records_of_few_units_are_few() -> None:
    scores, member, _, groups = audit({"all": 1.0})
    found = by_group(scores, member, [f"u{place // 8}" for place in range(160)], groups)
    assert found.groups[0].reason is not None
    assert found.groups[0].reason.startswith("its records are of 10 members'")
    assert math.isnan(found.critical)


def test_attacks_without_scores_in_a_group() -> None:
    scores, member, documents, groups = audit({"a": 0.5, "b": 2.0})
    in_b = np.array(groups) == "b"
    scores = {"strong": np.where(in_b, math.nan, scores["strong"])}
    found = by_group(scores, member, documents, groups)
    assert [group.reason for group in found.groups] == [None, "no attack has scores of both classes"]


def test_scores_of_one_document_of_a_class_have_no_error() -> None:
    scores, member, documents, groups = audit({"a": 0.5})
    scores = {"strong": np.where(member & (np.arange(160) > 0), math.nan, scores["strong"])}
    found = by_group(scores, member, documents, groups)
    assert found.groups[0].reason == "fewer than two documents in a class: no standard error"


def test_a_tpr_that_so_few_cannot_resolve() -> None:
    """An attack with a score for fewer others than one in 20 of them would be."""
    scores, member, documents, groups = audit({"a": 2.0})
    others = ~member & (np.cumsum(~member) > 15)
    found = by_group({"strong": np.where(others, math.nan, scores["strong"])}, member, documents, groups)
    assert found.groups[0].most_exposed.reason is not None
    assert not math.isnan(found.groups[0].auroc.low)


def test_lengths_that_differ() -> None:
    with pytest.raises(SpvmiaError):
        by_group({"a": [1.0]}, [True], ["d"], ["g", "h"])


def test_parts_that_are_independent_reach_further_than_one() -> None:
    errors = np.random.default_rng(0).standard_normal((2, 400))
    assert max_quantile_over([errors], 50, 0.95, 1) == max_quantile(errors, 50, 0.95, 1)
    together = max_quantile_over([errors, errors], 50, 0.95, 1)
    independent = max_quantile(np.random.default_rng(5).standard_normal((4, 400)), 50, 0.95, 1)
    assert together == pytest.approx(independent, rel=0.02)


def test_intervals_of_all_groups_hold_at_once() -> None:
    """Null scores in four groups under two attacks: some interval misses .5 in at most 5 %, here with three errors."""
    missed = 0
    for seed in range(150):
        scores, member, documents, groups = audit(dict.fromkeys("abcd", 0.0), n=40, seed=seed)
        found = by_group(scores, member, documents, groups, seed=seed)
        missed += any(group.auroc.low > 0.5 for group in found.groups)
    assert missed / 150 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def test_an_attack_that_scored_hardly_anything_of_a_group_takes_nothing_from_the_others() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(400) % 2 == 0
    groups = ["north" if place < 200 else "south" for place in range(400)]
    scores = {"a": rng.normal(size=400) + labels}
    few = np.full(400, np.nan)
    few[:2] = [1.0, 0.0]
    clusters = list(range(400))
    alone = by_group(scores, labels, clusters, groups)
    beside = by_group({"few": few, **scores}, labels, clusters, groups)
    assert [group.auroc for group in beside.groups] == [group.auroc for group in alone.groups]
    assert all(group.reason is None for group in beside.groups)
