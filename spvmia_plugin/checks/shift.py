"""Differences between the classes that an attack can score without the model having memorised anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from spvmia_plugin.checks.finding import EXAMPLES, Finding, Severity
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, cluster_codes
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.records import Record

SHIFT_CONFIDENCE = 0.99
"""Of the intervals that decide whether the classes differ in length or date."""
SHIFT_SIZE = 0.05
"""An AUROC of length or date this far from 0.5 is a warning; less is a note."""
MIN_DATED = 20
"""Records of each class that must name a year before years are compared."""

_YEAR = re.compile(r"\b(?:19|20)\d\d\b", re.ASCII)


def _shift(values: Floats, labels: Bools, codes: Codes) -> tuple[float, float, float] | None:
    """AUROC of a feature with its interval, if the interval leaves out 0.5."""
    estimate = estimate_auroc(values, labels, codes)
    low, high = estimate.interval(SHIFT_CONFIDENCE)
    return (estimate.auroc, low, high) if low > 0.5 or high < 0.5 else None


def _severity(auroc: float) -> Severity:
    return "warning" if abs(auroc - 0.5) >= SHIFT_SIZE else "note"


def length_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether length alone tells the classes apart."""
    labels = np.array([record.is_member for record in records], dtype=np.bool_)
    lengths = np.array([len(record.text) for record in records], dtype=np.float64)
    codes = cluster_codes([record.cluster for record in records], len(records))
    shift = _shift(lengths, labels, codes) if 0 < labels.sum() < len(labels) else None
    if shift is None:
        return []
    medians = float(np.median(lengths[labels])), float(np.median(lengths[~labels]))
    message = (
        f"members and non-members differ in length (medians {medians[0]:.0f} and {medians[1]:.0f} characters; length "
        f"alone has AUROC {shift[0]:.3f}): an attack can score by length without the model having memorised anything"
    )
    details: dict[str, object] = {
        "auroc": shift[0],
        "interval": [shift[1], shift[2]],
        "confidence": SHIFT_CONFIDENCE,
        "median_members": medians[0],
        "median_nonmembers": medians[1],
    }
    return [Finding("length_shift", _severity(shift[0]), message, details)]


def date_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether the latest year a text names tells the classes apart."""
    dated = [(max(years), record) for record in records if (years := _YEAR.findall(record.text))]
    labels = np.array([record.is_member for _, record in dated], dtype=np.bool_)
    if min(labels.sum(), (~labels).sum()) < MIN_DATED:
        return []
    latest = np.array([int(year) for year, _ in dated], dtype=np.float64)
    shift = _shift(latest, labels, cluster_codes([record.cluster for _, record in dated], len(dated)))
    if shift is None:
        return []
    medians = int(np.median(latest[labels])), int(np.median(latest[~labels]))
    message = (
        f"members and non-members come from different times (median of the latest year named: {medians[0]} and "
        f"{medians[1]}; the year alone has AUROC {shift[0]:.3f}): the attack may tell topics of the time rather than "
        "training data"
    )
    details: dict[str, object] = {
        "auroc": shift[0],
        "interval": [shift[1], shift[2]],
        "confidence": SHIFT_CONFIDENCE,
        "dated_members": int(labels.sum()),
        "dated_nonmembers": int((~labels).sum()),
        "median_members": medians[0],
        "median_nonmembers": medians[1],
    }
    return [Finding("date_shift", _severity(shift[0]), message, details)]


def source_shift(members: Sequence[Record], nonmembers: Sequence[Record]) -> list[Finding]:
    """Whether members and non-members come from different files (ids are `file:row`)."""
    ours, theirs = ({record.id.rpartition(":")[0] for record in side} - {""} for side in (members, nonmembers))
    if not ours or not theirs or ours & theirs:
        return []
    message = (
        "members and non-members come from different files: whatever else differs between the files is scored as "
        "membership; blind_auroc shows how much of it words alone give away"
    )
    details: dict[str, object] = {"members": sorted(ours)[:EXAMPLES], "nonmembers": sorted(theirs)[:EXAMPLES]}
    return [Finding("source_shift", "note", message, details)]
