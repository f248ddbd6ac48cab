"""DetectGPT's normalised perturbation discrepancy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.attacks.common import paraphrase_means
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, View


@dataclass(frozen=True)
class DetectGPT(Attack):
    """score = (L(x) - mean L(x~)) / std L(x~), the standard deviation with ddof 1.

    Mitchell et al. 2023, arXiv 2301.11305, the normalised discrepancy; as a membership attack in Mattern et al. 2023.

    Which one this is: ddof 1, as the paper divides by the sample estimate; the authors' code calls `np.std` with ddof
    0, which multiplies every score by the same factor as long as all records have equally many paraphrases, and not
    otherwise. Their code puts 1 for a standard deviation of 0; here such a record is unscored, for it would be on
    another scale than the rest.
    """

    name = "detectgpt"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its paraphrases under the target."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.NEIGHBOURS)})

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means in standard deviations."""
        around = paraphrase_means(signals)
        if len(around) < 2:
            raise MissingSignal("fewer than 2 paraphrases")
        if np.ptp(around) == 0:  # not the std, which rounding can leave a little above 0
            raise MissingSignal("all paraphrases are equally likely")
        return float((mean_logprob(signals.of(Role.TARGET)) - np.mean(around)) / np.std(around, ddof=1))
