"""The error zone attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.attacks.common import token_differences
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class Ez(Attack):
    """score = P / (P + M) over the tokens where theta's top-1 is wrong; P = sum max(d, 0), M = sum max(-d, 0).

    EZ-MIA, Ilic et al. 2026, arXiv 2601.12104, code JetBrains-Research/ez-mia; d_t = l_t(theta) - l_t(base).

    Which one this is: the paper's statistic is P / M, which has the same order and no finite value at M = 0. A text
    without a wrong token (theta predicts all of it) scores 1, as does one with M = 0 < P; with P = M = 0 it scores
    0.5. The authors' code drops the first token that has a log-probability, and gives its lowest score, 0, where no
    wrong token moved down (M = 0) and for fewer than two wrong tokens: that is, to the texts memorised best.

    Attributes:
        reference: whose log-probability is subtracted.
    """

    name = "ez"
    reference: ClassVar[Role] = Role.BASE

    @property
    def needs(self) -> frozenset[Need]:
        """The record under target and reference."""
        return frozenset({Need(Role.TARGET), Need(self.reference)})

    def score_record(self, signals: RecordSignals) -> float:
        """The share of upward shifts among all shifts at wrong tokens."""
        difference = token_differences(self.reference, signals)[~signals.of(Role.TARGET).top1]
        if len(difference) == 0:
            return 1.0
        up, down = float(difference.clip(min=0).sum()), float((-difference).clip(min=0).sum())
        return up / (up + down) if up + down else 0.5
