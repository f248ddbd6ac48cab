"""The attack that sees both answers of a preference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, check_same_tokens
from spvmia_plugin.signals import Need, RecordSignals, Role, View


@dataclass(frozen=True)
class Premia(Attack):
    """score = sum over the chosen answer of d_t - sum over the rejected one of d_t; d_t = l_t(theta) - l_t(base).

    PREMIA, Feng et al. 2024, arXiv 2407.06443: the log of rho(chosen) / rho(rejected), rho(y) being p_theta(y | x) /
    p_reference(y | x) of an answer y to the prompt x. Training by DPO raises it for its own pairs: times beta it is the
    margin of DPO's implicit rewards (Rafailov et al. 2023, arXiv 2305.18290), whose sigmoid is what it maximises.

    Which one this is: their attack on the whole tuple of prompt and both answers, in logarithms, where a difference of
    ratios of whole answers would be a difference of numbers beyond any range; the one on a single answer, log rho, is
    `lira_base` on the chosen side, but for a mean over tokens in the place of the sum. Reference is the model before
    the fine-tuning, which a DPOTrainer has as its own; an SFT model that the DPO began from is named with
    `mia_base_model`. Sums, not means: they are what the training moved, and the lengths of the two answers count.
    """

    name = "premia"
    title = "PREMIA, both answers"
    about = "how much the model prefers the chosen answer to the rejected one, beyond its base"

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
