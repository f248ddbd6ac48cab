"""Attacks that compare a record with its paraphrases: neighbours, DetectGPT and SPV-MIA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, check_same_tokens, mean_logprob, paraphrase_means
from spvmia_plugin.config import SpvVariant
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, TokenSignals, View


@dataclass(frozen=True)
class Neighbour(Attack):
    """score = L(x) - mean L(x~): how far the text stands out among its paraphrases.

    Mattern et al. 2023, arXiv 2305.18462, with the sign turned.

    Which one this is: the plain difference (detectgpt divides it by the standard deviation); the paraphrases are
    those of `mia_perturbation`, where the authors replace single words through BERT with dropout. Each mean is over
    the tokens of its own text, which may differ in number.
    """

    name = "neighbour"
    title = "Neighbours"
    about = "how much more probable the text is than its paraphrases"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its paraphrases under the target."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.NEIGHBOURS)})

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means."""
        return mean_logprob(signals.of(Role.TARGET)) - float(np.mean(paraphrase_means(signals)))


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
    title = "DetectGPT"
    about = "how much more probable the text is than its paraphrases, in their standard deviations"

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


MIN_WORDS = 14
"""Texts with fewer words, split at single spaces, get int(0.3 * words / 4) = 0 masks in the released code."""


@dataclass(frozen=True)
class Spv(Attack):
    """score = [p_theta(x) - mean p_theta(x~)] - [p_phi(x) - mean p_phi(x~)], p(x) = exp(L(x)).

    Fu et al. 2024, arXiv 2311.06062: the probabilistic variation of the target, calibrated by that of
    the self-prompt reference phi. The mean runs over the N pairs x~+, x~-, so over 2N paraphrases, the same
    for both models.

    Which one this is: both variants take the plain mean over the tokens that were scored. Under `mia_prefix=auto`
    these are tokens 2..T where the tokenizer adds nothing in front: exactly the Hugging Face loss of the published code
    (tsinghua-fib-lab/ANeurIPS2024_SPV-MIA). `released` masks as that code does (`mask_fill`): independent one-sided
    draws, not pairs, which enter by their plain mean. Texts of fewer than 14 words are never perturbed there and score
    exactly 0, whatever the model; here they are unscored, with that reason. p(x) is the geometric mean of the tokens'
    probabilities in both, not the probability of the text. The published code marks members with 0, which turns its
    sign, not the order.

    Attributes:
        variant: `paper` or `released`.
    """

    name = "spv"
    title = "SPV-MIA"
    about = (
        "how much the probability falls from the text to its paraphrases, against a model fine-tuned on what "
        "this one writes when prompted"
    )
    options = {"variant": "mia_spv_variant"}  # noqa: RUF012 - ClassVar in the base

    variant: SpvVariant = "paper"

    def __post_init__(self) -> None:
        if self.variant not in ("paper", "released"):
            raise SpvmiaError(
                f"mia_spv_variant: expected paper or released, got {self.variant!r}; the default is paper"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its paraphrases under target and reference."""
        return frozenset(
            Need(role, view) for role in (Role.TARGET, Role.REFERENCE) for view in (View.TEXT, View.NEIGHBOURS)
        )

    def score_record(self, signals: RecordSignals) -> float:
        """Variation of the target less that of the reference."""
        if self.variant == "released" and len(signals.text.split(" ")) < MIN_WORDS:
            raise MissingSignal(f"fewer than {MIN_WORDS} words, which the released code never perturbs")
        target = [signals.of(Role.TARGET), *signals.neighbours_of(Role.TARGET)]
        reference = [signals.of(Role.REFERENCE), *signals.neighbours_of(Role.REFERENCE)]
        if len(target) != len(reference):
            raise MissingSignal("target and reference did not score the same paraphrases")
        for left, right in zip(target, reference, strict=True):
            check_same_tokens(left, right)
        return self._variation(target) - self._variation(reference)

    def _variation(self, texts: list[TokenSignals]) -> float:
        """p of the first text less the mean p of the others."""
        probability = [self._probability(tokens) for tokens in texts]
        return probability[0] - float(np.mean(probability[1:]))

    @staticmethod
    def _probability(tokens: TokenSignals) -> float:
        if len(tokens) == 0:
            raise MissingSignal("a text or paraphrase has no scored tokens")
        return float(np.exp(mean_logprob(tokens)))
