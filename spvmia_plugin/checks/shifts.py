"""Whether members and non-members differ by themselves: in length, compressibility, date or source.

Every check is a test at 99 %, by document: of audits whose classes are drawn alike at most one in a hundred is told.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from spvmia_plugin.checks import EXAMPLES, Finding, Severity
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, cluster_codes
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.records import Record

SHIFT_CONFIDENCE = 0.99
"""Of the tests that decide whether the classes differ."""
SHIFT_SIZE = 0.05
"""An AUROC of a feature this far from 0.5 is a warning; less is a note."""
MIN_DATED = 20
"""Records of each class that must name a year before years are compared."""
PERMUTATIONS = 399
"""Labelings that a test draws where it has no interval."""

_YEAR = re.compile(r"\b(?:19|20)\d\d\b", re.ASCII)


def shift_of(values: Floats, labels: Bools, codes: Codes) -> tuple[float, float, float] | None:
    """AUROC of a feature with its interval, if the interval leaves out 0.5."""
    estimate = estimate_auroc(values, labels, codes)
    low, high = estimate.interval(SHIFT_CONFIDENCE)
    return (estimate.auroc, low, high) if low > 0.5 or high < 0.5 else None


def severity_of(auroc: float) -> Severity:
    """A warning where a feature with this AUROC moves the result by as much as matters."""
    return "warning" if abs(auroc - 0.5) >= SHIFT_SIZE else "note"


def told(shift: tuple[float, float, float], **more: object) -> dict[str, object]:
    """Details of a finding that rests on an interval."""
    return {"auroc": shift[0], "interval": [shift[1], shift[2]], "confidence": SHIFT_CONFIDENCE, **more}


def labels_of(records: Sequence[Record]) -> tuple[Bools, Codes]:
    """Labels (n,) and documents (n,) of records."""
    labels = np.array([record.is_member for record in records], dtype=np.bool_)
    return labels, cluster_codes([record.cluster for record in records], len(records))


def majority(labels: Bools, codes: Codes) -> Bools:
    """(C,) the class of each document: that of most of its records."""
    found: Bools = 2 * np.bincount(codes, weights=labels) >= np.bincount(codes)
    return found


def labelings(of_documents: Bools) -> Iterator[Bools]:
    """The true classes of documents, then permuted ones: as likely where the classes are drawn alike."""
    rng = np.random.default_rng(0)
    yield of_documents
    for _ in range(PERMUTATIONS):
        yield rng.permutation(of_documents)


def length_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether length alone tells the classes apart."""
    labels, codes = labels_of(records)
    lengths = np.array([len(record.text) for record in records], dtype=np.float64)
    shift = shift_of(lengths, labels, codes) if 0 < labels.sum() < len(labels) else None
    if shift is None:
        return []
    medians = float(np.median(lengths[labels])), float(np.median(lengths[~labels]))
    message = (
        f"members and non-members differ in length (medians {medians[0]:.0f} and {medians[1]:.0f} characters; length "
        f"alone has AUROC {shift[0]:.3f}): an attack can score by length without the model having memorised anything"
    )
    details = told(shift, median_members=medians[0], median_nonmembers=medians[1])
    return [Finding("length_shift", severity_of(shift[0]), message, details)]


def length_spread(records: Sequence[Record]) -> list[Finding]:
    """Whether the lengths of one class lie further from the median length than those of the other do."""
    labels, codes = labels_of(records)
    if not 0 < labels.sum() < len(labels):
        return []
    logs = np.log1p(np.array([len(record.text) for record in records], dtype=np.float64))
    # From the median of both together: own medians fit each class, and a test of what they leave rejects too often.
    distances = np.abs(logs - np.median(logs))
    shift = shift_of(distances, labels, codes)
    if shift is None:
        return []
    ratios = float(np.exp(np.median(distances[labels]))), float(np.exp(np.median(distances[~labels])))
    message = (
        f"lengths spread differently in the classes (half of the members are within a factor of {ratios[0]:.2f} of "
        f"the median length, half of the non-members within {ratios[1]:.2f}; AUROC {shift[0]:.3f}): very short and "
        "very long texts then tell the class, and most of all where few records are singled out"
    )
    details = told(shift, factor_members=ratios[0], factor_nonmembers=ratios[1])
    return [Finding("length_spread", severity_of(shift[0]), message, details)]


