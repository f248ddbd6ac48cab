"""Texts on two sides that should not share any: copies, near copies, and held-out texts that are audited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

import numpy as np

from spvmia_plugin.checks import EXAMPLES, Finding, listed, percent
from spvmia_plugin.checks.copies import NEAR_COPY_SHARE, NearCopies, normalised
from spvmia_plugin.checks.spans import MOST_COPIES, SPAN_WORDS
from spvmia_plugin.metrics.arrays import Codes
from spvmia_plugin.records import Document, Record

PROMPTS_MEAN = (
    "the target continues the audited texts and the reference models learn them, so their calibrated scores drop: "
    "with non-members among them AUROC comes out too high, with members too low"
)
CANDIDATE_MEAN = (
    "the candidate reference was trained on audited texts, so the scores that it calibrates drop: with non-members "
    "among them their AUROC comes out too high, with members too low"
)
_OWN = f"at least {percent(NEAR_COPY_SHARE)} of its own {SPAN_WORDS}-word spans"


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


def class_overlap(members: Sequence[Record], nonmembers: Sequence[Record], copies: NearCopies) -> list[Finding]:
    """Overlap of the classes in spans of words: the share, and texts that are near copies of one on the other side."""
    ours, theirs = _texts(members, copies), _texts(nonmembers, copies)
    spans = int(copies.n_spans[theirs].sum())
    if not len(ours) or not spans:
        return []
    overall = int(copies.in_members[theirs].sum()) / spans
    words = int(copies.n_words[theirs].sum())
    common = 1 - int(copies.n_own[theirs].sum()) / words
    message = (
        f"{percent(overall)} of the {SPAN_WORDS}-word spans of the non-members also occur in members, without the "
        f"{percent(common)} of their words in passages of more than {MOST_COPIES} documents: the more do, the less "
        "'non-member' means 'unseen'"
    )
    details: dict[str, object] = {"span_words": SPAN_WORDS, "share": overall, "common": common}
    overlap = Finding("ngram_overlap", "note", message, details)
    pairs = list(copies.pairs(np.setdiff1d(ours, theirs), np.setdiff1d(theirs, ours)))
    if not pairs:
        return [overlap]
    near_members, near_nonmembers = (
        _records_of(members, {ours for ours, _ in pairs}, copies),
        _records_of(nonmembers, {theirs for _, theirs in pairs}, copies),
    )
    share = len(near_nonmembers) / len(nonmembers)
    message = (
        f"{len(near_nonmembers)} of {len(nonmembers)} non-members ({percent(share)}) and {len(near_members)} of "
        f"{len(members)} members are near copies of one of the other class: one of the two has {_OWN} from the other. "
        "Much of these non-members was trained on, so AUROC and every TPR come out too low"
    )
    first = {copies.record_text[record.id]: record.id for record in (*reversed(members), *reversed(nonmembers))}
    details = {
        "nonmembers": len(near_nonmembers),
        "members": len(near_members),
        "share": share,
        "threshold": NEAR_COPY_SHARE,
        "examples": [{"member": first[left], "nonmember": first[right]} for left, right in pairs[:EXAMPLES]],
    }
    return [Finding("near_duplicates", "warning", message, details), overlap]


def _texts(records: Sequence[Record], copies: NearCopies) -> Codes:
    return np.array([copies.record_text[record.id] for record in records], dtype=np.int64)


def _records_of(records: Sequence[Record], texts: set[int], copies: NearCopies) -> list[Record]:
    return [record for record in records if copies.record_text[record.id] in texts]


def repeats(name: str, records: Sequence[Record], copies: NearCopies) -> list[Finding]:
    """Records of one class with the same text in different documents."""
    by_text: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_text[copies.record_text[record.id]].append(record)
    groups = [same for same in by_text.values() if len({copies.document[record.id] for record in same}) > 1]
    if not groups:
        return []
    extra = sum(len(same) - 1 for same in groups)
    message = (
        f"{extra} of {len(records)} {name} repeat the text of another of the {name}: copies are no independent "
        "evidence, and every interval counts them as one document"
    )
    details = listed([[record.id for record in same[:EXAMPLES]] for same in groups], extra / len(records))
    code = "repeated_members" if name == "members" else "repeated_nonmembers"
    return [Finding(code, "note", message, {**details, "count": extra})]


def _short_first(name: str) -> tuple[int, str]:
    return len(name), name


def families(records: Sequence[Record], copies: NearCopies) -> list[Finding]:
    """Documents of one class that are near copies of each other."""
    documents: dict[str, set[str]] = defaultdict(set)
    for record in records:
        documents[record.cluster].add(copies.document[record.id])
    joined = [sorted(names, key=_short_first) for names in documents.values() if len(names) > 1]
    if not joined:
        return []
    many = sum(map(len, joined))
    total = sum(map(len, documents.values()))
    message = (
        f"{many} of {total} documents are copies or near copies of another of their class and count as "
        f"{len(joined)} (the largest is {max(map(len, joined))} documents): every interval and the folds of the blind "
        "baseline take them as one, since one of them tells of the others"
    )
    details = listed([names[:EXAMPLES] for names in sorted(joined, key=len, reverse=True)], many / total)
    return [Finding("near_copies_joined", "note", message, {**details, "count": many, "families": len(joined)})]


def held_out_overlap(
    name: str,
    meaning: str,
    documents: Sequence[Document],
    texts: Codes,
    audited: Sequence[Sequence[Record]],
    copies: NearCopies,
) -> list[Finding]:
    """Prompts or candidate documents that are copies or near copies of audited records."""
    if not documents:
        return []
    first = {text: document.id for text, document in zip(texts.tolist()[::-1], documents[::-1], strict=True)}
    counts, ids, used = [], [], set[int]()
    for records in audited:
        of_class = _texts(records, copies)
        same = [(text, text) for text in np.intersect1d(of_class, texts).tolist() if copies.n_spans[text]]
        closest = dict(reversed([*same, *copies.pairs(of_class, texts)]))
        rows = _records_of(records, set(closest), copies)
        counts.append(len(rows))
        ids += [
            {"audited": record.id, "held_out": first[closest[copies.record_text[record.id]]]}
            for record in islice(rows, EXAMPLES)
        ]
        used |= set(closest.values()) | {theirs for _, theirs in copies.pairs(of_class, texts)}
    if not used:
        return []
    rows_used = [document.id for text, document in zip(texts.tolist(), documents, strict=True) if text in used]
    message = (
        f"the {name} overlap what is audited ({counts[0]} members, {counts[1]} non-members and {len(rows_used)} of "
        f"{len(documents)} held-out documents are copies or near copies: one has {_OWN} from the other): {meaning}"
    )
    details: dict[str, object] = {
        "members": counts[0],
        "nonmembers": counts[1],
        "documents": len(rows_used),
        "threshold": NEAR_COPY_SHARE,
        "examples": ids,
        "document_examples": rows_used[:EXAMPLES],
    }
    code = "prompts_overlap_audited" if name == "prompts" else "candidate_overlaps_audited"
    return [Finding(code, "warning", message, details)]
