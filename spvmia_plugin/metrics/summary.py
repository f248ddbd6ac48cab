"""Every number of one attack, each with its uncertainty, or NaN and the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.metrics.arrays import (
    NAN_INTERVAL,
    Bools,
    Codes,
    Floats,
    Interval,
    check_scores,
    cluster_codes,
    effective_number,
)
from spvmia_plugin.metrics.asr import asr_interval
from spvmia_plugin.metrics.intervals import AurocEstimate, estimate_auroc
from spvmia_plugin.metrics.names import ASR, AUROC, METRICS, PRIVACY, TPR_01PCT, TPRS, Metric
from spvmia_plugin.metrics.roc import attack_success_rate, privacy_score
from spvmia_plugin.metrics.tpr import Bootstrap, tpr_at_fpr, tpr_interval, tpr_stderrs
from spvmia_plugin.util.schema import MaybeNumber

FEW_DOCUMENTS = 20
MOSTLY_TIED = 0.5
"""Documents of a class that count as fewer (`effective_number`) have intervals that no simulation has checked."""


@dataclass(frozen=True, slots=True)
class TprSummary:
    """TPR at an FPR.

    Attributes:
        value: read at rank FPR * (n + 1) of the non-members, so that a guess gets the FPR on average.
        stderr: bootstrap over documents of both classes, the threshold estimated anew each time.
        interval: two-sided, the threshold being estimated as well.
        largest: the literature's convention, the largest TPR among thresholds whose FPR is at most the bound.
        realised_fpr: the FPR at that threshold.
        threshold: smallest score that counts as "member" there.
        reason: why the numbers are NaN, or None.
    """

    value: MaybeNumber = math.nan
    stderr: MaybeNumber = math.nan
    interval: Interval = NAN_INTERVAL
    largest: MaybeNumber = math.nan
    realised_fpr: MaybeNumber = math.nan
    threshold: MaybeNumber = math.nan
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The numbers of one attack on one data set, and their layout in `mia_audit`.

    Attributes:
        auroc: P(member's score > non-member's) + P(equal) / 2.
        auroc_stderr: DeLong's standard error, summed within documents.
        auroc_interval: logit-transformed, two-sided at `confidence`.
        tpr_at_5pct_fpr: TPR at an FPR of 5 %.
        tpr_at_1pct_fpr: TPR at an FPR of 1 %.
        tpr_at_0_1pct_fpr: TPR at an FPR of 0.1 %.
        asr: 1 - equal error rate.
        asr_interval: two-sided, the threshold being estimated as well; NaN in files of before it was recorded.
        privacy_score: 1 - 2 * |AUROC - 0.5|; higher is better.
        n_members: scored members.
        n_nonmembers: scored non-members.
        n_clusters: documents they come from.
        confidence: of every interval here.
        reason: why AUROC, ASR and privacy score are NaN, or None.
        warnings: plain sentences about what limits these numbers.
    """

    auroc: MaybeNumber
    auroc_stderr: MaybeNumber
    auroc_interval: Interval
    tpr_at_5pct_fpr: TprSummary = TprSummary(reason="recorded by a version that had none; run the audit again")
    tpr_at_1pct_fpr: TprSummary
    tpr_at_0_1pct_fpr: TprSummary = field(metadata={"key": TPR_01PCT.key})
    asr: MaybeNumber
    asr_interval: Interval = NAN_INTERVAL
    privacy_score: MaybeNumber
    n_members: int
    n_nonmembers: int
    n_clusters: int
    confidence: float
    reason: str | None
    warnings: tuple[str, ...]

    @property
    def tprs(self) -> dict[Metric, TprSummary]:
        """The TPRs by metric."""
        found = (self.tpr_at_5pct_fpr, self.tpr_at_1pct_fpr, self.tpr_at_0_1pct_fpr)
        return dict(zip(TPRS, found, strict=True))

    def values(self) -> dict[str, float]:
        """The numbers that the harness prints, by its names, and their standard errors."""
        printed = {metric: tpr for metric, tpr in self.tprs.items() if metric.key in METRICS}
        return {
            AUROC.key: self.auroc,
            AUROC.stderr_key: self.auroc_stderr,
            **{metric.key: tpr.value for metric, tpr in printed.items()},
            **{metric.stderr_key: tpr.stderr for metric, tpr in printed.items()},
            ASR.key: self.asr,
            PRIVACY.key: self.privacy_score,
        }


