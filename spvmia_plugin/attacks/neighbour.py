"""The neighbourhood attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.attacks.common import paraphrase_means
from spvmia_plugin.signals import Need, RecordSignals, Role, View


@dataclass(frozen=True)
class Neighbour(Attack):
    """score = L(x) - mean L(x~): how far the text stands out among its paraphrases.

    Mattern et al. 2023, arXiv 2305.18462, with the sign turned.

    Which one this is: the plain difference (detectgpt divides it by the standard deviation); the paraphrases are
    those of `mia_perturbation`, where the authors replace single words through BERT with dropout. Each mean is over
    the tokens of its own text, which may differ in number.
    """

    name = "neighbour"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its paraphrases under the target."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.NEIGHBOURS)})

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means."""
        return mean_logprob(signals.of(Role.TARGET)) - float(np.mean(paraphrase_means(signals)))
