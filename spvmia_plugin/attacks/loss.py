"""The loss attack."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.signals import Need, RecordSignals, Role


@dataclass(frozen=True)
class Loss(Attack):
    """score = L, the mean log-probability of the record's tokens under the target.

    Yeom et al. 2018, arXiv 1709.01604, who threshold the loss -L itself.

    Which one this is: the mean over tokens, in nats, and not the sum, so that long texts do not score low for being
    long. The context decides which tokens are scored: under `mia_prefix=auto` those of
    `model(input_ids, labels=input_ids)`, so not the first one of a text before which the tokenizer puts nothing; under
    `mia_prefix=harness` all, as in the harness's rolling log-likelihood.
    """

    name = "loss"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """L."""
        return mean_logprob(signals.of(Role.TARGET))
