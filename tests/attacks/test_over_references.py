"""Attacks that look at several references: the formulas a second time, calibration by simulation, what is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.attacks.informia import InfoRmia
from spvmia_plugin.attacks.lira_offline import LiraOffline
from spvmia_plugin.metrics.moderated import moderated, plausible, upper_p_values
from spvmia_plugin.signals import MissingSignal, RecordSignals, Role, TokenSignals, Unscored, View, mean_signals
from tests.attacks import naive
from tests.attacks.targets import tokens

TARGET, REFERENCE, CANDIDATE = Role.TARGET, Role.REFERENCE, Role.CANDIDATE


def signals(*logprobs: float) -> TokenSignals:
    return TokenSignals(np.array(logprobs), np.zeros(len(logprobs), dtype=bool))


def of_several(target: TokenSignals, **kinds: list[TokenSignals]) -> RecordSignals:
    each = {(Role(kind), View.TEXT): tuple(models) for kind, models in kinds.items() if models}
    means = {key: mean_signals(models) for key, models in each.items()}
    return RecordSignals("a text", {(TARGET, View.TEXT): target, **means}, each=each)


def made(count: int, k: int, seed: int = 0, *, candidates: int | None = None) -> list[RecordSignals]:
    """Records whose models differ by more in some than in others."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        scale, text = rng.gamma(2.0), -rng.exponential(2.0, 12)
        level = {"reference": k, "candidate": k if candidates is None else candidates}
        models = {
            kind: [signals(*(text + 0.3 * (kind == "candidate") + scale * rng.normal())) for _ in range(many)]
            for kind, many in level.items()
        }
        found.append(of_several(signals(*(text + rng.normal())), **models))
    return found


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def digamma(x: float) -> float:
    """By the recurrence up to where its series is exact enough."""
    return math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) if x > 50 else digamma(x + 1) - 1 / x


def trigamma(x: float) -> float:
    return 1 / x + 1 / (2 * x**2) + 1 / (6 * x**3) - 1 / (30 * x**5) if x > 50 else trigamma(x + 1) + 1 / x**2


def lira(records: list[RecordSignals]) -> list[float]:
    """The formula in plain Python, with 1 / d0 by bisection."""
    rows = []
    for record in records:
        level = mean(naive.text_of(record, TARGET))
        rows.append(
            [[level - mean(naive.logprobs(model)) for model in models] for (_, _), models in record.each.items()]
        )
    means = [[mean(kind) for kind in row] for row in rows]
    gap = median([row[0] - row[1] for row in means]) if len(means[0]) == 2 else 0.0
    overall, variances, freedom = [], [], sum(len(kind) - 1 for kind in rows[0])
    for row, of_kinds in zip(rows, means, strict=True):
        moved = [value + gap * number for number, kind in enumerate(row) for value in kind]
        overall.append(mean(moved))
        squares = [(value - m) ** 2 for kind, m in zip(row, of_kinds, strict=True) for value in kind]
        variances.append(math.fsum(squares) / freedom)
    logs = [math.log(v) - digamma(freedom / 2) + math.log(freedom / 2) for v in variances]
    wanted = math.fsum((x - mean(logs)) ** 2 for x in logs) / (len(logs) - 1) - trigamma(freedom / 2)
    assert wanted > 0
    low, high = 1e-6, 1e6
    for _ in range(200):
        half = math.sqrt(low * high)
        low, high = (half, high) if trigamma(half) > wanted else (low, half)
    d0 = 2 * low
    prior = math.exp(mean(logs) + digamma(d0 / 2) - math.log(d0 / 2))
    centre = median(overall)
    return [
        (d - centre) / math.sqrt((d0 * prior + freedom * v) / (d0 + freedom))
        for d, v in zip(overall, variances, strict=True)
    ]


@pytest.mark.parametrize(("k", "candidates"), [(3, 3), (2, 0), (4, 1), (0, 3)])
def test_lira_is_its_naive_twin(k: int, candidates: int) -> None:
    records = made(80, k, candidates=candidates)
    # The tables of all attacks that score all records at once hold float32.
    assert LiraOffline().score_many(records) == pytest.approx(lira(records), rel=2e-6, abs=2e-6)


