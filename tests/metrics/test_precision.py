"""Precision at a prior: Bayes' rule, worked out by hand, by counting, and with its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.precision import PRIORS, Precision, as_prior, precisions
from spvmia_plugin.util.schema import as_json, read


def test_worked_out_by_hand():
    half, tenth, thousandth = precisions(0.36, (0.0, 0.55), 0.01)
    assert (half.prior, tenth.prior, thousandth.prior) == PRIORS == (0.5, 0.1, 0.001)
    assert half.value == pytest.approx(0.36 / 0.37)
    assert tenth.value == pytest.approx(0.036 / (0.036 + 0.009))
    assert thousandth.value == pytest.approx(0.00036 / (0.00036 + 0.00999))
    assert tenth.interval == pytest.approx((0.0, 0.055 / 0.064))


@pytest.mark.parametrize("prior", [0.5, 0.02])
def test_it_is_what_counting_the_accused_gives(prior):
    rng = np.random.default_rng(0)
    member = rng.random(400_000) < prior
    accused = rng.random(400_000) < np.where(member, 0.3, 0.01)
    (found,) = precisions(0.3, (0.3, 0.3), 0.01, [prior])
    assert found.value == pytest.approx(np.mean(member[accused]), abs=0.015)


@pytest.mark.parametrize("prior", [0.9, 0.5, 0.001])
def test_a_guess_has_the_prior(prior):
    (found,) = precisions(0.01, (0.002, 0.05), 0.01, [prior])
    assert found.value == pytest.approx(prior)
    assert found.interval[0] < prior < found.interval[1]


def test_what_is_not_resolved_stays_so_and_is_read_back():
    found = precisions(math.nan, (math.nan, math.nan), 0.01)
    assert all(math.isnan(one.value) and math.isnan(one.interval[0]) for one in found)
    assert as_json(found[0]) == {"prior": 0.5, "value": None, "interval": [None, None]}
    assert math.isnan(read(Precision, as_json(found[0])).value)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_prior_is_a_share(prior):
    with pytest.raises(SpvmiaError, match=r"--prior: expected the share of members .* got"):
        precisions(0.3, (0.1, 0.5), 0.01, [prior])


@pytest.mark.parametrize(("given", "prior"), [("0.001", 0.001), ("1/1000", 0.001), ("1e-3", 0.001), (" 1 / 2 ", 0.5)])
def test_a_prior_is_written_as_people_do(given, prior):
    assert as_prior(given) == pytest.approx(prior)


@pytest.mark.parametrize("given", ["half", "1/0", "1/", "/2", "3/2", "1:10", "nan", "1e999999999", "5 %", ""])
def test_what_is_no_share_is_named(given):
    with pytest.raises(SpvmiaError, match=r"write 0\.001 or 1/1000"):
        as_prior(given)
