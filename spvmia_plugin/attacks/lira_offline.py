"""Offline LiRA: how far the target lies from its references on a record, in deviations of the references themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import AuditAttack, check_same_tokens, mean_logprob
from spvmia_plugin.config import MAX_REFERENCES
from spvmia_plugin.metrics.moderated import moderated, plausible, upper_p_values
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, Unscored

KINDS = (Role.REFERENCE, Role.CANDIDATE)
LEAST_TESTED = 20
"""Of fewer records with a variance nobody knows how far variances differ: they have scores, and no p-values."""


@dataclass(frozen=True)
class LiraOffline(AuditAttack):
    """score = [L_theta - mean_k L_k - m] / s~, over the references k; m the median over records, s~ shrunken.

    Offline LiRA, Carlini et al. 2022, arXiv 2112.03570, section V-D: the target against models that have not seen the
    record, by the mean and deviation of these on this record. With few of them the deviation is mostly luck: each
    record's variance is drawn towards the common one as in BaVarIA (Brännvall 2026, arXiv 2603.11799) and in Smyth 2004
    (see `metrics.moderated`).

    Which one this is: L is the mean log-probability of a token, not the logit of a class. The models are all
    self-prompted and all candidate references (`mia_references`); candidates are moved to the level of the
    self-prompted ones, and variances are taken within each kind, so that what sets the kinds apart counts for nothing.
    The median over the audited records, which needs no label, takes away what the target is better by everywhere: it
    orders little, and a p-value without it would be small for all. With one reference of each kind there is no
    variance of a record: one deviation for all, of the differences, and the order is that of the plain difference.

    Each record gets a p-value, from Student's t with the degrees of freedom of its own and of the common variance, for
    one more value beside those of the references (a factor of sqrt(1 + 1/K)). It is the chance that another reference
    would find the record so probable, averaged over what the records leave open of how far variances differ.
    The target is another kind of model than its references: the p-values are widened where the records below the
    median say so. With members in the audit they err on the safe side.
    """

    name = "lira_offline"
    title = "LiRA, offline over the references"
    about = "how far the text's probability lies above what several references spread over"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target and all references."""
        return frozenset({Need(Role.TARGET), *map(Need, KINDS)})

    @property
    def feature_names(self) -> tuple[str, ...]:
        """L_theta - L_k of each model that there may be."""
        return tuple(f"{kind.value}_{k}" for kind in KINDS for k in range(1, MAX_REFERENCES + 1))

    def features(self, signals: RecordSignals) -> NDArray[np.float64]:
        """(16,) the difference to each reference and to each candidate, NaN where there is none."""
        target = signals.of(Role.TARGET)
        found = np.full(len(self.feature_names), np.nan)
        missing: list[MissingSignal] = []
        for first, kind in zip(range(0, len(found), MAX_REFERENCES), KINDS, strict=True):
            try:
                models = signals.each_of(kind)
            except MissingSignal as absent:
                missing.append(absent)
                continue
            for place, model in enumerate(models, first):
                check_same_tokens(target, model)
                found[place] = mean_logprob(target) - mean_logprob(model)
                if np.isnan(found[place]):  # which stands for a model that is not there
                    raise MissingSignal("a log-probability is no number")
        if len(missing) == len(KINDS):
            raise missing[0]
        return found

    def score_audit(self, table: NDArray[np.float32]) -> list[float | Unscored]:
        """Differences over shrunken deviations."""
        found = _measured(table)
        shrunken = moderated(found.variance, found.freedom)
        scale = np.std(np.sort(found.difference)) or 1.0 if shrunken is None else np.sqrt(shrunken.variance)
        return [float(score) for score in found.difference / scale]

    def p_values(self, table: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """(n,) how probable a further reference finds each record as probable.

        None with one model of each kind, and of fewer than `LEAST_TESTED` records.
        """
        found = _measured(table)
        if np.count_nonzero(found.freedom) < LEAST_TESTED:
            return None
        further = found.difference / np.sqrt(1 + 1 / found.models)
        under_each = [
            upper_p_values(further / np.sqrt(each.variance), each.freedom)
            for each in plausible(found.variance, found.freedom)
        ]
        return np.mean(under_each, axis=0) if under_each else None


class _Measured(NamedTuple):
    """Of the n records of an audit.

    Attributes:
        difference: (n,) of the target to the mean of its references, less the median.
        variance: (n,) of a reference within its kind; read where `freedom` is above 0.
        freedom: (n,) its degrees of freedom.
        models: (n,) references of both kinds.
    """

    difference: NDArray[np.float64]
    variance: NDArray[np.float64]
    freedom: NDArray[np.int64]
    models: NDArray[np.int64]


def _measured(table: NDArray[np.float32]) -> _Measured:
    kinds = [half.astype(np.float64) for half in np.split(table, len(KINDS), axis=1)]
    counts = [np.count_nonzero(~np.isnan(kind), axis=1) for kind in kinds]
    means = [np.nansum(kind, axis=1) / np.maximum(count, 1) for kind, count in zip(kinds, counts, strict=True)]
    squares = [
        np.nansum((kind - mean[:, None]) ** 2, axis=1) * (count > 1)
        for kind, mean, count in zip(kinds, means, counts, strict=True)
    ]
    both = (counts[0] > 0) & (counts[1] > 0)
    if both.any():
        means[1] = means[1] + np.median(means[0][both] - means[1][both])
    total = counts[0] + counts[1]
    mean = (counts[0] * means[0] + counts[1] * means[1]) / total
    freedom = np.maximum(counts[0] - 1, 0) + np.maximum(counts[1] - 1, 0)
    variance = (squares[0] + squares[1]) / np.maximum(freedom, 1)
    return _Measured(mean - np.median(mean), variance, freedom, total)
