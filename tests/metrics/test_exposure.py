from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.exposure import agreement, exposure

IDS = ["f:1", "f:2", "f:3", "f:4", "f:5"]
LABELS = [True, False, True, False, True]


def test_rank_and_share_against_counting():
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.5
    scores = np.round(rng.standard_normal(60), 1)
    found = {member.id: member.attacks["a"] for member in exposure([str(i) for i in range(60)], labels, {"a": scores})}
    assert len(found) == labels.sum()
    for row in np.flatnonzero(labels):
        one = found[str(row)]
        assert one.score == scores[row]
        assert one.rank == np.sum(scores >= scores[row])
        assert one.nonmember_share == np.mean(scores[~labels] >= scores[row])


def test_the_most_exposed_member_comes_first_and_names_the_attack():
    found = exposure(IDS, LABELS, {"a": [1, 2, 3, 4, 5], "b": [9, 2, 1, 8, 0]})
    assert [member.id for member in found] == ["f:1", "f:5", "f:3"]
    assert [member.lowest_share for member in found] == [0, 0, 0.5]
    assert [member.lowest_share_attack for member in found] == ["b", "a", "a"]


def test_what_an_attack_did_not_score_is_absent():
    nan = math.nan
    found = {
        member.id: member
        for member in exposure(IDS, LABELS, {"a": [nan, nan, 3, nan, nan], "b": [1, 0, nan, nan, nan]})
    }
    assert found["f:3"].attacks["a"].nonmember_share is None
    assert found["f:3"].lowest_share is None
    assert set(found["f:1"].attacks) == {"b"}
    assert found["f:5"].to_json() == {"id": "f:5", "lowest_share": None, "lowest_share_attack": None, "attacks": {}}


def test_is_json_ready():
    written = json.loads(json.dumps([m.to_json() for m in exposure(IDS, LABELS, {"a": np.arange(5)})], allow_nan=False))
    assert written[0] == {
        "id": "f:5",
        "lowest_share": 0.0,
        "lowest_share_attack": "a",
        "attacks": {"a": {"score": 4.0, "rank": 1, "nonmember_share": 0.0}},
    }


def test_p_values_stand_beside_the_scores_of_attacks_that_give_them():
    p_values = {"a": [0.1, 0.2, math.nan, 0.4, 0.01]}
    found = exposure(IDS, LABELS, {"a": np.arange(5), "b": np.arange(5)}, p_values)
    told = {member.id: member.attacks["a"].p_value for member in found}
    assert told == {"f:1": 0.1, "f:3": None, "f:5": 0.01}
    assert all(member.attacks["b"].p_value is None for member in found)
    assert found[0].to_json()["attacks"]["a"] == {"score": 4.0, "rank": 1, "nonmember_share": 0.0, "p_value": 0.01}
    assert found[:2][1].attacks["a"].p_value == told[found[1].id]


def test_lengths_have_to_match():
    with pytest.raises(SpvmiaError, match="scores of a"):
        exposure(IDS, LABELS, {"a": [1.0]})
    with pytest.raises(SpvmiaError, match="scores of a"):
        exposure(IDS, LABELS, {"a": np.arange(5)}, {"a": [0.5]})
    with pytest.raises(SpvmiaError, match="got shapes"):
        exposure(IDS, [True], {})


def test_agreement_counts_what_the_tops_have_in_common():
    scores = -np.arange(200.0)
    assert agreement(scores, scores, 0.01) == agreement(scores, 3 * scores + 1, 0.05) == 1
    other = scores.copy()
    other[1:10:2] = -1000  # of the first ten, the second list has 0, 2, 4, 6, 8 and five others
    assert agreement(scores, other, 0.05) == 0.5
    assert agreement(scores, -scores, 0.05) == 0
    assert agreement(scores, -scores, 1.0) == 1
    assert agreement(scores[:5], scores[:5], 0.01) == 1  # at least one member


@pytest.mark.parametrize("saturated", [False, True])
def test_agreement_of_random_orders_is_the_share(saturated):
    """Also where many members have the highest score there is: equal ones are in no order that two lists share."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(500):
        lists = rng.random((2, 400))
        found.append(agreement(*(np.minimum(lists, 0.6) if saturated else lists), 0.05))
    assert np.mean(found) == pytest.approx(0.05, abs=0.008)


def test_agreement_under_ties_is_the_mean_over_their_orders():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 4, (2, 12)).astype(float)
    found = []
    for _ in range(20_000):
        tops = [set(np.lexsort((rng.random(12), -scores))[:5].tolist()) for scores in (one, other)]
        found.append(len(tops[0] & tops[1]) / 5)
    assert agreement(one, other, 5 / 12) == pytest.approx(np.mean(found), abs=0.01)


@pytest.mark.parametrize("other", [[], [1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_agreement_is_of_the_same_members(other):
    with pytest.raises(SpvmiaError, match=r"expected scores of the same members in both, got shapes \(2,\) and"):
        agreement([1.0, 2.0], other, 0.5)
    with pytest.raises(SpvmiaError, match="lists of members"):
        agreement([], [], 0.5)
