"""The mean of several attacks on the same records, whose errors are correlated."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.metrics.arrays import Floats, check_labels, cluster_codes
from spvmia_plugin.metrics.names import AUROC, TPRS
from spvmia_plugin.metrics.several import joint_estimates
from spvmia_plugin.metrics.tpr import Bootstrap


def error_correlations(
    scores_by_attack: Mapping[str, ArrayLike],
    is_member: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[tuple[str, str], float]]:
    """How the errors of attacks on the same records go together.

    Of AUROCs: the correlation of DeLong's structural components by document (DeLong, DeLong and Clarke-Pearson
    1988). Of TPRs: that of bootstrap replicates in which all attacks see the same documents drawn. Errors that do not
    vary in the sample (perfect separation) count as fully correlated: a mean's error is then too large rather than too
    small.

    Args:
        scores_by_attack: (n,) scores of each attack, NaN where a record has none.
        is_member: (n,) bool.
        clusters: (n,) document of each record; None if every record is its own.
        seed: of the bootstrap.

    Returns:
        By metric (auroc and the TPRs), by pair of attacks that have scores of both classes.

    Raises:
        SpvmiaError: lengths differ.
    """
    _, labels = check_labels(np.zeros(np.shape(is_member)), is_member)
    codes = cluster_codes(clusters, len(labels))
    estimates, influences = joint_estimates(scores_by_attack, labels, codes)
    names = list(estimates)
    found = {AUROC.key: _pairs(names, influences)}
    scores = [check_labels(scores_by_attack[name], labels)[0] for name in names]
    drawn = Bootstrap(labels, codes, seed).tprs(scores, [metric.fpr for metric in TPRS])
    for row, metric in enumerate(TPRS):
        draws: Floats = drawn[:, row]
        centres: Floats = np.mean(draws, axis=1, keepdims=True)
        found[metric.key] = _pairs(names, draws - centres)
    return found


def _pairs(names: Sequence[str], errors: Floats) -> dict[tuple[str, str], float]:
    """Cosines between the rows of `errors` (K, anything); 1 where a row is 0 or NaN."""
    norms = np.linalg.norm(errors, axis=1)
    varies = norms > 0
    unit = np.where(varies[:, None], errors, 0.0) / np.where(varies, norms, 1.0)[:, None]
    cosines: Floats = unit @ unit.T
    cosines[~varies], cosines[:, ~varies] = 1.0, 1.0
    return {
        (one, other): float(cosines[i, j]) if i != j else 1.0
        for i, one in enumerate(names)
        for j, other in enumerate(names)
    }


def mean_stderr(stderrs: ArrayLike, weights: ArrayLike, correlations: ArrayLike) -> float:
    """Standard error of a weighted mean of estimates whose errors are correlated.

    Args:
        stderrs: (K,) of the estimates.
        weights: (K,) summing to 1.
        correlations: (K, K) of their errors; 0 for estimates from independent data.
    """
    parts: Floats = np.asarray(stderrs, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    variance = float(parts @ np.asarray(correlations, dtype=np.float64) @ parts)
    return math.sqrt(max(variance, 0.0))
