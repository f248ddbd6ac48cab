"""Ranks and the front of capability against privacy, against definitions written out."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from spvmia_plugin.leaderboard.board import limit, loss, rank_ranges, ranks
from spvmia_plugin.leaderboard.front import NAMED, Point, in_words, places
from spvmia_plugin.leaderboard.order import Bounds, surely_below
from spvmia_plugin.leaderboard.picture import FRAMES, MANY, WIDE, Figure, Frame, draw
from spvmia_plugin.results.estimate import Estimate

Q_PRIVACY_12, Q_CAPABILITY_12, Q_PRIVACY_6 = 4.722404, 5.290196, 4.140145
"""Quantiles of the studentised range of 12 and of 6 numbers at 96 %, 99 % and 96 %, by numerical integration of what it
is: P(range of k normals <= q) = k * integral of phi(z) (Phi(z) - Phi(z - q))^(k - 1)."""


def random_points(n: int, seed: int) -> list[Point]:
    rng = random.Random(seed)

    def number() -> Bounds:
        value, reach = round(rng.uniform(0, 1), 1), rng.uniform(0, 0.2)
        return Bounds(value, value - reach, value + reach)

    return [Point(f"model {k}", number(), number()) for k in range(n)]


def drawn(
    points: list[Point], x_sign: int = 1, y_offset: float = 0.0, guess: float = 0.0, frame: Frame = WIDE
) -> Figure:
    return draw(points, places(points), x_sign, y_offset, guess, frame)


def sure(one: Bounds, other: Bounds, quantile: float) -> bool:
    """Whether `one` is below `other`, in plain arithmetic; intervals at 95 %."""
    apart, errors = other.value - one.value, math.hypot(one.high - one.value, other.value - other.low) / 1.959964
    return apart > quantile / math.sqrt(2) * errors


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_beats(seed: int) -> None:
    points = random_points(12, seed)
    for point, place in zip(points, places(points), strict=True):
        beaten_by = [
            other
            for other in points
            if (other.capability.value > point.capability.value and other.privacy.value >= point.privacy.value)
            or (other.capability.value >= point.capability.value and other.privacy.value > point.privacy.value)
        ]
        surely = [
            other
            for other in beaten_by
            if sure(point.capability, other.capability, Q_CAPABILITY_12)
            or sure(point.privacy, other.privacy, Q_PRIVACY_12)
        ]
        assert place == ("front" if not beaten_by else "behind" if surely else "close")


def test_every_place_comes_up() -> None:
    found = [place for seed in range(20) for place in places(random_points(12, seed))]
    assert min(map(found.count, ("front", "close", "behind"))) > 5


def test_close_holds_on_both_axes() -> None:
    """Who gives nearly everything away is not close to the base, however close they are in what they can do."""
    base = Point("base", Bounds(0.61, 0.59, 0.63), Bounds(-0.04, -0.08, 0.0))
    leaky = Point("leaky", Bounds(0.60, 0.58, 0.62), Bounds(-0.48, -0.49, -0.47))
    like = Point("like", Bounds(0.60, 0.58, 0.62), Bounds(-0.05, -0.09, -0.01))
    dull = Point("dull", Bounds(0.30, 0.28, 0.32), Bounds(-0.05, -0.09, -0.01))
    points = [base, leaky, like, dull]
    assert places(points) == ["front", "behind", "close", "behind"]
    assert in_words(points, places(points)) == (
        "On the front (no other model has numbers that are better on one axis and as good on the other): base. "
        "Behind the front by less than the error bars can tell, on both axes: like. "
        "Behind it by more than the error bars on at least one axis: leaky, dull."
    )


def test_what_has_no_known_error_is_never_surely_behind() -> None:
    unknown = Bounds(0.1, math.nan, math.nan)
    points = [Point("a", Bounds(0.9, 0.89, 0.91), unknown), Point("b", unknown, unknown)]
    assert places(points) == ["front", "close"]
    mark = drawn(points).marks[1]
    assert mark.x_low == mark.x == mark.x_high


def test_equal_models_are_both_on_the_front() -> None:
    same = Bounds(0.5, 0.4, 0.6)
    points = [Point("a", same, same), Point("b", same, same)]
    assert places(points) == ["front", "front"]
    assert in_words(points, places(points)).endswith("other): a, b.")


def test_words_name_every_model_once() -> None:
    points = random_points(9, 1)
    words = in_words(points, places(points))
    assert all(words.count(point.name) == 1 for point in points)


def test_words_count_what_is_too_much_to_name() -> None:
    points = [Point("best", *[Bounds(0.9, 0.8, 1.0)] * 2)]
    points += [Point(f"model {k}", *[Bounds(0.8, 0.5, 1.0)] * 2) for k in range(NAMED + 1)]
    words = in_words(points, places(points))
    assert "other): best." in words
    assert words.endswith(f"on both axes: {NAMED + 1} models.")
    assert "model 0" not in words


@pytest.mark.parametrize("seed", range(20))
def test_rank_ranges_leave_open_what_is_not_sure(seed: int) -> None:
    rng = random.Random(seed)
    losses = []
    for _ in range(6):
        value = rng.uniform(0, 1)
        losses.append(Bounds(value, value - rng.uniform(0, 0.3), value + rng.uniform(0, 0.3)))
    ranges = rank_ranges(losses)
    assert all(low <= rank <= high for (low, high), rank in zip(ranges, ranks(losses), strict=True))
    for ours, (best, worst) in zip(losses, ranges, strict=True):
        assert best == 1 + sum(sure(other, ours, Q_PRIVACY_6) for other in losses)
        assert worst == 6 - sum(sure(ours, other, Q_PRIVACY_6) for other in losses)


def test_more_models_more_tables_and_less_confidence_ask_for_more() -> None:
    numbers = [Bounds(0.1, 0.0, 0.2), Bounds(0.25, 0.15, 0.35)]
    assert surely_below(numbers, 0.05).tolist() == [[False, True], [False, False]]
    assert not surely_below(numbers, 0.05 / 20).any()
    assert not surely_below(numbers, 0.05, among=20).any()
    assert not surely_below([Bounds(each.value, each.low, each.high, 0.5) for each in numbers], 0.05).any()
    assert surely_below(numbers[:1], 0.05, among=20).tolist() == [[False]]
    assert surely_below([], 0.05, among=20).shape == (0, 0)
    assert rank_ranges(numbers) == [(1, 1), (2, 2)]
    assert rank_ranges(numbers, tables=20) == [(1, 2), (1, 2)]


def test_equal_limits_share_a_rank() -> None:
    assert ranks([Bounds(0, 0, high) for high in (0.2, 0.1, 0.2, 0.3)]) == [2, 1, 2, 4]


def test_the_claim_ranks_and_not_the_point() -> None:
    """Who was audited on few records can claim little, however low the number came out."""
    assert ranks([Bounds(0.05, 0.0, 0.3), Bounds(0.1, 0.05, 0.15)]) == [2, 1]


@pytest.mark.parametrize(
    ("auroc", "interval", "expected"),
    [(0.8, (0.7, 0.9), 0.9), (0.52, (0.4, 0.55), 0.6), (0.4, (0.3, 0.45), 0.7), (0.5, (0.4, 0.6), 0.6)],
)
def test_at_most_is_the_end_that_is_further_from_chance(
    auroc: float, interval: tuple[float, float], expected: float
) -> None:
    assert limit(Estimate(auroc, *interval, confidence=0.95), "auroc") == pytest.approx(expected)
    assert limit(Estimate(auroc, *interval, confidence=0.95), "tpr_at_1pct_fpr") == interval[1]


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
    found = loss(Estimate(auroc, *interval, confidence=0.95), "auroc")
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    assert loss(Estimate(auroc, *interval, confidence=0.9), "tpr_at_1pct_fpr") == Bounds(auroc, *interval, 0.9)


@pytest.mark.parametrize("frame", FRAMES, ids=[frame.name for frame in FRAMES])
@pytest.mark.parametrize("seed", range(5))
def test_the_picture_keeps_its_order_and_its_frame(seed: int, frame: Frame) -> None:
    points = random_points(15, seed)
    figure = drawn(points, 1, 0.5, 0.5, frame)
    for one, mark in zip(points, figure.marks, strict=True):
        assert frame.left <= mark.x_low
        assert mark.x_high <= frame.right
        assert frame.top <= mark.y_high
        assert mark.y_low <= frame.bottom
        assert mark.x_low <= mark.x <= mark.x_high
        assert mark.y_high <= mark.y <= mark.y_low
        for other, their in zip(points, figure.marks, strict=True):
            assert (one.capability.value < other.capability.value) == (mark.x < their.x)
            assert (one.privacy.value < other.privacy.value) == (mark.y > their.y)


def test_ticks_say_what_the_metrics_are() -> None:
    points = [
        Point("a", Bounds(-3.0, -3.5, -2.5), Bounds(-0.4, -0.45, -0.35)),
        Point("b", Bounds(-1.0, -1.5, -0.5), Bounds(-0.1, -0.2, 0.0)),
    ]
    figure = drawn(points, -1, 0.5, 0.5)  # a perplexity, lower is better; an AUROC
    assert [tick.text for tick in figure.x_ticks] == ["3.5", "3.0", "2.5", "2.0", "1.5", "1.0", "0.5"]
    assert {"0.5", "0.6", "0.7", "0.8", "0.9"} <= {tick.text for tick in figure.y_ticks}
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


@pytest.mark.parametrize("frame", FRAMES, ids=[frame.name for frame in FRAMES])
@pytest.mark.parametrize("seed", range(20))
def test_labels_cover_no_other_label_and_no_point(seed: int, frame: Frame) -> None:
    figure = drawn(random_points(15, seed), 1, 0.5, 0.5, frame)
    labels = text_boxes(figure)
    points = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in figure.marks]
    words = (frame.right - 55, figure.guess - 14, frame.right, figure.guess + 2)  # "guessing"
    assert len(labels) > 3
    assert not any(overlap(one, other) for one, other in itertools.combinations([*labels, words], 2))
    assert not any(overlap(label, point) for label in labels for point in points)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= frame.width and box[3] <= frame.height for box in labels)


@pytest.mark.parametrize("auroc", [0.62, 0.97])
def test_what_guessing_gets_is_always_on_the_axis(auroc: float) -> None:
    far = Bounds(-(auroc - 0.5), -(auroc - 0.49), -(auroc - 0.51))
    figure = drawn([Point("a", far, far), Point("b", Bounds(0, 0, 0), far)], 1, 0.5, 0.5)
    (tick,) = (tick for tick in figure.y_ticks if float(tick.text) == 0.5)
    assert tick.at == figure.guess
    assert all(mark.y > figure.guess > WIDE.top for mark in figure.marks)


def with_base(count: int) -> list[Point]:
    spread = [Bounds(k / count, k / count - 0.01, k / count + 0.01) for k in range(count + 1)]
    tuned = [Point(f"tuned {k}", spread[k], Bounds(-0.3, -0.4, -0.2), k + 1, "base") for k in range(count)]
    return [Point("base", spread[-1], Bounds(-0.01, -0.05, 0.0), 0), *tuned]


def test_an_arrow_leads_from_each_base_to_its_fine_tunes() -> None:
    figure = drawn([*with_base(4), Point("alone", *[Bounds(-0.2, -0.3, -0.1)] * 2, 5, "not here")])
    base, *tuned, alone = figure.marks
    assert (base.is_base, base.arrow, alone.arrow) == (True, "", "")
    for mark in tuned:
        start, end = (tuple(map(float, part.split())) for part in mark.arrow.removeprefix("M ").split(" L "))
        assert math.dist(start, (base.x, base.y)) < 10 > math.dist(end, (mark.x, mark.y))
        assert not mark.is_base
    boxes = text_boxes(figure)
    middles = [
        tuple(map(float, point)) for mark in tuned for point in [mark.arrow.removeprefix("M ").split(" L ")[1].split()]
    ]
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in middles)


def test_of_many_models_only_bases_and_the_front_have_names() -> None:
    figure = drawn(with_base(MANY))
    assert figure.is_dense
    named = {mark.label for mark in figure.marks if not mark.label.isdigit()} - {""}
    assert named == {"base"}
    assert len([mark for mark in figure.marks if mark.label.isdigit()]) > 5
    assert not drawn(with_base(MANY - 1)).is_dense


def test_labels_of_one_point_stand_around_it() -> None:
    same = Bounds(0.5, 0.4, 0.6)
    figure = drawn([Point("first", same, same), Point("second", same, same), Point("third", same, same)])
    assert [mark.label for mark in figure.marks] == ["first", "second", "third"]
    assert not any(overlap(one, other) for one, other in itertools.combinations(text_boxes(figure), 2))


def test_without_room_the_rank_stands_for_the_name() -> None:
    same = Bounds(0.5, 0.4, 0.6)
    points = [Point("a rather long name", same, same, rank) for rank in range(1, 9)]
    labels = [mark.label for mark in drawn(points).marks]
    assert labels[0] == "a rather long name"
    assert set(labels[1:]) <= {"a rather long name", *(str(rank) for rank in range(2, 9)), ""}
    assert labels.count("a rather long name") <= 4
    assert len([label for label in labels if label]) < len(labels)