def test_lira_by_hand() -> None:
    """Three records under two references, whose variances are 2 each: so is the common one, and the median is 1."""
    target = signals(-1.0, -3.0)
    pairs = [(-3.0, -5.0), (-2.0, -4.0), (-1.0, -3.0)]
    records = [of_several(target, reference=[signals(one, one), signals(other, other)]) for one, other in pairs]
    assert LiraOffline().score_many(records) == pytest.approx([math.sqrt(0.5), 0.0, -math.sqrt(0.5)])
    table = np.array(LiraOffline().rows(records))
    assert list(table[0, :3]) == [1.0, 3.0, pytest.approx(math.nan, nan_ok=True)]
    assert LiraOffline().p_values(table) is None  # of so few
    # normal, as the variances do not differ and leave nothing open; one more value beside two
    expected = [0.5 * math.erfc(z / math.sqrt(3)) for z in (math.sqrt(0.5), 0.0, -math.sqrt(0.5))]
    assert LiraOffline().p_values(np.tile(table, (7, 1))) == pytest.approx(expected * 7)


@pytest.mark.parametrize("candidates", [0, 1])
def test_with_one_reference_of_each_kind_the_order_is_that_of_the_difference(candidates: int) -> None:
    records = made(50, 1, candidates=candidates)
    table = np.array(LiraOffline().rows(records))
    scores = LiraOffline().scores(table)
    difference = np.nanmean(table.astype(np.float64), axis=1)
    assert list(np.argsort(scores)) == list(np.argsort(difference))
    assert np.std(scores) == pytest.approx(1.0)
    assert LiraOffline().p_values(table) is None


def test_equal_models_have_equal_scores() -> None:
    one = signals(-1.0, -2.0)
    records = [of_several(one, reference=[one, one]) for _ in range(5)]
    assert LiraOffline().score_many(records) == [0.0] * 5
    assert LiraOffline().p_values(np.array(LiraOffline().rows(records * 5))) is None  # of no spread nothing follows


def test_the_order_of_records_changes_no_bit() -> None:
    records = made(60, 3)
    order = np.random.default_rng(1).permutation(60)
    straight = LiraOffline().score_many(records)
    assert LiraOffline().score_many([records[i] for i in order]) == [straight[i] for i in order]


def test_what_is_missing() -> None:
    target, other = signals(-1.0, -2.0), signals(-2.0, -2.0)
    without = of_several(target, candidate=[other, other])
    whole = of_several(target, reference=[other, target], candidate=[other, target])
    nothing = RecordSignals("a", {(TARGET, View.TEXT): target}, missing={(REFERENCE, View.TEXT): "why"})
    of_nan = of_several(signals(math.nan, -1.0), reference=[other, other])
    longer = of_several(target, reference=[signals(-1.0), signals(-1.0)])
    scores = LiraOffline().score_many([without, whole, nothing, of_nan, longer, RecordSignals("a")])
    assert all(isinstance(score, float) for score in scores[:2])
    reasons = [score.reason for score in scores[2:] if isinstance(score, Unscored)]
    assert reasons == [
        "why",
        "a log-probability is no number",
        "the two models tokenise the text differently",
        "no text signals of the target model",
    ]


@pytest.mark.parametrize("candidates", [0, 4])
@pytest.mark.parametrize("spread", [2.0, 1e6])
def test_p_values_are_uniform_where_the_target_is_like_a_reference(candidates: int, spread: float) -> None:
    """Records whose variances differ much (2), and not at all; the target of a record is one more draw."""
    rng = np.random.default_rng(7)
    n, k = 20_000, 4
    sigma = 1 / np.sqrt(rng.gamma(spread, 1 / spread, n))
    draws = rng.normal(size=(n, 1 + k + candidates)) * sigma[:, None]
    draws[:, 1 + k :] += 3.0  # candidates are another kind of model
    table = np.full((n, 16), np.nan, dtype=np.float32)
    table[:, :k] = draws[:, :1] - draws[:, 1 : 1 + k]
    table[:, 8 : 8 + candidates] = draws[:, :1] - draws[:, 1 + k :]
    p_values = LiraOffline().p_values(table)
    assert p_values is not None
    for level in (0.001, 0.01, 0.05, 0.25, 0.5, 0.9):
        # Estimated freedom, and widths that are never multiplied by less than 1: within a tenth and chance.
        assert np.mean(p_values <= level) == pytest.approx(level, rel=0.1, abs=4 * math.sqrt(level / n))


@pytest.mark.parametrize("candidates", [0, 2])
def test_p_values_of_few_records_are_no_more_sure_than_these_allow(candidates: int) -> None:
    """Audits of 60 records under two references of a kind: with the spread as estimated, .003 were at .001."""
    rng = np.random.default_rng(11)
    n, k, audits, d0 = 60, 2, 300, 4.0
    found = []
    for _ in range(audits):
        sigma = np.sqrt(d0 / rng.chisquare(d0, n))
        draws = rng.normal(size=(n, 1 + k + candidates)) * sigma[:, None]
        table = np.full((n, 16), np.nan, dtype=np.float32)
        table[:, :k] = draws[:, :1] - draws[:, 1 : 1 + k]
        table[:, 8 : 8 + candidates] = draws[:, :1] - draws[:, 1 + k :]
        p_values = LiraOffline().p_values(table)
        assert p_values is not None
        found.append(p_values)
    for level, at_most in ((0.001, 1.5), (0.01, 1.15), (0.05, 1.0)):
        assert np.mean(np.concatenate(found) <= level) <= at_most * level


