"""Attacks that ask how near its optimum the target is at the record: in-context probing, and the gradient itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import DIFFERENT_TOKENS, Attack, check_count, mean_logprob
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, View

MOST_PROBES = 10_000
"""As many as there may be paraphrases of a record."""


@dataclass(frozen=True)
class Icp(Attack):
    """score = L(x) - max over probes of L(x | probe): a record that was trained on gains least from being helped.

    ICP-MIA, Lu et al. 2025, arXiv 2512.16292, by self-perturbation; code RPI-DSPlab/ICP-MIA (`icp_score`). The probe is
    the record itself with 70 % of its words replaced by the word "word" (their `--mask_rate 0.7`). It is read before
    the record and not scored. A fine-tuned model has little left to learn of a member, so a context that shows it half
    of the answer moves its loss less.

    Which one this is: sign and formula are those of their code, which takes the one probe of several after which the
    record is most probable, whatever its `aggregation_strategy` says; 1 probe here, where their configuration has 5.
    Between probe and record stand two line breaks, nothing in their code. The same tokens count on both sides: where
    nothing stands before a text, its first token is conditioned on after the probe too. At least one word is masked,
    where their code masks none in a short text and probes with the record itself. Their other way, a similar public
    text as probe, needs such texts and a model that finds them, and is not here. Of conversations, the texts that
    carry loss are perturbed, as the answer is in their code.

    Attributes:
        probes: how many perturbed copies are tried.
    """

    name = "icp"
    title = "In-context probing"
    about = "how little it helps the model to read a text much like this one first"
    options = {"probes": "mia_icp_probes"}  # noqa: RUF012 - ClassVar in the base

    probes: int = 1

    def __post_init__(self) -> None:
        check_count("mia_icp_probes", self.probes, MOST_PROBES, type(self).probes)

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target, alone and after its probes."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.PROBED, probes=self.probes)})

    def score_record(self, signals: RecordSignals) -> float:
        """What the best probe takes from L."""
        alone, probed = signals.of(Role.TARGET), signals.probed_of(Role.TARGET)[: self.probes]
        best = max(probed, key=mean_logprob)
        # A BOS that the harness scores (`mia_prefix=harness`) stands before the probe, and is no part of what it helps.
        extra = len(alone) - len(best)
        if extra < 0:
            raise MissingSignal(DIFFERENT_TOKENS)
        return float(np.mean(alone.logprob[extra:], dtype=np.float64)) - mean_logprob(best)


@dataclass(frozen=True)
class GradNorm(Attack):
    """score = -log of the norm of the gradient of NLL(x) in the trained weights: training leaves members near 0.

    White box: Nasr et al. 2019, arXiv 1812.00910, who feed gradients to an attack model; the norm by itself as a score
    for language models is that of Wang et al. 2024 ("Pandora's White-Box"), arXiv 2402.17012.

    Which one this is: the Euclidean norm over all trained weights together: those of the adapter where the target has
    one, which are the ones that training moved, else all. The code of the second paper and MIMIR's take the norm of
    each tensor and their mean over tensors, for p = 1, 2 and infinity, all weights requiring a gradient; and some code
    the gradient in the input embeddings. NLL is the mean over the tokens that count, so long texts do not score low for
    being long. The logarithm changes no order. The gradient is computed in evaluation mode, without dropout.
    """

    name = "grad_norm"
    title = "Gradient norm"
    about = "how small the gradient of the text's loss is in the weights: near zero where it was fitted"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target, forward (the samples say of how many tokens the loss is) and backward."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.GRADIENT)})

    def score_record(self, signals: RecordSignals) -> float:
        """The negative log-norm; a gradient that is exactly 0 has none."""
        signals.of(Role.TARGET)
        return float(-np.log(signals.gradient_of(Role.TARGET)))
