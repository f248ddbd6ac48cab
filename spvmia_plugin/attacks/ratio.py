"""The reference ratio attack."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, nll
from spvmia_plugin.attacks.common import target_and
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class Ratio(Attack):
    """score = NLL_base / NLL_theta: how much the fine-tuning lowered the loss, relatively.

    Carlini et al. 2021, arXiv 2012.07805, section 5, who compare with a smaller model of the same family.

    Which one this is: the ratio of log-perplexities (lira_base is their difference), with the model before
    fine-tuning as reference. Code that divides perplexities themselves gives the order of lira_base. -NLL_theta /
    NLL_base, also seen, is the same order.
    """

    name = "ratio"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under target and base."""
        return frozenset({Need(Role.TARGET), Need(Role.BASE)})

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        target, base = target_and(Role.BASE, signals)
        return nll(base) / nll(target)