def test_p_values_allow_for_a_target_that_differs_more_and_for_members() -> None:
    """Non-members of a target three times as far from its references: without the widening 29 % have p <= 0.05."""
    rng = np.random.default_rng(8)
    n, k = 4000, 4
    table = np.full((n, 16), np.nan, dtype=np.float32)
    table[:, :k] = 3 * rng.normal(size=(n, 1)) - rng.normal(size=(n, k)) + 0.7
    p_values = LiraOffline().p_values(table)
    assert p_values is not None
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.015)
    table[: n // 2] += 6.0
    with_members = LiraOffline().p_values(table)
    assert with_members is not None
    assert np.mean(with_members[n // 2 :] <= 0.05) < 0.01  # on the safe side
    assert np.median(with_members[: n // 2]) < np.median(with_members[n // 2 :])


def test_the_widening_leaves_heavy_tails_their_p_values() -> None:
    """Few degrees of freedom, and a target six times as far: on the scale of normal ones 1 of 4,000 had p <= 0.05."""
    rng = np.random.default_rng(10)
    n, k = 4000, 3
    sigma = 1 / np.sqrt(rng.gamma(2.0, 0.5, n))[:, None]
    table = np.full((n, 16), np.nan, dtype=np.float32)
    table[:, :k] = sigma * (6 * rng.normal(size=(n, 1)) - rng.normal(size=(n, k)))
    p_values = LiraOffline().p_values(table)
    assert p_values is not None
    assert 0.02 < np.mean(p_values <= 0.05) < 0.07


def test_a_narrow_null_makes_no_p_value_smaller() -> None:
    t = np.linspace(-0.1, 0.1, 101)
    freedom = np.full(101, np.inf)
    freedom[::2] = 3.0
    from scipy.stats import norm
    from scipy.stats import t as student

    expected = [student.sf(x, f) if np.isfinite(f) else norm.sf(x) for x, f in zip(t, freedom, strict=True)]
    assert upper_p_values(t, freedom) == pytest.approx(expected)


def test_variances_are_drawn_towards_each_other_by_as_much_as_they_agree() -> None:
    rng = np.random.default_rng(9)
    n, d = 20_000, 3
    freedom = np.full(n, d)
    for d0 in (4.0, 20.0):
        sigma = d0 * 1.5 / rng.chisquare(d0, n)
        found = moderated(sigma * rng.chisquare(d, n) / d, freedom)
        assert found is not None
        assert found.prior_freedom == pytest.approx(d0, rel=0.1)
        assert found.prior == pytest.approx(1.5, rel=0.05)
    alike = moderated(1.5 * rng.chisquare(d, n) / d, freedom)
    assert alike is not None
    assert alike.prior_freedom > 300
    assert alike.variance == pytest.approx(np.full(n, 1.5), rel=0.05)


def test_variances_at_their_limits() -> None:
    assert moderated(np.zeros(3), np.array([2, 2, 0])) is None
    assert moderated(np.ones(3), np.zeros(3, dtype=np.int64)) is None
    one = moderated(np.array([2.0]), np.array([3]))
    assert one is not None
    assert (one.prior, one.prior_freedom, list(one.variance)) == (2.0, math.inf, [2.0])
    mixed = moderated(np.array([1e-9, 100.0, 7.0, 0.0]), np.array([2, 2, 0, 2]))  # most are small, one has none
    assert mixed is not None
    assert np.isfinite(mixed.variance).all()
    assert mixed.variance[2] == pytest.approx(mixed.prior)
    assert list(mixed.freedom - mixed.prior_freedom) == pytest.approx([2, 2, 0, 2])
    assert plausible(np.zeros(3), np.array([2, 2, 2])) == []
    (alone,) = plausible(np.array([2.0]), np.array([3]))
    assert (alone.prior, alone.prior_freedom) == (2.0, math.inf)
    zero = moderated(np.array([0.0, 0.0, 1.0]), np.array([1, 1, 1]))  # a median of 0
    assert zero is not None
    assert (zero.variance > 0).all()


def test_info_rmia_takes_the_mean_of_probabilities_over_references() -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 40, 60)
    target = [tokens(rng, n) for n in lengths]
    models = [[tokens(rng, n) for n in lengths] for _ in range(3)]
    means = [mean_signals(several) for several in zip(*models, strict=True)]
    records = [
        replace(
            of_several(tokens(rng, 30), reference=[tokens(rng, 30) for _ in range(3)]),
            population={TARGET: target, REFERENCE: means},
            each_population={REFERENCE: models},
        )
        for _ in range(20)
    ]

    def logs(several: list[list[float]]) -> list[float]:
        return [math.log(mean([math.exp(value) for value in of_token])) for of_token in zip(*several, strict=True)]

    population = []
    for text, *of_models in zip(target, *models, strict=True):
        reference = logs([naive.logprobs(each) for each in of_models])
        population += [(a - b, b) for a, b in zip(naive.logprobs(text), reference, strict=True)]
    assert len(population) > 400, "several bins"
    expected = []
    for record in records:
        reference = logs([naive.logprobs(each) for each in record.each_of(REFERENCE)])
        ratios = [a - b for a, b in zip(naive.text_of(record, TARGET), reference, strict=True)]
        expected.append(naive.informia(ratios, reference, population))
    assert InfoRmia().score_many(records) == pytest.approx(expected, abs=1e-9)


def test_info_rmia_where_the_references_find_all_tokens_alike() -> None:
    """All edges are one: most bins are empty, and the mean of all stands for them."""
    flat, text = signals(*[-1.0] * 250), signals(*[-0.5] * 250)
    population = {TARGET: [text], REFERENCE: [flat]}
    record = replace(of_several(signals(-0.25, -2.0), reference=[signals(-1.0, -3.0)]), population=population)
    assert InfoRmia().score(record) == pytest.approx(mean([0.75, 1.0]) - 0.5)


def test_each_of_gives_the_models_or_the_one() -> None:
    one, other = signals(-1.0), signals(-2.0)
    record = of_several(one, reference=[one, other], candidate=[other])
    assert record.each_of(REFERENCE) == (one, other)
    alone = RecordSignals("a", {(REFERENCE, View.TEXT): other}, population={REFERENCE: [one]})
    assert alone.each_of(REFERENCE) == (other,)
    assert alone.each_population_of(REFERENCE) == ([one],)
    empty = of_several(one, reference=[signals(), signals()])
    for wrong in (empty, RecordSignals("a")):
        with pytest.raises(MissingSignal):
            wrong.each_of(REFERENCE)
    with pytest.raises(MissingSignal, match="no population signals"):
        record.each_population_of(REFERENCE)


def test_the_mean_of_several_models() -> None:
    def model(logprob: float, top1: bool, moment: float | None, windows: int = 1) -> TokenSignals:
        moments = None if moment is None else np.array([moment], dtype=np.float32)
        return TokenSignals(np.array([logprob], dtype=np.float32), np.array([top1]), moments, moments, windows)

    one, two, three = model(-1.0, True, -2.0), model(-2.5, False, -3.0, 2), model(-4.0, False, -7.0)
    assert mean_signals([one]) is one
    found = mean_signals([one, two, three])
    assert found.logprob.dtype == np.float32
    assert (float(found.logprob[0]), bool(found.top1[0]), found.windows) == (-2.5, False, 2)
    assert found.mean is not None
    assert found.std is not None
    assert float(found.mean[0]) == float(found.std[0]) == -4.0
    assert bool(mean_signals([one, two]).top1[0]), "half of the models are enough"
    assert mean_signals([one, model(-1.0, True, None)]).mean is None
    # in float64: the sum of these is 2**24 + 1, which float32 has not
    big = [model(-16777216.0, True, None), model(-1.0, True, None), model(-1.0, True, None)]
    assert float(mean_signals(big).logprob[0]) == np.float32(-16777218 / 3)


@pytest.mark.parametrize(
    ("role", "kind", "nth"),
    [
        (Role.REFERENCE_3, REFERENCE, 3),
        (Role.CANDIDATE_8, CANDIDATE, 8),
        (Role.BASE, Role.BASE, 1),
        (TARGET, TARGET, 1),
    ],
)
def test_kinds_of_roles(role: Role, kind: Role, nth: int) -> None:
    assert (role.kind, role.nth) == (kind, nth)


def test_siblings_of_roles() -> None:
    assert Role.REFERENCE_2.siblings(3) == (REFERENCE, Role.REFERENCE_2, Role.REFERENCE_3)
    assert Role.CANDIDATE.siblings(1) == (CANDIDATE,)
    assert Role.BASE.siblings(8) == (Role.BASE,)
    assert len(Role.REFERENCE.siblings(100)) == len(Role.CANDIDATE.siblings(100)) == 8
