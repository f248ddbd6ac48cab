"""Ranks and the front of capability against privacy, against definitions written out."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from spvmia_plugin.leaderboard.board import loss, rank_ranges, ranks
from spvmia_plugin.leaderboard.front import HEIGHT, WIDTH, Figure, Point, draw, in_words, places
from spvmia_plugin.results.estimate import Estimate


def random_points(n: int, seed: int) -> list[Point]:
    rng = random.Random(seed)

    def number() -> tuple[float, float, float]:
        value, reach = round(rng.uniform(0, 1), 1), rng.uniform(0, 0.2)
        return value, value - reach, value + reach

    return [Point(f"model {k}", number(), number()) for k in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_beats(seed: int) -> None:
    points = random_points(12, seed)
    for point, place in zip(points, places(points), strict=True):
        beaten_by = [
            other
            for other in points
            if (other.capability[0] > point.capability[0] and other.privacy[0] >= point.privacy[0])
            or (other.capability[0] >= point.capability[0] and other.privacy[0] > point.privacy[0])
        ]
        surely = [
            other
            for other in points
            if other.capability[1] > point.capability[2] and other.privacy[1] > point.privacy[2]
        ]
        assert place == ("front" if not beaten_by else "behind" if surely else "close")


def test_equal_models_are_both_on_the_front() -> None:
    same = (0.5, 0.4, 0.6)
    points = [Point("a", same, same), Point("b", same, same)]
    assert places(points) == ["front", "front"]
    assert in_words(points).endswith("private): a, b.")


def test_words_name_every_model_once() -> None:
    points = random_points(9, 1)
    words = in_words(points)
    assert all(words.count(point.name) == 1 for point in points)


@pytest.mark.parametrize("seed", range(20))
def test_rank_ranges_hold_every_order_the_intervals_allow(seed: int) -> None:
    rng = random.Random(seed)
    losses = []
    for _ in range(6):
        value, reach = rng.uniform(0, 1), rng.uniform(0, 0.3)
        losses.append((value, value - reach, value + reach))
    ranges = rank_ranges(losses)
    assert all(low <= rank <= high for (low, high), rank in zip(ranges, ranks(losses), strict=True))
    for _ in range(200):  # true values anywhere in the intervals
        drawn = [(rng.uniform(low, high), 0.0, 0.0) for _, low, high in losses]
        assert all(low <= rank <= high for (low, high), rank in zip(ranges, ranks(drawn), strict=True))


def test_equal_numbers_share_a_rank() -> None:
    assert ranks([(0.2, 0, 0), (0.1, 0, 0), (0.2, 0, 0), (0.3, 0, 0)]) == [2, 1, 2, 4]


@pytest.mark.parametrize(
    ("auroc", "interval", "expected"),
    [
        (0.8, (0.7, 0.9), (0.3, 0.2, 0.4)),
        (0.4, (0.3, 0.45), (0.1, 0.05, 0.2)),
        (0.52, (0.45, 0.6), (0.02, 0.0, 0.1)),
    ],
)
def test_an_auroc_counts_by_its_distance_from_chance(
    auroc: float, interval: tuple[float, float], expected: tuple[float, float, float]
) -> None:
    assert loss(Estimate(auroc, *interval), "auroc") == pytest.approx(expected)
    assert loss(Estimate(auroc, *interval), "tpr_at_1pct_fpr") == (auroc, *interval)


@pytest.mark.parametrize("seed", range(5))
def test_the_picture_keeps_its_order_and_its_frame(seed: int) -> None:
    points = random_points(15, seed)
    figure = draw(points, 1, 0.5)
    for one, mark in zip(points, figure.marks, strict=True):
        assert 0 <= mark.x <= WIDTH
        assert 0 <= mark.y <= HEIGHT
        assert mark.x_low <= mark.x <= mark.x_high
        assert mark.y_high <= mark.y <= mark.y_low
        for other, their in zip(points, figure.marks, strict=True):
            assert (one.capability[0] < other.capability[0]) == (mark.x < their.x)
            assert (one.privacy[0] < other.privacy[0]) == (mark.y > their.y)


def test_ticks_say_what_the_metrics_are() -> None:
    points = [Point("a", (-3.0, -3.5, -2.5), (-0.4, -0.45, -0.35)), Point("b", (-1.0, -1.5, -0.5), (-0.1, -0.2, 0.0))]
    figure = draw(points, -1, 0.5)  # a perplexity, lower is better; an AUROC
    assert [tick.text for tick in figure.x_ticks] == ["3.5", "3", "2.5", "2", "1.5", "1", "0.5"]
    assert {"0.6", "0.7", "0.8", "0.9"} <= {tick.text for tick in figure.y_ticks}
    assert not math.isnan(sum(tick.at for tick in (*figure.x_ticks, *figure.y_ticks)))


def text_boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of what is written: at 13 pixels a character is 6 wide or more, and 10 high, 3 below."""
    boxes = []
    for mark in figure.marks:
        width = 6 * len(mark.label)
        left = mark.label_x if mark.anchor == "start" else mark.label_x - width
        if mark.label:
            boxes.append((left, mark.label_y - 10, left + width, mark.label_y + 3))
    return boxes


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("seed", range(20))
def test_labels_cover_no_other_label_and_no_point(seed: int) -> None:
    figure = draw(random_points(15, seed), 1, 0.5)
    labels = text_boxes(figure)
    points = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in figure.marks]
    assert len(labels) > 5
    assert not any(overlap(one, other) for one, other in itertools.combinations(labels, 2))
    assert not any(overlap(label, point) for label in labels for point in points)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT for box in labels)


def test_labels_of_one_point_stand_around_it() -> None:
    same = (0.5, 0.4, 0.6)
    figure = draw([Point("first", same, same), Point("second", same, same), Point("third", same, same)], 1, 0.0)
    assert [mark.label for mark in figure.marks] == ["first", "second", "third"]
    assert not any(overlap(one, other) for one, other in itertools.combinations(text_boxes(figure), 2))


def test_without_room_the_rank_stands_for_the_name() -> None:
    points = [Point("a rather long name", (0.5, 0.4, 0.6), (0.5, 0.4, 0.6), rank) for rank in range(1, 9)]
    labels = [mark.label for mark in draw(points, 1, 0.0).marks]
    assert labels[0] == "a rather long name"
    assert set(labels[1:]) <= {"a rather long name", *(str(rank) for rank in range(2, 9)), ""}
    assert labels.count("a rather long name") <= 4
    assert len([label for label in labels if label]) < len(labels)
