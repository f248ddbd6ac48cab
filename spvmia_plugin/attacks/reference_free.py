"""Attacks that ask the target alone: loss, zlib, lowercase, Min-K% and Min-K%++."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import NO_MOMENTS, Attack, check_share, lowest_share, mean_logprob, nll
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, View


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
    title = "Loss"
    about = "how probable the text is under the model"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """L."""
        return mean_logprob(signals.of(Role.TARGET))


@dataclass(frozen=True)
class Zlib(Attack):
    """score = L / len(zlib(utf-8 bytes)): the log-probability against how compressible the text is.

    Carlini et al. 2021, arXiv 2012.07805, section 5: the ratio of log-perplexity and zlib entropy.

    Which one this is: the numerator is the mean over tokens (their log-perplexity), the denominator the length in
    bytes of the whole compressed text, header included, at zlib's default level. Their own code ranks by the reciprocal
    with the sign turned, entropy / NLL: the same order. Code that divides the sum over tokens, or takes the
    compressed length per character, ranks texts of unequal length differently; mink-plus-plus, ReCaLL and MIMIR
    divide the mean by the bytes, as here.
    """

    name = "zlib"
    title = "Loss per zlib byte"
    about = "how probable the text is, against how well it compresses"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """L over the compressed length in bytes."""
        # JSON can carry half of a surrogate pair; it is a text like any other.
        compressed = zlib.compress(signals.text.encode("utf-8", "surrogatepass"))
        return mean_logprob(signals.of(Role.TARGET)) / len(compressed)


@dataclass(frozen=True)
class Lowercase(Attack):
    """score = NLL(lower(x)) / NLL(x): what the text loses when its capitals are taken away.

    Carlini et al. 2021, arXiv 2012.07805, section 5.

    Which one this is: the ratio of mean NLLs (log-perplexities), as in the paper and in the code of mink-plus-plus;
    each mean over the tokens of its own text, which differ in number. Some code reports -NLL(x) / NLL(lower(x)), the
    same order; a difference of the two, also seen, is another attack. A text without capitals scores 1.
    """

    name = "lowercase"
    title = "Lowercase ratio"
    about = "how much the loss grows when the text is written in small letters"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its lower-case form under the target."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.LOWERCASE)})

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        return nll(signals.of(Role.TARGET, View.LOWERCASE)) / nll(signals.of(Role.TARGET))


@dataclass(frozen=True)
class MinK(Attack):
    """score = mean of the lowest `share` of the l_t (Min-K% Prob).

    Shi et al. 2024, arXiv 2310.16789.

    Which one this is: the share is 0.2, what the paper settles on, and stays fixed (the mink-plus-plus code reports
    every tenth from 0.1 to 1, and papers then quote the best). At least one token is taken: the well-known code takes
    int(share * T) and averages nothing, NaN, for T < 5. Single tokens, not MIMIR's optional n-grams; all
    scored tokens count (open-unlearning's code leaves the last one out).
    """

    name = "min_k"
    title = "Min-K%"
    about = "how probable the text's least probable tokens are"
    options = {"share": "mia_min_k"}  # noqa: RUF012 - ClassVar in the base

    share: float = 0.2

    def __post_init__(self) -> None:
        check_share("mia_min_k", self.share)

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target."""
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals: RecordSignals) -> float:
        """Mean over the least probable tokens."""
        return float(np.mean(lowest_share(signals.of(Role.TARGET).logprob, self.share), dtype=np.float64))


@dataclass(frozen=True)
class MinKPlusPlus(Attack):
    """score = mean of the lowest `share` of (l_t - mu_t) / sigma_t (Min-K%++).

    Zhang et al. 2025, arXiv 2404.02936: mu_t and sigma_t are mean and standard deviation of
    log p(v | x_<t) over the vocabulary.

    Which one this is: the moments are taken with v drawn from p, as in the paper and its code, and not uniformly over
    the vocabulary (a plain `log_probs.mean(-1)`, as some re-implementations have it). Positions with
    sigma 0 are left out before the share is counted; the authors' code divides by zero there, and takes the square
    root of a variance that rounding made negative. Share 0.2 and at least one token, as in min_k.
    """

    name = "min_k_pp"
    title = "Min-K%++"
    about = "how probable the least probable tokens are, against all others that could have stood there"
    options = {"share": "mia_min_k_pp"}  # noqa: RUF012 - ClassVar in the base

    share: float = 0.2

    def __post_init__(self) -> None:
        check_share("mia_min_k_pp", self.share)

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target, with moments."""
        return frozenset({Need(Role.TARGET, moments=True)})

    def score_record(self, signals: RecordSignals) -> float:
        """Mean over the lowest standardised log-probabilities."""
        tokens = signals.of(Role.TARGET)
        if tokens.mean is None or tokens.std is None:
            raise MissingSignal(NO_MOMENTS)
        varies = tokens.std > 0
        if not varies.any():
            raise MissingSignal("all sigma are 0")
        centred = np.subtract(tokens.logprob, tokens.mean, dtype=np.float64)[varies]
        return float(np.mean(lowest_share(centred / tokens.std[varies].astype(np.float64), self.share)))
