"""Equal models have no order, and boards say so. The full tables: `python -m tests.leaderboard.simulation`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, studentized_range

from spvmia_plugin.leaderboard import Options, build_board, standing
from spvmia_plugin.leaderboard import board as board_module
from spvmia_plugin.leaderboard.board import rank_ranges
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.leaderboard.front import Point, places
from spvmia_plugin.leaderboard.order import Bounds, range_quantile, surely_below, surely_less
from tests.leaderboard.models import DUPLICATES, RECIPE, audited, model, three_models
from tests.leaderboard.simulation import false_calls, found_last


def test_equal_models_are_rarely_called_apart() -> None:
    now, before = false_calls(120, 100, 0.0)
    assert now <= 12  # 6 expected; more by chance in 1 of 100
    assert before >= 25


def test_a_model_that_gives_more_away_is_found() -> None:
    last, behind = found_last(20, 500, 1.071, 0.0)  # AUROC .90 beside .70
    assert last >= 0.95
    assert behind == 1


@pytest.mark.parametrize("among", [2, 3, 20, 200])
@pytest.mark.parametrize("probability", [0.5, 0.96, 0.999])
def test_the_range_of_normal_numbers_is_scipy_s(among: int, probability: float) -> None:
    expected = studentized_range.ppf(probability, among, math.inf)
    assert range_quantile(probability, among) == pytest.approx(expected, abs=1e-8)


def test_two_numbers_are_apart_where_their_difference_leaves_its_interval() -> None:
    """Of two numbers Tukey's comparison is the ordinary one, at the intervals' own errors towards each other."""
    error = math.hypot(0.03 / norm.ppf(0.95), 0.05 / norm.ppf(0.995))
    for apart, expected in ((norm.ppf(0.98) * error * 1.001, True), (norm.ppf(0.98) * error * 0.999, False)):
        small, large = Bounds(0.5, 0.4, 0.53, 0.9), Bounds(0.5 + apart, 0.45 + apart, 0.9, 0.99)
        assert surely_below([small, large], 0.04).tolist() == [[False, expected], [False, False]]


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_at_most_one_board_in_twenty_calls_equal_models_apart(n: int, shared: float) -> None:
    now, before = false_calls(1000, n, shared)
    assert now <= 50 + 2.6 * (1000 * 0.05 * 0.95) ** 0.5
    assert before >= now


def equal_boards(boards: int, models: int = 20) -> tuple[int, int]:
    """Equal on both axes, errors normal: how many boards call an order in the table, and there or in the picture."""
    rng = np.random.default_rng(9)

    def bounds(values: np.ndarray, stderr: float) -> list[Bounds]:
        return [Bounds(x, x - 1.959964 * stderr, x + 1.959964 * stderr) for x in values]

    ranked = drawn = 0
    for _ in range(boards):
        private, able = bounds(rng.normal(-0.2, 0.01, models), 0.01), bounds(rng.normal(0.5, 0.02, models), 0.02)
        in_table = any(reach != (1, models) for reach in rank_ranges(private))
        ranked += in_table
        drawn += in_table or "behind" in places([Point("", *both) for both in zip(able, private, strict=True)])
    return ranked, drawn


def test_table_and_picture_together_keep_the_promise() -> None:
    """With errors that are just as the intervals say the chance is used up: 4 % for privacy, 1 % for capability."""
    ranked, called = equal_boards(400)
    assert 5 <= ranked <= 27
    assert ranked <= called <= 31  # 20 expected; more by chance in 1 of 100


def test_models_that_give_nothing_away_are_rarely_called_reversed() -> None:
    """20 at AUROC .5, their own intervals at 95 %: by these alone 40 % of boards would set one aside."""
    rng = np.random.default_rng(10)
    own = together = 0
    for _ in range(200):
        losses = [Bounds(x, x - 1.959964 * 0.02, x + 1.959964 * 0.02) for x in rng.normal(0.5, 0.02, 20)]
        own += any(each.high < 0.5 for each in losses)
        together += any(surely_less(each, 0.5, 20) for each in losses)
    assert together <= 11  # 2.5 % and three standard deviations
    assert own >= 60


def test_one_number_alone_is_less_where_its_interval_is() -> None:
    assert surely_less(Bounds(0.4, 0.3, 0.499), 0.5, 1)
    assert not surely_less(Bounds(0.4, 0.3, 0.501), 0.5, 1)
    assert not surely_less(Bounds(0.4, 0.3, 0.499), 0.5, 2)
    assert surely_less(Bounds(0.1, 0.05, 0.15), 0.5, 20)
    assert not surely_less(Bounds(0.4, np.nan, np.nan), 0.5, 1)


def test_a_board_counts_its_models_and_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of one table, one of them not ranked, and one of another: what the chances are shared over."""
    asked: dict[str, set[Any]] = {"less": set(), "ranges": set(), "places": set()}
    for kind, name, counts in (
        ("less", "surely_less", lambda *given: given[2]),
        ("ranges", "rank_ranges", lambda *given: (len(given[0]), given[1])),
        ("places", "places", lambda *given: (len(given[0]), *given[1:])),
    ):
        module = standing if kind == "less" else board_module
        whole = getattr(module, name)

        def told(*given: Any, whole: Any = whole, kind: str = kind, counts: Any = counts) -> Any:
            asked[kind].add(counts(*given))
            return whole(*given)

        monkeypatch.setattr(module, name, told)
    three_models(tmp_path)
    model(tmp_path, "org/marked", audited({"spv": 0.5, "loss": 0.1}, weights="m", findings=[DUPLICATES]), acc=None)
    model(tmp_path, "org/other", audited(weights="o", recipe={**RECIPE, "epochs": 9.0}), acc=None)
    board = build_board([Source(tmp_path)], Options())
    assert [len(table.rows) for table in board.tables] == [4, 1]
    assert asked == {"less": {4, 1}, "ranges": {(3, 2), (1, 2)}, "places": {(3, 3, 2), (0, 1, 2)}}
