"""The lowercase attack."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, nll
from spvmia_plugin.signals import Need, RecordSignals, Role, View


@dataclass(frozen=True)
class Lowercase(Attack):
    """score = NLL(lower(x)) / NLL(x): what the text loses when its capitals are taken away.

    Carlini et al. 2021, arXiv 2012.07805, section 5.

    Which one this is: the ratio of mean NLLs (log-perplexities), as in the paper and in the code of mink-plus-plus;
    each mean over the tokens of its own text, which differ in number. Some code reports -NLL(x) / NLL(lower(x)), the
    same order; a difference of the two, also seen, is another attack. A text without capitals scores 1.
    """

    name = "lowercase"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and its lower-case form under the target."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.LOWERCASE)})

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        return nll(signals.of(Role.TARGET, View.LOWERCASE)) / nll(signals.of(Role.TARGET))
