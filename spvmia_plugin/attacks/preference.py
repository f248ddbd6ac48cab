"""The attack that sees both answers of a preference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, check_same_tokens
from spvmia_plugin.signals import Need, RecordSignals, Role, View


@dataclass(frozen=True)
class Premia(Attack):
    """score = sum over the chosen answer of d_t - sum over the rejected one of d_t; d_t = l_t(theta) - l_t(base).

    PREMIA, Feng et al. 2024, arXiv 2407.06443.
    """

    name = "premia"
    title = "PREMIA, both answers"

    @property
    def needs(self) -> frozenset[Need]:
        """Both answers after the prompt, under the target and the base."""
        return frozenset(Need(role, view) for role in (Role.TARGET, Role.BASE) for view in (View.TEXT, View.REJECTED))

    def score_record(self, signals: RecordSignals) -> float:
        """What the target moved towards the chosen answer less what it moved towards the rejected one."""
        return _moved(signals, View.TEXT) - _moved(signals, View.REJECTED)


def _moved(signals: RecordSignals, view: View) -> float:
    """log p_theta - log p_base of a whole answer, in nats."""
    target, base = signals.of(Role.TARGET, view), signals.of(Role.BASE, view)
    check_same_tokens(target, base)
    return float(np.subtract(target.logprob, base.logprob, dtype=np.float64).sum())
