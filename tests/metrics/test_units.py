"""Scores of units: against a naive implementation, honest whatever the number of records, covered intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.metrics.units import (
    FEWEST_UNITS,
    RECORDS_GIVEN,
    Units,
    by_records_given,
    normal_scores,
    told_by_number,
    unit_scores,
)
from tests.metrics.users import NUMBERS, coverage, record_coverage_ignoring_users, users, ways


def naive_unit_scores(scores, units):
    """The formula, record by record."""
    known = [(score, unit) for score, unit in zip(scores, units, strict=True) if not math.isnan(score)]
    n = len(known)
    z = []
    for score, _ in known:
        below = sum(other < score for other, _ in known)
        equal = sum(other == score for other, _ in known)
        z.append(NormalDist().inv_cdf((below + equal / 2) / n))
    names = sorted({unit for _, unit in known})
    own = {name: [value for value, (_, unit) in zip(z, known, strict=True) if unit == name] for name in names}
    mean = {name: sum(values) / len(values) for name, values in own.items()}
    within = sum((value - mean[name]) ** 2 for name in names for value in own[name]) / (n - len(names))
    of_units = sum(len(own[name]) * mean[name] ** 2 for name in names) / (len(names) - 1)
    size = (n - sum(len(own[name]) ** 2 for name in names) / n) / (len(names) - 1)
    between = max(0.0, (of_units - within) / size)
    return {name: mean[name] / math.sqrt(between + within / len(own[name])) for name in names}


def test_the_score_of_a_unit_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 12, 60)
    units[:12] = np.arange(12)
    scores = np.round(rng.standard_normal(60) + units / 5, 1)  # with ties
    scores[[5, 30]] = math.nan
    scores[units == 7] = math.nan
    expected = naive_unit_scores(scores.tolist(), units.tolist())
    found = unit_scores(scores, units)
    assert math.isnan(found[7])
    assert 7 not in expected
    for unit, score in expected.items():
        assert found[unit] == pytest.approx(score, abs=1e-12)


def test_units_of_one_record_each_keep_their_order() -> None:
    scores = np.array([3.0, 1.0, 2.0, math.nan])
    found = unit_scores(scores, np.arange(4))
    assert np.argsort(found[:3]).tolist() == [1, 2, 0]
    assert math.isnan(found[3])


@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0, 2.0], [math.nan] * 4])
def test_scores_that_tell_nothing(scores) -> None:
    found = unit_scores(scores, np.array([0, 0, 1, 1]))
    assert np.array_equal(found, [scores[0] * 0] * 2, equal_nan=True)


def test_one_unit_alone_and_none() -> None:
    assert unit_scores([1.0, 2.0], np.array([0, 0])) == pytest.approx([0.0], abs=1e-12)
    assert len(unit_scores([], np.array([], dtype=np.int64))) == 0


def test_a_monotone_change_of_all_scores_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    scores, _, user = users(20, NUMBERS["1 to 20"], rng)
    assert np.array_equal(unit_scores(np.exp(scores), user), unit_scores(scores, user))


def test_normal_scores_of_ties_and_of_none() -> None:
    found = normal_scores([1.0, 1.0, math.nan, 5.0])
    assert found[0] == found[1] == pytest.approx(NormalDist().inv_cdf(1 / 3))
    assert math.isnan(found[2])


def test_units_are_gathered_in_the_order_of_their_first_record() -> None:
    units = Units.of(["b", "a", "b"], [True, False, True], ["c1", "c2", "c1"])
    assert (units.names, units.is_member.tolist(), units.clusters) == (["b", "a"], [True, False], ["c1", "c2"])
    assert units.of_record.tolist() == [0, 1, 0]
    assert units.sizes.tolist() == [2, 1]


def test_a_unit_of_both_classes_is_refused() -> None:
    with pytest.raises(
        SpvmiaError, match=r"^units: expected records of one class from each, got 1 with records of both"
    ):
        Units.of(["a", "a", "b"], [True, False, True], ["x", "x", "y"])


# --- who has more records is no more a member ---


@pytest.mark.parametrize("noise", ["normal", "t3", "skewed"])
@pytest.mark.parametrize("style", [0.0, 0.25])
def test_more_records_alone_raise_no_number(noise, style) -> None:
    """The other ways to make one score of several do: the sum picks out 20 % at 5 % FPR, the best of many most."""
    found = ways(NUMBERS["members have more"], noise, 60, 3, style=style)
    of_audit = found["spread allowed for"]
    assert of_audit[0] == pytest.approx(0.5, abs=0.03)
    assert of_audit[1] == pytest.approx(0.05, abs=0.03)
    assert found["best 1"][0] > 0.7
    assert found["sum"][1] > 0.12


def test_several_records_tell_more_than_one() -> None:
    found = ways(NUMBERS["5 each"], "normal", 30, 4, all_by=0.3, style=0.0)
    assert found["spread allowed for"][0] > 0.65  # by record .58


def test_how_many_records_units_have_is_told() -> None:
    uneven = Units.of(list("aaabbbcdef"), [True] * 6 + [False] * 4, list("aaabbbcdef"))
    value, (low, high) = told_by_number(uneven)
    assert value == 1.0
    assert low < 1.0 <= high
    assert told_by_number(Units.of(list("abcd"), [True, False] * 2, list("abcd")))[0] == 0.5
    assert math.isnan(told_by_number(Units.of(["a"], [True], ["a"]))[0])


# --- the curve ---


def gathered(scores, member, user):
    return scores, Units.of(user.tolist(), member, user.tolist())


def test_the_curve_rises_with_the_records_given_and_ends_where_units_end() -> None:
    rng = np.random.default_rng(2)
    scores, units = gathered(*users(150, NUMBERS["5 each"], rng, style=0.2, all_by=0.4))
    found = by_records_given(scores, units, seed=5)
    assert [point.records for point in found] == list(RECORDS_GIVEN)
    values = [point.auroc for point in found]
    assert values == sorted(values)
    assert values[0] < values[-1] - 0.05
    assert values[-1] == pytest.approx(auroc(unit_scores(scores, units.of_record), units.is_member), abs=1e-12)
    assert all(point.interval[0] < point.auroc < point.interval[1] for point in found)
    assert (found[0].members, found[0].nonmembers) == (150, 150)
    assert by_records_given(scores, units, seed=5) == found
    assert by_records_given(scores, units, seed=6) != found


def test_one_record_given_is_the_mean_over_records_of_equal_users() -> None:
    rng = np.random.default_rng(3)
    scores, units = gathered(*users(400, NUMBERS["5 each"], rng, all_by=0.5))
    alone = auroc(scores, units.is_member[units.of_record])
    assert by_records_given(scores, units)[0].auroc == pytest.approx(alone, abs=0.01)


def test_points_of_too_few_units_say_so() -> None:
    rng = np.random.default_rng(4)
    sizes = [2] * 30 + [3] * (FEWEST_UNITS - 1) + [2] * 30 + [3] * 30
    names = [f"u{number}" for number, size in enumerate(sizes) for _ in range(size)]
    member = [number < 30 + FEWEST_UNITS - 1 for number, size in enumerate(sizes) for _ in range(size)]
    scores = rng.standard_normal(len(names))
    scores[0] = math.nan
    found = by_records_given(scores, Units.of(names, member, names))
    assert [point.reason is None for point in found] == [True, True, False, False]
    assert found[1].members == 38
    assert math.isnan(found[2].auroc)
    assert found[2].reason == f"fewer than {FEWEST_UNITS} units of a class have 3 scored records"


def test_the_curve_of_nothing() -> None:
    found = by_records_given([math.nan, math.nan], Units.of(["a", "b"], [True, False], ["a", "b"]))
    assert [point.members for point in found] == [0] * len(RECORDS_GIVEN)


# --- intervals ---


@pytest.mark.parametrize("all_by", [0.0, 0.3])
def test_intervals_of_users_cover(all_by) -> None:
    held, _, _ = coverage(100, NUMBERS["5 each"], 300, 7, all_by)
    assert held > 0.92
    assert record_coverage_ignoring_users(100, 100, 7) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("numbers", ["5 each", "1 to 20"])
@pytest.mark.parametrize("all_by", [0.0, 0.3, 1.0])
def test_intervals_of_users_cover_as_published(numbers, all_by) -> None:
    held, _, _ = coverage(100, NUMBERS[numbers], 1500, 8, all_by)
    assert 0.93 <= held <= 0.97
