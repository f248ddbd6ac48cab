"""Min-K% Prob."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvmia_plugin.attacks.base import Attack, lowest_share
from spvmia_plugin.attacks.common import check_share
from spvmia_plugin.signals import Need, RecordSignals, Role


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