def compressibility_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether the texts of one class are more repetitive than those of the other, at the same length.

    The bytes that zlib makes of a text, less what is usual for its length (a parabola in the logarithms, fitted to
    both classes): formulaic, templated and machine-written text is low, and so is its loss under any model.
    """
    labels, codes = labels_of(records)
    if not 0 < labels.sum() < len(labels):
        return []
    lengths, sizes = np.log([(1 + len(raw), len(zlib.compress(raw, 1))) for raw in map(_bytes, records)]).T
    lengths -= lengths.mean()
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2], axis=1)
    rest = np.round(sizes - terms @ np.linalg.lstsq(terms, sizes, rcond=None)[0], 9)
    shift = shift_of(rest, labels, codes)
    if shift is None:
        return []
    medians = float(np.exp(np.median(rest[labels]) - np.median(rest[~labels])))
    message = (
        f"texts of the {'non-members' if medians > 1 else 'members'} are more repetitive: at the same length they "
        f"compress {abs(medians - 1):.1%} better (AUROC {shift[0]:.3f}); templates, machine-written text or another "
        "source make a model's loss lower without anything having been memorised"
    )
    return [Finding("compressibility_shift", severity_of(shift[0]), message, told(shift, ratio=medians))]


def _bytes(record: Record) -> bytes:
    return record.text.encode("utf-8", "surrogatepass")


def date_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether the latest year a text names tells the classes apart."""
    dated = [(max(years), record) for record in records if (years := _YEAR.findall(record.text))]
    labels, codes = labels_of([record for _, record in dated])
    if min(labels.sum(), (~labels).sum()) < MIN_DATED:
        return []
    latest = np.array([int(year) for year, _ in dated], dtype=np.float64)
    shift = shift_of(latest, labels, codes)
    if shift is None:
        return []
    medians = int(np.median(latest[labels])), int(np.median(latest[~labels]))
    message = (
        f"members and non-members come from different times (median of the latest year named: {medians[0]} and "
        f"{medians[1]}; the year alone has AUROC {shift[0]:.3f}): the attack may tell topics of the time rather than "
        "training data"
    )
    details = told(
        shift,
        dated_members=int(labels.sum()),
        dated_nonmembers=int((~labels).sum()),
        median_members=medians[0],
        median_nonmembers=medians[1],
    )
    return [Finding("date_shift", severity_of(shift[0]), message, details)]


def source_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether members and non-members come from different files, or from the same in another mix (ids `file:row`)."""
    sources = [record.id.rpartition(":")[0] for record in records]
    by_class = [
        Counter(source for source, record in zip(sources, records, strict=True) if source and record.is_member is side)
        for side in (True, False)
    ]
    ours, theirs = by_class
    if not ours or not theirs:
        return []
    if not ours.keys() & theirs.keys():
        message = (
            "members and non-members come from different files: whatever else differs between the files is scored as "
            "membership; blind_auroc shows how much of it words alone give away"
        )
        details: dict[str, object] = {"members": sorted(ours)[:EXAMPLES], "nonmembers": sorted(theirs)[:EXAMPLES]}
        return [Finding("source_shift", "note", message, details)]
    return _source_mix(records, sources)


def _source_mix(records: Sequence[Record], sources: Sequence[str]) -> list[Finding]:
    """Pearson's chi squared of files against classes, by permutation of whole documents."""
    labels, codes = labels_of(records)
    files = cluster_codes(sources, len(records))
    totals = np.bincount(files).astype(np.float64)
    of_documents = majority(labels, codes)
    if len(totals) < 2 or of_documents.all() or not of_documents.any():
        return []
    members = np.array([np.bincount(files, weights=drawn[codes]) for drawn in labelings(of_documents)])
    expected = members.sum(axis=1, keepdims=True) * totals / totals.sum()
    distances = ((members - expected) ** 2 / (expected * (1 - expected / totals))).sum(axis=1)
    p_value = float(np.mean(distances >= distances[0] * (1 - 1e-9)))
    if p_value > 1 - SHIFT_CONFIDENCE + 1e-9:
        return []
    shares = np.array([members[0] / members[0].sum(), (totals - members[0]) / (totals - members[0]).sum()])
    apart = float(np.abs(shares[0] - shares[1]).sum()) / 2
    names = list(dict.fromkeys(sources))
    most = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")[:EXAMPLES].tolist()
    message = (
        f"members and non-members come from the same {len(totals)} files in another mix ({apart:.1%} of the records of "
        "one class would have to come from other files): what differs between the files is scored as membership"
    )
    details: dict[str, object] = {
        "p_value": p_value,
        "confidence": SHIFT_CONFIDENCE,
        "distance": apart,
        "files": {
            names[file]: {"members": float(shares[0, file]), "nonmembers": float(shares[1, file])} for file in most
        },
    }
    return [Finding("source_mix", "warning" if apart >= 2 * SHIFT_SIZE else "note", message, details)]
