"""InfoRMIA, token by token: how much more the target gives a token than references do, less what is usual for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import Attack, check_same_tokens, score_or_reason
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, TokenSignals, Unscored, View

TOKENS_A_BIN = 100
"""A mean over at least so many tokens of the population."""
MOST_BINS = 20


@dataclass(frozen=True, eq=False)
class _Usual:
    """The mean log ratio of the population's tokens, by how probable the references find a token.

    Attributes:
        edges: (B - 1,) log-probabilities between the bins.
        means: (B,) mean log ratio in each.
    """

    edges: NDArray[np.float64]
    means: NDArray[np.float64]

    def of(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is usual for tokens of these log-probabilities under the references."""
        return self.means[np.searchsorted(self.edges, reference, side="right")]


Memo = dict[tuple[int, ...], _Usual]
"""By the identities of a population's sequences, which live as long as their records."""


@dataclass(frozen=True)
class InfoRmia(Attack):
    """score = mean over t of r_t - E_z[r_z | log p_z = log p_t], r = l(theta) - log p, p the mean of the references'.

    InfoRMIA, Tao and Shokri 2025, arXiv 2510.05582. RMIA (Zarifzadeh et al. 2024, arXiv 2312.03262) counts how many
    population values z a record's likelihood ratio beats; InfoRMIA takes the mean of the log of the ratio of both, log
    [p(x|theta) / p(x)] - E_z log [p(z|theta) / p(z)], whose second part is D(p(z) || p(z|theta)), the Kullback-Leibler
    divergence. Token by token x and z are tokens after the same context.

    Which one this is: the paper itself could not be had, only its abstract and two re-implementations, so there is no
    equation number here. In those z runs over the vocabulary at the token's place, which takes both models' whole
    distributions at once. Here z are the tokens of the held-out documents that the references find as probable as
    the token in question: in bins of equal counts, 20 at most of at least 100 tokens. p is the mean of the
    probabilities of all self-prompted references (`mia_references`), token by token; the candidate references, which
    are trained on the population as a rule, are left out. Offline: no reference has seen the record.
    """

    name = "info_rmia"
    title = "InfoRMIA, token by token"
    about = "by how much each token is more probable than under the references, beyond what held-out tokens show"

    @property
    def needs(self) -> frozenset[Need]:
        """The record and the population under the target and the references."""
        roles = (Role.TARGET, Role.REFERENCE)
        return frozenset(Need(role, view) for role in roles for view in (View.TEXT, View.POPULATION))

    def score_record(self, signals: RecordSignals) -> float:
        """The mean over tokens; `score_many` works out the population only once."""
        return self._mean(signals, {})

    def score_many(self, records: Sequence[RecordSignals]) -> list[float | Unscored]:
        """Score records against the population they share."""
        memo: Memo = {}
        return [score_or_reason(lambda record: self._mean(record, memo), signals, self.name) for signals in records]

    def _mean(self, signals: RecordSignals, memo: Memo) -> float:
        ratio, reference = _ratios(signals.of(Role.TARGET), signals.each_of(Role.REFERENCE))
        target, references = signals.population_of(Role.TARGET), signals.each_population_of(Role.REFERENCE)
        key = (id(target), *map(id, references))
        if key not in memo:
            memo[key] = _usual(target, references)
        return float(np.mean(ratio - memo[key].of(reference)))


def _ratios(
    target: TokenSignals, references: Sequence[TokenSignals]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T,) r_t, and log p_t: the log of the mean of the references' probabilities."""
    for reference in references:
        check_same_tokens(target, reference)
    logs = np.array([reference.logprob for reference in references], dtype=np.float64)
    mean = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))
    return target.logprob - mean, mean


def _usual(target: Sequence[TokenSignals], references: Sequence[Sequence[TokenSignals]]) -> _Usual:
    if any(len(texts) != len(target) for texts in references):
        raise MissingSignal("target and reference did not score the same population")
    pairs = [_ratios(of_target, of_each) for of_target, *of_each in zip(target, *references, strict=True)]
    ratio, reference = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    known = np.isfinite(ratio)
    ratio, reference = ratio[known], reference[known]
    if not len(ratio):
        raise MissingSignal("no population text has scored tokens")
    bins = min(MOST_BINS, max(1, len(ratio) // TOKENS_A_BIN))
    edges = np.quantile(reference, np.arange(1, bins) / bins)
    place = np.searchsorted(edges, reference, side="right")
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, weights=ratio, minlength=bins)
    return _Usual(edges, np.where(counts > 0, sums / np.maximum(counts, 1), ratio.mean()))  # equal edges: an empty bin