def summarise(
    scores: ArrayLike,
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    called: str = "documents",
) -> Summary:
    """Summarise the scored records of one attack.

    Args:
        scores: (n,) finite scores, higher = member; unscored records are left out beforehand.
        is_member: (n,) bool.
        clusters: (n,) id of the document of each record; None if every record is a document of its own.
        seed: of the bootstrap of the TPRs' standard errors; nothing else is random.
        confidence: of the two-sided intervals.
        called: what the clusters are, see `records.clusters_called`.

    Raises:
        SpvmiaError: lengths differ, or a score is not finite.
    """
    values, labels = check_scores(scores, is_member)
    codes = cluster_codes(clusters, len(values))
    n_members, n_nonmembers = int(labels.sum()), int((~labels).sum())
    reason = _empty_class(n_members, n_nonmembers)
    estimate = None if reason else estimate_auroc(values, labels, codes)
    auroc = estimate.auroc if estimate else math.nan
    interval = estimate.interval(confidence) if estimate else NAN_INTERVAL
    tprs = _tprs(values, labels, codes, seed, confidence)
    warnings = [reason] if reason else [point.reason for point in tprs if point.reason]
    if estimate:
        warnings += _warnings(values, labels, codes, estimate, interval, called)
    return Summary(
        auroc=auroc,
        auroc_stderr=estimate.stderr if estimate else math.nan,
        auroc_interval=interval,
        tpr_at_5pct_fpr=tprs[0],
        tpr_at_1pct_fpr=tprs[1],
        tpr_at_0_1pct_fpr=tprs[2],
        asr=attack_success_rate(values, labels),
        asr_interval=NAN_INTERVAL if reason else asr_interval(values, labels, codes, confidence),
        privacy_score=privacy_score(auroc),
        n_members=n_members,
        n_nonmembers=n_nonmembers,
        n_clusters=len(np.unique(codes)),
        confidence=confidence,
        reason=reason,
        warnings=tuple(warnings),
    )


def _empty_class(n_members: int, n_nonmembers: int) -> str | None:
    if n_members == 0 and n_nonmembers == 0:
        return "no record has a score"
    if n_members == 0:
        return "no member has a score"
    return "no non-member has a score" if n_nonmembers == 0 else None


def _tprs(values: Floats, labels: Bools, codes: Codes, seed: int, confidence: float) -> list[TprSummary]:
    """One summary for each of `TPRS`; the bootstrap is run once for those that are resolved."""
    points = {metric.fpr: tpr_at_fpr(values, labels, metric.fpr) for metric in TPRS}
    resolved = [fpr for fpr, point in points.items() if point.reason is None]
    drawn = Bootstrap(labels, codes, seed).tprs([values], resolved)[0] if resolved else np.zeros((0, 0))
    stderrs = dict(zip(resolved, tpr_stderrs(values, labels, codes, resolved, drawn), strict=True)) if resolved else {}
    return [
        TprSummary(
            value=point.tpr,
            stderr=stderrs.get(fpr, math.nan),
            interval=tpr_interval(values, labels, codes, fpr, confidence) if fpr in stderrs else NAN_INTERVAL,
            largest=point.largest,
            realised_fpr=point.realised_fpr,
            threshold=point.threshold,
            reason=point.reason,
        )
        for fpr, point in points.items()
    ]


def _warnings(
    values: Floats, labels: Bools, codes: Codes, estimate: AurocEstimate, interval: Interval, called: str
) -> list[str]:
    """What else limits the numbers, in plain sentences."""
    found = []
    few = few_documents([np.unique(codes[side], return_counts=True)[1] for side in (labels, ~labels)], called)
    if estimate.reason:
        found.append(estimate.reason)
    elif few:
        found.append(few)
    if values.min() == values.max():
        found.append("all scores are equal: the attack tells nothing about these records")
    elif (share := np.unique(values, return_counts=True)[1].max() / len(values)) > MOSTLY_TIED:
        found.append(
            f"{100 * share:.0f} % of the records have one and the same score: no threshold tells them apart, and the "
            "ROC curve is a straight line over them"
        )
    if interval[1] < AUROC.guess:
        found.append(
            "the AUROC lies below 0.5: members score lower than non-members, which points at how the classes were "
            "chosen, or at swapped labels, rather than at privacy"
        )
    return found


def few_documents(classes: Sequence[Codes], called: str = "documents") -> str | None:
    """What to say where the documents of a class are too few, or some too large, for intervals that were checked.

    Args:
        classes: of each class the (C,) records of each document, at least one.
        called: what they are, if not documents.
    """
    sizes = min(classes, key=effective_number)
    effective = effective_number(sizes)
    if effective > FEW_DOCUMENTS - 1e-9:
        return None
    if effective > 0.75 * len(sizes):
        told = f"only {len(sizes)} {called}: intervals are checked for {FEW_DOCUMENTS} and more"
    else:
        share = 100 * float(np.max(sizes)) / float(np.sum(sizes))
        told = (
            f"{len(sizes)} {called}, of such different sizes that they count as only {effective:.1f} (the largest "
            f"holds {share:.0f} %): the numbers are mostly those of the largest, and the intervals are wide"
        )
    return f"one class has records of {told}"
