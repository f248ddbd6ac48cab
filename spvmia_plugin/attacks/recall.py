"""ReCaLL."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, nll
from spvmia_plugin.attacks.common import is_count
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Need, RecordSignals, Role, View


@dataclass(frozen=True)
class Recall(Attack):
    """score = NLL(x | prefix of held-out non-members) / NLL(x).

    ReCaLL, Xie et al. 2024, arXiv 2406.15968.

    Which one this is: the prefix is conditioned on and not scored, as in the paper and its code (labels masked); some
    benchmark code scores prefix and record together, and so measures mostly the prefix. The prefix is one and the
    same for all records: the first held-out documents, as many of the `shots` as the context holds (the authors vary
    their number and report the best; 7 is kept fixed here). The prefix gives the first token a context too: in the
    authors' code it counts after the prefix and, where the tokenizer puts nothing before a text, not without it.

    Attributes:
        shots: how many held-out documents make the prefix.
    """

    name = "recall"
    options = {"shots": "mia_recall_shots"}  # noqa: RUF012 - ClassVar in the base

    shots: int = 7

    def __post_init__(self) -> None:
        if not is_count(self.shots):
            raise SpvmiaError(f"mia_recall_shots: expected a whole number >= 1, got {self.shots!r}; the default is 7")

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target, alone and after the prefix."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.PREFIXED)})

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        return nll(signals.of(Role.TARGET, View.PREFIXED)) / nll(signals.of(Role.TARGET))
