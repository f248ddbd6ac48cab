"""What has to hold for the numbers to mean what they say, checked before long work and reported with every result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spvmia_plugin.checks import EXAMPLES, Finding, Severity, listed, percent
from spvmia_plugin.checks.overlap import (
    CANDIDATE_MEAN,
    PROMPTS_MEAN,
    class_overlap,
    exact_duplicates,
    held_out_overlap,
    repeats,
    spans_of,
)
from spvmia_plugin.data.tokenisation import Encode, probe_digest
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, cluster_codes
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.names import TPRS
from spvmia_plugin.metrics.summary import few_documents
from spvmia_plugin.metrics.tpr import unresolved
from spvmia_plugin.protocols import Frame
from spvmia_plugin.records import AuditData, Document, Record

__all__ = ["Finding", "check_preconditions", "check_tokenisation", "warnings_first"]


def check_preconditions(data: AuditData) -> list[Finding]:
    """Check the data of an audit; no model is needed.

    Duplicates and overlap cost time linear in the length of the texts (spans of 8 words, hashed).

    Returns:
        Findings, warnings first, in the order of the checks.
    """
    members, nonmembers = data.members, data.nonmembers
    spans = spans_of([_texts(members), _texts(nonmembers), _texts(data.prompts), _texts(data.candidate)])
    of_members, of_nonmembers, of_prompts, of_candidate = spans
    audited = [(members, of_members), (nonmembers, of_nonmembers)]
    findings = [
        *exact_duplicates(members, nonmembers),
        *class_overlap(members, of_members, nonmembers, of_nonmembers),
        *repeats("members", members),
        *repeats("non-members", nonmembers),
        *held_out_overlap("prompts", PROMPTS_MEAN, data.prompts, of_prompts, audited),
        *held_out_overlap("candidate data", CANDIDATE_MEAN, data.candidate, of_candidate, audited),
        *length_shift(data.records),
        *date_shift(data.records),
        *source_shift(members, nonmembers),
        *_sizes(members, nonmembers),
        *_documents(data.records),
        *_membership(data),
    ]
    return warnings_first(findings)


def warnings_first(findings: Iterable[Finding]) -> list[Finding]:
    """Warnings before notes, each in the order given."""
    return sorted(findings, key=lambda finding: finding.severity == "note")


def check_tokenisation(data: AuditData, records: Sequence[Record], encode: Encode, frame: Frame) -> list[Finding]:
    """Check that the target reads the records as they were cut and trained.

    Args:
        data: of the audit: its block size, and in its provenance the manifest's tokenizer and frame.
        records: those that are audited.
        encode: the target's tokenizer, without special tokens.
        frame: what stands around a record when it is scored.
    """
    findings = []
    trained_with = data.provenance.get("tokenizer")
    if trained_with is not None and trained_with != probe_digest(encode):
        message = (
            "the target's tokenizer is not the one it was trained with, by its manifest: the model reads other tokens "
            f"than it has learnt, {_OTHER_TOKENS_MEAN}"
        )
        findings.append(Finding("tokenizer_changed", "warning", message, {"manifest": trained_with}))
    trained_in = data.provenance.get("frame")
    if isinstance(trained_in, Mapping):
        scored_in = {"before": [*frame.context, *frame.before], "after": list(frame.after)}
        if scored_in != dict(trained_in):
            message = (
                "the records are scored in another context than the target was trained in, by its manifest: with the "
                f"tokens {scored_in['before']} before and {scored_in['after']} after each, trained with "
                f"{list(trained_in['before'])} and {list(trained_in['after'])}; members look less familiar than they "
                "are (mia_prefix=auto and the tokenizer of the training read them alike)"
            )
            findings.append(
                Finding("context_changed", "warning", message, {"scored": scored_in, "manifest": dict(trained_in)})
            )
    if data.block_size:
        findings += _other_lengths(data.block_size, records, encode)
    return findings


_OTHER_TOKENS_MEAN = (
    "so members look less familiar than they are and AUROC comes out too low; load the target with the tokenizer of "
    "its training (tokenizer=... in --model_args)"
)


def _other_lengths(block_size: int, records: Sequence[Record], encode: Encode) -> list[Finding]:
    """Packed records that have another number of tokens under the target's tokenizer than they were cut to."""
    other = [record for record in records if len(encode(record.text)) != block_size]
    if not other:
        return []
    members = sum(record.is_member for record in other)
    share = len(other) / len(records)
    message = (
        f"{len(other)} of {len(records)} records ({percent(share)}; {members} members, {len(other) - members} "
        f"non-members) do not have the {block_size} tokens they were cut to: they were cut with another tokenizer than "
        f"the target's, {_OTHER_TOKENS_MEAN}"
    )
    details = listed([record.id for record in other], share)
    numbers: dict[str, object] = {"block_size": block_size, "members": members, "nonmembers": len(other) - members}
    return [Finding("token_lengths_changed", "warning", message, {**details, **numbers})]


def _texts(items: Iterable[Record | Document]) -> list[str]:
    return [item.text for item in items]


def _sizes(members: Sequence[Record], nonmembers: Sequence[Record]) -> list[Finding]:
    """Empty classes, and non-members too few for a false-positive rate."""
    counts: dict[str, object] = {"members": len(members), "nonmembers": len(nonmembers)}
    if not members or not nonmembers:
        empty = "members" if not members else "non-members"
        return [Finding("empty_class", "warning", f"there are no {empty}: no number can be computed", counts)]
    findings = []
    for metric in TPRS:
        reason = unresolved(len(members), len(nonmembers), metric.fpr)
        if reason:
            message = f"{reason}; the {metric.label} is NaN"
            findings.append(Finding(metric.too_few, "warning", message, {**counts, "fpr": metric.fpr}))
    return findings


def _documents(records: Sequence[Record]) -> list[Finding]:
    """Records that depend on each other because they come from one document."""
    if not records:
        return []
    sizes = Counter(record.cluster for record in records)
    by_class = [Counter(record.cluster for record in records if record.is_member is side) for side in (True, False)]
    findings = []
    if shared := sorted(by_class[0].keys() & by_class[1].keys()):
        message = (
            f"{len(shared)} documents have both member and non-member records: parts of a document give each other "
            "away, so its non-members are not unseen"
        )
        findings.append(
            Finding("document_in_both_classes", "warning", message, listed(shared, len(shared) / len(sizes)))
        )
    details: dict[str, object] = {"records": len(records), "documents": len(sizes), "largest": max(sizes.values())}
    if max(sizes.values()) > 1:
        message = (
            f"{len(records)} records come from {len(sizes)} documents: records of a document depend on each other, so "
            "the document is the unit of every standard error and interval"
        )
        findings.append(Finding("several_records_per_document", "note", message, details))
    few = few_documents([np.array(list(side.values())) for side in by_class]) if all(by_class) else None
    if few:
        findings.append(Finding("few_documents", "warning", few, details))
    return findings


def _membership(data: AuditData) -> list[Finding]:
    """How membership is known, unless a manifest says it."""
    if data.membership == "assumed":
        message = (
            "membership is assumed: a public data set and a model nobody vouches for. If the model was not trained on "
            "these members, or was trained on the non-members, the numbers say nothing about its privacy"
        )
        return [Finding("membership_assumed", "warning", message, {"source": data.source})]
    if data.membership == "declared":
        message = "membership is what the given files declare: if they are wrong, so are the numbers"
        return [Finding("membership_declared", "note", message, {"source": data.source})]
    return []


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
