"""What a plugin's attack may do with what it is handed, and what it has to give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Need, RecordSignals, Role, TokenSignals, Unscored, View


@dataclass(frozen=True)
class Foreign(Attack):
    name = "foreign"
    does: Callable[[RecordSignals], object] = lambda signals: 0.0

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def score_record(self, signals: RecordSignals) -> float:
        return self.does(signals)  # type: ignore[return-value]


def signals() -> RecordSignals:
    values = (np.array([-1.0, -2.0], np.float32), np.array([True, False]))
    tokens = TokenSignals(*values, np.array([-1.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32))
    return RecordSignals("a b", {(Role.TARGET, View.TEXT): tokens})


@pytest.mark.parametrize("name", ["logprob", "top1", "mean", "std"])
def test_nobody_writes_into_what_the_next_attack_sees(name: str) -> None:
    def change(record: RecordSignals) -> float:
        getattr(record.of(Role.TARGET), name)[:] = 0
        return 0.0

    with pytest.raises(ValueError, match="read-only"):
        Foreign(change).score(signals())


@pytest.mark.parametrize("value", [np.zeros(1), "0.5", True, None, 1j, [0.5]])
def test_a_score_that_is_no_number_is_the_attacks_fault(value: object) -> None:
    with pytest.raises(SpvmiaError, match=rf"^foreign: expected a number from .*, got {type(value).__name__};"):
        Foreign(lambda record: value).score(signals())


def test_numbers_of_every_kind_are_scores() -> None:
    for value in (2, 2.0, np.float32(2), np.int64(2)):
        assert Foreign(lambda record, value=value: value).score(signals()) == 2.0
    for value in (10**400, float("inf"), float("nan"), np.float32("-inf")):
        assert Foreign(lambda record, value=value: value).score(signals()) == Unscored("score is not finite")
    for value in (1.7e308, -2e100):  # which no difference of scores could hold, and no reader takes
        assert Foreign(lambda record, value=value: value).score(signals()) == Unscored("score is beyond 1e+100")
    assert Foreign(lambda record: -1e100).score(signals()) == -1e100
