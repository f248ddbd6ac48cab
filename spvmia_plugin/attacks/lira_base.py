"""The log-likelihood ratio against the base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.attacks.common import target_and
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class LiraBase(Attack):
    """score = L_theta - L_base: the log-likelihood ratio of the target and the model before fine-tuning.

    The baseline LiRA-Base of Fu et al. 2024, arXiv 2311.06062; the test is that of Mireshghallah et al. 2022,
    arXiv 2203.03929, and, without its shadow models, of Carlini et al. 2022, arXiv 2112.03570.

    Which one this is: the difference of mean log-probabilities (`ratio` divides them). One reference and no
    variance of shadow models: not the full LiRA, whatever its name says. MIMIR's `reference_based` and the
    `ref` of mink-plus-plus are the same difference, but there the reference is another, smaller model.

    Attributes:
        reference: whose log-probability is subtracted.
    """

    name = "lira_base"
    reference: ClassVar[Role] = Role.BASE

    @property
    def needs(self) -> frozenset[Need]:
        """The record under target and reference."""
        return frozenset({Need(Role.TARGET), Need(self.reference)})

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means."""
        target, other = target_and(self.reference, signals)
        return mean_logprob(target) - mean_logprob(other)
