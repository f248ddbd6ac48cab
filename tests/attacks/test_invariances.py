"""What must not change a score, for every attack of the table."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from spvmia_plugin.attacks.base import AuditAttack, BlindAttack
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, Unscored
from tests.attacks.targets import TARGETS, Target, make_record, make_records, scores, tokens, transform

ALL = pytest.mark.parametrize("target", TARGETS, ids=str)
RECORDS = 60


@ALL
def test_order_of_records(target: Target) -> None:
    records = make_records(RECORDS)
    order = np.random.default_rng(1).permutation(RECORDS)
    straight = scores(target.attack, records)
    assert scores(target.attack, [records[i] for i in order]) == [straight[i] for i in order]


@ALL
def test_a_copy_scores_as_its_original(target: Target) -> None:
    records = make_records(RECORDS)
    doubled = scores(target.attack, [*records, *records[:20]])
    assert doubled[RECORDS:] == doubled[:20]


@ALL
def test_unrelated_records(target: Target) -> None:
    if isinstance(target.attack, (AuditAttack, BlindAttack)):
        pytest.skip("its definition is over all records")
    records, unrelated = make_records(RECORDS), make_records(15, seed=99)
    assert scores(target.attack, [*unrelated, *records])[15:] == scores(target.attack, records)


@ALL
def test_many_records_score_as_each_of_them(target: Target) -> None:
    """To the bit: an attack may share work among records of a batch, and a batch is what a run happens to make."""
    if isinstance(target.attack, (AuditAttack, BlindAttack)):
        pytest.skip("its definition is over all records")
    records = make_records(RECORDS)
    without = replace(records[0], tokens={}, neighbours={}, probed={}, gradients={}, continued={})
    nothing = transform(records[1], lambda s: replace(s, logprob=s.logprob[:0], top1=s.top1[:0], mean=None, std=None))
    infinite = transform(records[2], lambda s: replace(s, logprob=np.full_like(s.logprob, -np.inf)))
    mixed = [without, *records, nothing, infinite, *records[:3]]
    assert target.attack.score_many(mixed) == [target.attack.score(record) for record in mixed]


@pytest.mark.parametrize("target", [t for t in TARGETS if t.shifted], ids=str)
def test_constant_shift(target: Target) -> None:
    """c added to every log-probability of every model, 1/4 being exact in every sum."""
    shift = -0.25

    def change(signals: TokenSignals) -> TokenSignals:
        return replace(signals, logprob=signals.logprob + shift, mean=signals.mean + shift)

    records = [transform(record, lambda s: s) for record in make_records(30, dtype=np.float64)]
    before = scores(target.attack, records)
    after = scores(target.attack, [transform(record, change) for record in records])
    compare(before, after, lambda score, record: target.shifted(score, shift, record), records)


@pytest.mark.parametrize("target", [t for t in TARGETS if t.scaled], ids=str)
def test_constant_factor(target: Target) -> None:
    """Every log-probability of every model doubled: another unit, for what is a ratio or a sign."""

    def change(s: TokenSignals) -> TokenSignals:
        return replace(s, logprob=s.logprob * 2, mean=s.mean * 2, std=s.std * 2)

    records = make_records(30, dtype=np.float64)
    before = scores(target.attack, records)
    after = scores(target.attack, [transform(record, change) for record in records])
    compare(before, after, lambda score, _: target.scaled(score, 2.0), records)


def compare(
    before: list[float | Unscored],
    after: list[float | Unscored],
    expected: Callable[[float, RecordSignals], float],
    records: list[RecordSignals],
) -> None:
    assert any(isinstance(score, float) for score in before)
    for old, new, record in zip(before, after, records, strict=True):
        if isinstance(old, Unscored):
            assert new == old
        else:
            assert new == pytest.approx(expected(old, record), rel=1e-9, abs=1e-12)


def test_a_shift_does_change_what_is_not_said_to_be_invariant() -> None:
    """The table's blanks are no oversight: a shift moves ratios, and rmia with its correction."""
    blanks = {type(target.attack).__name__ for target in TARGETS if target.shifted is None}
    assert blanks == {"Lowercase", "Ratio", "Recall", "Rmia", "Learned"}


EXTREME = [0.0, -1e-8, -0.5, -80.0, -1e4, -math.inf, math.nan]


@ALL
def test_never_nan(target: Target) -> None:
    """Whatever a model puts out, a score is finite or a reason; nothing is raised, nothing warned of."""
    rng = np.random.default_rng(2)
    population = {role: [tokens(rng, 5), tokens(rng, 0)] for role in (Role.TARGET, Role.BASE, Role.REFERENCE)}
    records = []
    for first, second, moment in itertools.product(EXTREME, EXTREME, [0.0, -1e30, math.nan]):
        values = itertools.cycle([first, second])

        def change(s: TokenSignals, values: itertools.cycle = values, moment: float = moment) -> TokenSignals:
            filled = np.full(len(s), next(values), dtype=np.float32)
            return TokenSignals(filled, s.top1, np.full_like(filled, moment), np.full_like(filled, abs(moment)))

        records.append(transform(make_record(rng, population, length=int(rng.integers(0, 4))), change))
    for score in scores(target.attack, records):
        assert isinstance(score, Unscored) if not isinstance(score, float) else math.isfinite(score)
        assert not isinstance(score, Unscored) or score.reason


@ALL
def test_is_a_frozen_value(target: Target) -> None:
    attack = target.attack
    assert attack == type(attack)(**{f.name: getattr(attack, f.name) for f in fields(attack)})
    assert json.loads(json.dumps(attack.config())).keys() == {f.name for f in fields(attack)}
    assert set(attack.options) <= {f.name for f in fields(attack)}
    assert all(option.startswith("mia_") for option in attack.options.values())
    assert type(attack)() is not None  # every field has a default
    with pytest.raises(FrozenInstanceError):
        attack.name = "other"
