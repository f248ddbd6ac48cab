"""The ROC curve and the numbers read off it. Members are positive, a higher score means member, ties move together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spvmia_plugin.metrics.arrays import Codes, Floats, check_scores


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """An empirical ROC curve of K points, from (0, 0) to (1, 1).

    Attributes:
        fpr: (K,) share of non-members with score >= threshold, ascending; NaN without non-members.
        tpr: (K,) share of members with score >= threshold, ascending; NaN without members.
        thresholds: (K,) infinity, then every distinct score in descending order.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def roc_curve(scores: ArrayLike, is_member: ArrayLike) -> Roc:
    """All points of the empirical ROC curve; equal to scikit-learn's with `drop_intermediate=False`.

    Args:
        scores: (n,) finite scores, higher = member.
        is_member: (n,) bool.

    Raises:
        SpvmiaError: shapes differ, or a score is not finite.
    """
    values, labels = check_scores(scores, is_member)
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], labels[order]
    last_of_tie = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    true_positives = np.append(0, np.cumsum(hits)[last_of_tie])
    false_positives = np.append(0, np.cumsum(~hits)[last_of_tie])
    thresholds = np.append(np.inf, ordered[last_of_tie])
    return Roc(_share(false_positives, int(np.sum(~labels))), _share(true_positives, int(np.sum(labels))), thresholds)


def _share(counts: Floats, total: int) -> Floats:
    return counts / total if total else np.full(len(counts), np.nan)


def auroc(scores: ArrayLike, is_member: ArrayLike) -> float:
    """P(member's score > non-member's) + P(equal) / 2, in [0, 1]; NaN if a class is empty.

    Raises:
        SpvmiaError: shapes differ, or a score is not finite.
    """
    values, labels = check_scores(scores, is_member)
    return share_of_pairs(values[labels], values[~labels]) if 0 < labels.sum() < len(labels) else math.nan


def share_of_pairs(ours: Floats, others: Floats) -> float:
    """P(one of `ours` > one of `others`) + P(equal) / 2, neither empty; the same to the last bit in whatever order.

    A sum of counts: one of shares depends on the order of the records, which is another in the harness's row than where
    attacks are compared.
    """
    return int(np.sum(_twice_below(ours, others))) / (2 * len(ours) * len(others))


def placements(ours: Floats, others: Floats) -> Floats:
    """(len(ours),) share of `others` below each of `ours`, ties counted half, in O(n log n)."""
    return _twice_below(ours, others) / (2 * len(others))


def _twice_below(ours: Floats, others: Floats) -> Codes:
    """(len(ours),) twice as many of `others` as lie below each of `ours`, ties counted half."""
    ordered = np.sort(others)
    twice: Codes = np.searchsorted(ordered, ours, side="left") + np.searchsorted(ordered, ours, side="right")
    return twice


def attack_success_rate(scores: ArrayLike, is_member: ArrayLike) -> float:
    """The paper's ASR: 1 - equal error rate; 0.5 = guessing, NaN if a class is empty.

    The equal error rate is where FPR = 1 - TPR. Along the ROC curve FPR + TPR grows strictly from 0 to 2, so the
    curve, its neighbouring points joined by straight lines, meets FPR + TPR = 1 in exactly one point: ASR is the
    TPR there. Without ties this is within 1/n of the TPR at the threshold whose FPR + TPR is nearest to 1; with
    ties the straight line is what a coin thrown for each tied record gives on average, as in the AUROC, so that a
    constant score has ASR 0.5.

    Raises:
        SpvmiaError: shapes differ, or a score is not finite.
    """
    roc = roc_curve(scores, is_member)
    total = roc.fpr + roc.tpr
    return float(np.interp(1.0, total, roc.tpr)) if np.isfinite(total).all() else math.nan


def privacy_score(auroc_value: float) -> float:
    """1 - 2 * |AUROC - 0.5|: 1 when the attack guesses, 0 when it separates the classes either way."""
    return 1.0 - 2.0 * abs(auroc_value - 0.5)
