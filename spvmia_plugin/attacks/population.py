"""Attacks that need other texts besides the record: ReCaLL, which puts them before it, and RMIA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import (
    Attack,
    check_count,
    check_same_tokens,
    mean_logprob,
    nll,
    score_or_reason,
    target_and,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, TokenSignals, Unscored, View
from spvmia_plugin.util.strict_json import is_number

MOST_SHOTS = 10**6
"""More documents of one token each than any context holds."""


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
    title = "ReCaLL"
    about = "how much the loss grows when texts that were not trained on stand before this one"
    options = {"shots": "mia_recall_shots"}  # noqa: RUF012 - ClassVar in the base

    shots: int = 7

    def __post_init__(self) -> None:
        check_count("mia_recall_shots", self.shots, MOST_SHOTS, type(self).shots)

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target, alone and after the prefix."""
        return frozenset({Need(Role.TARGET), Need(Role.TARGET, View.PREFIXED, shots=self.shots)})

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        return nll(signals.of(Role.TARGET, View.PREFIXED)) / nll(signals.of(Role.TARGET))


Memo = dict[tuple[int, int], NDArray[np.float64]]
"""Sorted r of a population by the identities of its two sequences, which live as long as their records."""


@dataclass(frozen=True)
class Rmia(Attack):
    """score = share of population texts z with r(x) / r(z) > 1; r = p_theta / ((1+a)/2 p_base + (1-a)/2).

    RMIA, offline, Zarifzadeh et al. 2024, arXiv 2312.03262; p(x) = exp(L(x)).

    Which one this is: gamma = 1, one reference model, the base; the population is the prompt documents, held out from
    members and non-members. p is the geometric mean of the tokens' probabilities: the probability of a whole text
    underflows, and the offline correction (1-a)/2 would drown it. The authors fit a to each data set on models of
    their own; 0.3 is a starting point that nobody has fitted for text. The score takes as many values as there are
    population texts, plus one: with few of them, ties limit the TPR at low FPR.

    Attributes:
        a: slope of the correction that turns p_base into an estimate over models with and without x, from 0 to 1.
    """

    name = "rmia"
    title = "RMIA, offline"
    about = "for what share of other texts the model gained less over its base than for this one"
    options = {"a": "mia_rmia_a"}  # noqa: RUF012 - ClassVar in the base

    a: float = 0.3

    def __post_init__(self) -> None:
        if not is_number(self.a) or not 0 <= self.a <= 1:
            raise SpvmiaError(f"mia_rmia_a: expected a number >= 0 and <= 1, got {self.a!r}; the default is 0.3")

    @property
    def needs(self) -> frozenset[Need]:
        """The record and the population under target and base."""
        return frozenset(Need(role, view) for role in (Role.TARGET, Role.BASE) for view in (View.TEXT, View.POPULATION))

    def score_record(self, signals: RecordSignals) -> float:
        """Share of the population that the record beats; `score_many` works out the population only once."""
        return self._share(signals, {})

    def score_many(self, records: Sequence[RecordSignals]) -> list[float | Unscored]:
        """Score records against the population they share."""
        memo: Memo = {}
        return [score_or_reason(lambda record: self._share(record, memo), signals, self.name) for signals in records]

    def _share(self, signals: RecordSignals, memo: Memo) -> float:
        ratio = self._ratio(*target_and(Role.BASE, signals))
        if not np.isfinite(ratio):
            return float("nan")
        target, base = signals.population_of(Role.TARGET), signals.population_of(Role.BASE)
        key = (id(target), id(base))
        if key not in memo:
            memo[key] = self._population(target, base)
        return float(np.searchsorted(memo[key], ratio, side="left")) / len(memo[key])

    def _population(self, target: Sequence[TokenSignals], base: Sequence[TokenSignals]) -> NDArray[np.float64]:
        """r of the population texts with at least one token, ascending."""
        if len(target) != len(base):
            raise MissingSignal("target and base did not score the same population")
        for left, right in zip(target, base, strict=True):
            check_same_tokens(left, right)
        ratios = [self._ratio(left, right) for left, right in zip(target, base, strict=True) if len(left)]
        if not ratios:
            raise MissingSignal("no population text has scored tokens")
        return np.sort(ratios)

    def _ratio(self, target: TokenSignals, base: TokenSignals) -> float:
        reference = (1 + self.a) / 2 * np.exp(mean_logprob(base)) + (1 - self.a) / 2
        return float(np.exp(mean_logprob(target)) / reference)
