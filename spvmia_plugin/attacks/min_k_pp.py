"""Min-K%++."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, lowest_share
from spvmia_plugin.attacks.common import check_share
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role


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
            raise MissingSignal("the backend gives no moments")
        varies = tokens.std > 0
        if not varies.any():
            raise MissingSignal("all sigma are 0")
        centred = np.subtract(tokens.logprob, tokens.mean, dtype=np.float64)[varies]
        return float(np.mean(lowest_share(centred / tokens.std[varies].astype(np.float64), self.share)))
