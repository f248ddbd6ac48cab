from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.exposure import exposure

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


def test_lengths_have_to_match():
    with pytest.raises(SpvmiaError, match="scores of a"):
        exposure(IDS, LABELS, {"a": [1.0]})
    with pytest.raises(SpvmiaError, match="got shapes"):
        exposure(IDS, [True], {})
