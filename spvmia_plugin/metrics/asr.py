"""The interval of the attack success rate."""

from __future__ import annotations

import numpy as np

from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, Interval
from spvmia_plugin.metrics.intervals import estimate_means
from spvmia_plugin.metrics.roc import attack_success_rate, roc_curve

_REACH = 0.2
"""The slope of the ROC curve is read where FPR + TPR is 1 less and 1 plus this, nearer where the curve has a corner."""
_FEWEST = 5
"""Records of the smaller class between the two at least."""
_GRAIN = 2.0
"""n members and n non-members apart show an ASR half as near to 1 as an AUROC."""


def asr_interval(scores: Floats, is_member: Bools, codes: Codes, confidence: float) -> Interval:
    """Two-sided interval of `attack_success_rate`, the threshold being estimated as well.

    At the threshold t where TPR + FPR = 1 both errors move the crossing along the curve, whose slope decides how much
    of each is felt: ASR - truth = (1 - s) (error of TPR) - s (error of FPR), s = f / (f + g) with the densities f and g
    of members and non-members at t. That is an error of a mean over members and of one over non-members, summed within
    documents and put on the logit scale as that of the AUROC.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record, 0..C-1.
        confidence: two-sided.
    """
    asr = attack_success_rate(scores, is_member)
    roc = roc_curve(scores, is_member)
    total = roc.fpr + roc.tpr
    reach = min(_REACH, max(min(asr, 1 - asr), _FEWEST / min(np.sum(is_member), np.sum(~is_member))))
    low, high = np.interp((1 - reach, 1 + reach), total, roc.tpr)
    s = (high - low) / (2 * reach)
    place = int(np.searchsorted(total, 1.0))
    step = total[place] - total[place - 1]
    tied = (1.0 - total[place - 1]) / step  # share of those exactly at the threshold that count as reaching it
    threshold = roc.thresholds[place]
    reaches = np.where(scores == threshold, tied, scores > threshold)
    return estimate_means(
        asr,
        (1 - s) * (reaches[is_member] - asr),
        s * ((1 - asr) - reaches[~is_member]),
        is_member,
        codes,
        _GRAIN,
        (1 - s, s),
    ).interval(confidence)
