"""Checks and conversions that every metric shares."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.schema import MaybeNumber

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Codes: TypeAlias = NDArray[np.int64]
Interval: TypeAlias = tuple[MaybeNumber, MaybeNumber]

NAN_INTERVAL: Interval = (float("nan"), float("nan"))


def check_labels(scores: ArrayLike, is_member: ArrayLike) -> tuple[Floats, Bools]:
    """Return scores (n,) float64, NaN allowed, and labels (n,) bool.

    Raises:
        SpvmiaError: the two are not one-dimensional arrays of one length.
    """
    values = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(is_member, dtype=np.bool_)
    if values.ndim != 1 or values.shape != labels.shape:
        raise SpvmiaError(
            f"scores: expected one score for each label, got shapes {values.shape} and {labels.shape}; "
            "pass two one-dimensional arrays of the same length"
        )
    return values, labels


def check_scores(scores: ArrayLike, is_member: ArrayLike) -> tuple[Floats, Bools]:
    """Return finite scores (n,) float64 and labels (n,) bool.

    Raises:
        SpvmiaError: the shapes differ, or a score is NaN or infinite.
    """
    values, labels = check_labels(scores, is_member)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise SpvmiaError(
            f"scores: expected finite numbers, got {values[row]} at index {row}; leave unscored records out"
        )
    return values, labels


def cluster_codes(clusters: Sequence[Hashable] | NDArray[np.generic] | None, n: int) -> Codes:
    """Return the cluster of each of n records as integers 0..C-1; None makes every record its own cluster.

    Raises:
        SpvmiaError: there is not one cluster for each record.
    """
    if clusters is None:
        return np.arange(n, dtype=np.int64)
    if len(clusters) != n:
        raise SpvmiaError(
            f"clusters: expected {n} entries, one for each record, got {len(clusters)}; pass the same rows"
        )
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def effective_number(sizes: Codes) -> float:
    """As how many documents of one size these count: 1 / the sum of their squared shares of the records (Kish 1965).

    Args:
        sizes: (C,) records of each document, not all 0.
    """
    return float(np.sum(sizes)) ** 2 / float(np.sum(sizes**2))
