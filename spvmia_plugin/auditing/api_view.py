"""What an interface shows of a target: the signals as an attacker behind it would get them (`mia_api_view`).

The store keeps what was computed; a view is put on it afterwards, so that views of one target cost one scoring. Only
`top_k:K` asks for something more: the log-probability of the K-th most probable token at each place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spvmia_plugin.auditing.stored import Decimals, as_json
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import BackendFeatures, Perturbation, ScoreInput
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import FloatArray, Role, TokenSignals

FULL, TEXT, TOP_K, ROUNDED, NOISED = "full", "text", "top_k", "rounded", "noised"
OPTION = "mia_api_view"


def shown_as(view: str) -> str:
    """A view in words: what the attacker saw of the target."""
    kind, _, number = view.partition(":")
    return {
        FULL: "all log-probabilities",
        TEXT: "text alone",
        TOP_K: f"the {number} most probable tokens' log-probabilities",
        ROUNDED: f"log-probabilities of {number} decimals",
        NOISED: f"log-probabilities with noise of {number} nats",
    }.get(kind, view)


@dataclass(frozen=True)
class ApiView:
    """A view, and what it makes of signals.

    Attributes:
        kind: `full`, `text`, `top_k`, `rounded` or `noised`.
        number: K, the decimals or the standard deviation in nats.
        seed: of the noise.
    """

    kind: str = FULL
    number: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, config: AuditConfig) -> ApiView:
        """The view that an audit is under."""
        kind, _, number = config.api_view.partition(":")
        return cls(kind, float(number or 0), config.seed)

    @property
    def kth(self) -> int:
        """K, where the log-probability of the K-th most probable token is needed; else 0."""
        return int(self.number) if self.kind == TOP_K else 0

    def check(self, perturbation: Perturbation) -> None:
        """Make sure that paraphrases need no more of the target than is shown.

        Raises:
            SpvmiaError: they are drawn from its distribution.
        """
        if self.kind != FULL and Role.TARGET in perturbation.roles:
            raise SpvmiaError(
                f"mia_perturbation: expected a kind that asks nothing of the target, because {OPTION} is {self.kind}, "
                f"got {perturbation.name!r}; choose causal or mask_fill, or set {OPTION}=full"
            )

    def features(self, whole: BackendFeatures) -> BackendFeatures:
        """What can be done with the target through the interface, of what can be done with it.

        No interface but the whole model takes embeddings or gives gradients. Nor does one show moments: what asks for
        them is not refused, and finds none.
        """
        if self.kind == FULL:
            return whole
        shown = replace(whole, embeddings=False, gradients=False)
        hidden = self.kind == TEXT or (self.kind == TOP_K and not whole.kth)
        return replace(shown, logprobs=False) if hidden else shown

    def seen(self, item: ScoreInput, signals: TokenSignals) -> TokenSignals:
        """One sequence's signals as the attacker gets them.

        Under `top_k:K` a token that is not among the K most probable ones has no log-probability; all that is known is
        that it has at most that of the K-th, and that bound stands in its place (the identified set of a top-K
        interface, arXiv 2605.10407, has it as its upper end). Under `noised:S` the noise depends on `mia_seed` and on
        the sequence alone: who asks again gets the same answer, so that nothing is to be averaged away. Noise may lift
        a log-probability above 0; it is left there. The most probable token is shown under all of them.
        """
        if self.kind == FULL:
            return signals
        logprob: FloatArray = signals.logprob
        if self.kind == TOP_K:
            if signals.kth is None:
                raise ValueError("top_k: expected signals with the K-th log-probability")
            logprob = np.maximum(logprob, signals.kth)
        elif self.kind == ROUNDED:
            logprob = np.round(logprob.astype(np.float64), int(self.number)).astype(logprob.dtype)
        elif self.kind == NOISED:
            generator = np.random.default_rng(stable_seed(self.seed, OPTION, as_json(item, Decimals())))
            noise = generator.normal(0.0, self.number, len(logprob))
            logprob = (logprob.astype(np.float64) + noise).astype(logprob.dtype)
        return TokenSignals(logprob, signals.top1, None, None, signals.windows)
