"""Texts on two sides that should not share any: copies, near copies, and held-out texts that are audited.

Which texts share long spans of words is found by hashes, in time linear in their length.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.checks import EXAMPLES, Finding, listed, percent
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats
from spvmia_plugin.records import Document, Record

SPAN_WORDS = 8
"""Words in a span; two texts hardly ever share one by chance."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORDS = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
"""A word is a run of letters and digits; scripts written without spaces count each character."""
_PADDING = 0
"""Word number that fills up texts of fewer than `SPAN_WORDS` words."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The hashed spans of n texts.

    Attributes:
        hashes: (S,) 64-bit hash of each span of `SPAN_WORDS` words, in order; a shorter text is one span.
        ordered: (S,) the same hashes, ascending.
        owner: (S,) text it comes from, 0..n-1, ascending.
        n: number of texts; those without a word own no span.
    """

    hashes: Hashes
    ordered: Hashes
    owner: Codes
    n: int

    def shares_in(self, other: Spans) -> tuple[Floats, float]:
        """Share of each text's spans that occur anywhere in `other`, (n,), NaN without a word; and of all spans."""
        occurs = _occurs(self.hashes, other.ordered)
        counts = np.bincount(self.owner, minlength=self.n)
        found = np.bincount(self.owner, weights=occurs, minlength=self.n)
        shares = np.full(self.n, np.nan)
        np.divide(found, counts, out=shares, where=counts > 0)
        return shares, float(np.mean(occurs)) if len(occurs) else math.nan

    def closest(self, text: int, other: Spans) -> int:
        """The text of `other` that shares most spans with `text`; the first of equals."""
        mine = np.sort(self.hashes[self.owner == text])
        return int(np.argmax(np.bincount(other.owner[_occurs(other.hashes, mine)], minlength=other.n)))


def _occurs(hashes: Hashes, ordered: Hashes) -> Bools:
    """Which of `hashes` are among `ordered`, which is ascending."""
    if not len(ordered):
        return np.zeros(len(hashes), dtype=np.bool_)
    found: Bools = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes
    return found


def spans_of(groups: Sequence[Sequence[str]]) -> list[Spans]:
    """Hash the spans of several groups of texts, comparable with each other. Case and punctuation do not count."""
    numbers: defaultdict[str, int] = defaultdict(count(1).__next__)
    return [_spans([_word_numbers(text, numbers) for text in texts]) for texts in groups]


def normalised(text: str) -> str:
    """The text with every run of white space as one space: what exact duplicates have in common."""
    return " ".join(text.split())


def _word_numbers(text: str, numbers: defaultdict[str, int]) -> list[int]:
    """The text's words as numbers from 1, padded to `SPAN_WORDS` if there are any."""
    words = list(map(numbers.__getitem__, _WORDS.findall(text.casefold())))
    return words + [_PADDING] * (SPAN_WORDS - len(words)) if words else words


def _spans(texts: Sequence[Sequence[int]]) -> Spans:
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    mixed = _mix(np.fromiter(chain.from_iterable(texts), dtype=np.uint64, count=int(lengths.sum())))
    windows = max(len(mixed) - SPAN_WORDS + 1, 0)
    hashes = np.zeros(windows, dtype=np.uint64)
    for offset in range(SPAN_WORDS):
        hashes = hashes * _MULTIPLIER + mixed[offset : offset + windows]
    owner = np.repeat(np.arange(len(texts)), lengths)
    inside = owner[:windows] == owner[SPAN_WORDS - 1 :] if windows else np.zeros(0, dtype=np.bool_)
    hashes = hashes[inside]
    return Spans(hashes, np.sort(hashes), owner[:windows][inside], len(texts))


def _mix(values: Hashes) -> Hashes:
    """Scatter 64-bit integers (finaliser of Vigna's splitmix64), so that sums of neighbours do not collide."""
    values = (values + np.uint64(1)) * _MULTIPLIER
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Hashes = values ^ (values >> np.uint64(31))
    return scattered


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
