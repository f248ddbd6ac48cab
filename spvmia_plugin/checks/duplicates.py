"""Texts on two sides that should not share any: copies, near copies, and held-out texts that are audited."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from spvmia_plugin.checks.finding import EXAMPLES, Finding, listed, percent
from spvmia_plugin.checks.overlap import SPAN_WORDS, Spans, normalised
from spvmia_plugin.metrics.arrays import Floats
from spvmia_plugin.records import Document, Record

NEAR_DUPLICATE_SHARE = 0.5
"""A text is a near duplicate if at least this share of its spans of 8 words occurs on the other side."""


PROMPTS_MEAN = (
    "the target continues the audited texts and the reference model learns them, so their calibrated scores drop: "
    "with non-members among them AUROC comes out too high, with members too low"
)
CANDIDATE_MEAN = (
    "the candidate reference was trained on audited texts, so their lira_candidate scores drop: with non-members among "
    "them its AUROC comes out too high, with members too low"
)


def exact_duplicates(members: Sequence[Record], nonmembers: Sequence[Record]) -> list[Finding]:
    """Non-members whose text, white space normalised, is that of a member."""
    first = {normalised(record.text): record.id for record in reversed(members)}
    pairs = [
        {"member": first[text], "nonmember": record.id}
        for record in nonmembers
        if (text := normalised(record.text)) in first
    ]
    if not pairs:
        return []
    share = len(pairs) / len(nonmembers)
    message = (
        f"{len(pairs)} of {len(nonmembers)} non-members ({percent(share)}) are word for word members: labelled "
        "non-member, but they were trained on, so AUROC and every TPR come out too low; remove them from one side"
    )
    return [Finding("exact_duplicates", "warning", message, listed(pairs, share))]


def class_overlap(
    members: Sequence[Record], of_members: Spans, nonmembers: Sequence[Record], of_nonmembers: Spans
) -> list[Finding]:
    """Overlap of the classes in spans of words: the share, and texts of which at least half is on the other side."""
    shares, overall = of_nonmembers.shares_in(of_members)
    if not len(of_members.hashes) or math.isnan(overall):
        return []
    message = (
        f"{percent(overall)} of the {SPAN_WORDS}-word spans of the non-members also occur in members: the more do, "
        "the less 'non-member' means 'unseen'"
    )
    overlap = Finding("ngram_overlap", "note", message, {"span_words": SPAN_WORDS, "share": overall})
    exact = {normalised(record.text) for record in members} & {normalised(record.text) for record in nonmembers}
    near_nonmembers = _flagged(nonmembers, shares, exact)
    near_members = _flagged(members, of_members.shares_in(of_nonmembers)[0], exact)
    if not near_nonmembers and not near_members:
        return [overlap]
    pairs = [(of_nonmembers.closest(row, of_members), row) for row in near_nonmembers[:EXAMPLES]]
    pairs += [(row, of_members.closest(row, of_nonmembers)) for row in near_members[:EXAMPLES]]
    examples = [
        {"member": members[ours].id, "nonmember": nonmembers[theirs].id} for ours, theirs in dict.fromkeys(pairs)
    ]
    share = len(near_nonmembers) / len(nonmembers)
    message = (
        f"{len(near_nonmembers)} of {len(nonmembers)} non-members ({percent(share)}) and {len(near_members)} of "
        f"{len(members)} members share at least half of their {SPAN_WORDS}-word spans with the other class without "
        "being copies: much of these non-members was trained on, so AUROC and every TPR come out too low"
    )
    details: dict[str, object] = {
        "nonmembers": len(near_nonmembers),
        "members": len(near_members),
        "share": share,
        "threshold": NEAR_DUPLICATE_SHARE,
        "examples": examples[:EXAMPLES],
    }
    return [Finding("near_duplicates", "warning", message, details), overlap]


def _flagged(records: Sequence[Record], shares: Floats, exact: set[str]) -> list[int]:
    """Rows of near duplicates that are not word for word the same."""
    rows = np.flatnonzero(shares >= NEAR_DUPLICATE_SHARE).tolist()
    return [row for row in rows if normalised(records[row].text) not in exact]


def repeats(name: str, records: Sequence[Record]) -> list[Finding]:
    """Records of one class with the same text in different documents, which the intervals count as independent."""
    by_text: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_text[normalised(record.text)].append(record)
    groups = [same for same in by_text.values() if len({record.cluster for record in same}) > 1]
    if not groups:
        return []
    extra = sum(len(same) - 1 for same in groups)
    message = (
        f"{extra} of {len(records)} {name} repeat the text of another of the {name}: copies are no independent "
        "evidence, so the intervals come out too narrow"
    )
    details = listed([[record.id for record in same[:EXAMPLES]] for same in groups], extra / len(records))
    code = "repeated_members" if name == "members" else "repeated_nonmembers"
    return [Finding(code, "note", message, {**details, "count": extra})]


def held_out_overlap(
    name: str,
    meaning: str,
    documents: Sequence[Document],
    of_documents: Spans,
    audited: Sequence[tuple[Sequence[Record], Spans]],
) -> list[Finding]:
    """Prompts or candidate documents that overlap audited records, by the record's share or by the document's."""
    if not documents:
        return []
    counts, ids, used = [], [], np.zeros(len(documents), dtype=np.bool_)
    for records, of_records in audited:
        rows = np.flatnonzero(of_records.shares_in(of_documents)[0] >= NEAR_DUPLICATE_SHARE).tolist()
        counts.append(len(rows))
        ids += [
            {"audited": records[row].id, "held_out": documents[of_records.closest(row, of_documents)].id}
            for row in rows[:EXAMPLES]
        ]
        used |= of_documents.shares_in(of_records)[0] >= NEAR_DUPLICATE_SHARE
    if not (any(counts) or used.any()):
        return []
    message = (
        f"the {name} overlap what is audited ({counts[0]} members, {counts[1]} non-members, "
        f"{int(used.sum())} of {len(documents)} held-out documents share at least half of their {SPAN_WORDS}-word "
        f"spans): {meaning}"
    )
    details: dict[str, object] = {
        "members": counts[0],
        "nonmembers": counts[1],
        "documents": int(used.sum()),
        "threshold": NEAR_DUPLICATE_SHARE,
        "examples": ids,
        "document_examples": [documents[row].id for row in np.flatnonzero(used).tolist()[:EXAMPLES]],
    }
    code = "prompts_overlap_audited" if name == "prompts" else "candidate_overlaps_audited"
    return [Finding(code, "warning", message, details)]
