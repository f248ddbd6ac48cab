"""An attack: a quantile of the token log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class Quantile(Attack):
    """score = the `level` quantile of the l_t. The median at its default."""

    name = "quantile"
    options = {"level": "mia_quantile_level"}  # noqa: RUF012 - ClassVar in the base

    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise SpvmiaError(f"mia_quantile_level: expected a number >= 0 and <= 1, got {self.level!r}; correct it")

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """The quantile over the record's tokens."""
        return float(np.quantile(signals.of(Role.TARGET).logprob, self.level))
