"""Which texts of an audit are near copies of which, and the documents that they make one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy

from spvmia_plugin.attacks.out_of_fold import join_same_texts
from spvmia_plugin.checks.spans import MOST_COPIES, Spans, spans_of
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats
from spvmia_plugin.records import AuditData, Document, Record

NEAR_COPY_SHARE = 0.25
"""Two texts are near copies if at least this share of the spans of one stand in the other: two thirds of them do where
one word in 12 was changed, 0.4 where one in 6 was."""
FEWEST_SPANS = 4
"""Two texts share at least so many spans, or all that one of them has: fewer may be a turn of phrase."""
MOST_ALIKE = 5
"""Documents that are near copies of one another across classes or held-out data. More are a form that few use, or a
thread: of 12 forms that 200 records were drawn from, the rarest stood on both sides on half of the splits."""
MOST_TEXTS = 100
"""A span of more texts than that is not looked at, even if they are parts of few documents."""
_ROWS = 2048
"""Texts whose partners are looked for together."""


@dataclass(frozen=True, slots=True, eq=False)
class NearCopies:
    """Pairs of texts of an audit that are near copies. Texts that are the same but for white space are one text.

    Attributes:
        record_text: number of the text of each record, by its id.
        document: document of each record, by its id, before near copies were joined.
        prompt_texts: number of the text of each prompt.
        candidate_texts: the same of the candidate data.
        left: (L,) one text of each pair, the lower number.
        right: (L,) the other.
        of_left: (L,) share of the spans of `left` that stand in `right`.
        of_right: (L,) the reverse.
        n_spans: (n,) spans of each text that are its own.
        in_members: (n,) how many of them stand in a member.
        n_words: (n,) words of each text.
        n_own: (n,) those outside of passages that many documents share.
        alike: (n,) documents in the group that near copies of near copies make, the text's own among them.
    """

    record_text: Mapping[str, int]
    document: Mapping[str, str]
    prompt_texts: Codes
    candidate_texts: Codes
    left: Codes
    right: Codes
    of_left: Floats
    of_right: Floats
    n_spans: Codes
    in_members: Codes
    n_words: Codes
    n_own: Codes
    alike: Codes

    def pairs(self, ours: Codes, theirs: Codes) -> Iterator[tuple[int, int]]:
        """Near copies among two groups of texts, as pairs of one of ours and one of theirs, the closest first.

        Without those of which more than `MOST_ALIKE` documents are alike.
        """
        is_ours, is_theirs = (np.zeros(len(self.n_spans), dtype=np.bool_) for _ in range(2))
        is_ours[ours], is_theirs[theirs] = True, True
        closeness = np.maximum(self.of_left, self.of_right)
        for number in np.argsort(-closeness, kind="stable").tolist():
            left, right = int(self.left[number]), int(self.right[number])
            if self.alike[left] > MOST_ALIKE:
                continue
            if is_ours[left] and is_theirs[right]:
                yield left, right
            if is_ours[right] and is_theirs[left]:
                yield right, left

    def joined(self, data: AuditData) -> AuditData:
        """The same data, in which near copies and copies of one class have one cluster.

        Near copies have nearly the same score, and a classifier that was fitted on one knows the other: they are one
        document for every fold and every interval. The cluster keeps the shortest of the names, the first of equals.
        Across the classes nothing is joined: there near copies are what has to be told.
        """
        texts = [(record.is_member, self.record_text[record.id]) for record in data.records]
        holder = dict(zip(texts, (record.cluster for record in data.records), strict=True))
        keys: list[object] = list(texts)
        clusters = [record.cluster for record in data.records]
        for side in (True, False):
            for pair in zip(self.left.tolist(), self.right.tolist(), strict=True):
                if all((side, text) in holder for text in pair):
                    keys += [(side, *pair)] * 2
                    clusters += [holder[side, text] for text in pair]
        groups = join_same_texts(keys, clusters).tolist()
        names: dict[int, str] = {}
        for group, name in zip(groups, clusters, strict=True):
            names[group] = min(names.get(group, name), name, key=lambda each: (len(each), each))
        return replace(
            data,
            records=tuple(
                record if record.cluster == names[group] else replace(record, cluster=names[group])
                for record, group in zip(data.records, groups, strict=False)
            ),
        )


def normalised(text: str) -> str:
    """The text with every run of white space as one space: what exact duplicates have in common."""
    return " ".join(text.split())


def near_copies(data: AuditData) -> NearCopies:
    """Find the near copies among all texts of an audit. Time and memory are linear in the length of the texts."""
    held_out: list[Record | Document] = [*data.prompts, *data.candidate]
    numbers: dict[str, int] = {}
    items = [numbers.setdefault(normalised(item.text), len(numbers)) for item in [*data.records, *held_out]]
    documents = [record.cluster for record in data.records] + [each.id.partition("#")[0] for each in held_out]
    document_of = np.zeros(len(numbers), dtype=np.int64)
    document_of[items] = join_same_texts(items, documents)
    n_records, n_prompts = len(data.records), len(data.prompts)
    is_member = np.zeros(len(numbers), dtype=np.bool_)
    is_member[[text for text, record in zip(items, data.records, strict=False) if record.is_member]] = True
    spans = spans_of(list(numbers), document_of)
    n_spans, shared = _shared(spans, document_of)
    pairs = _pairs(n_spans, *shared)
    in_members = np.where(is_member, n_spans, _in_members(*shared, is_member))
    return NearCopies(
        {record.id: text for record, text in zip(data.records, items, strict=False)},
        {record.id: record.cluster for record in data.records},
        np.array(items[n_records : n_records + n_prompts], dtype=np.int64),
        np.array(items[n_records + n_prompts :], dtype=np.int64),
        *pairs,
        n_spans,
        in_members,
        spans.n_words,
        spans.n_own,
        _alike(pairs[0], pairs[1], document_of),
    )


def _alike(left: Codes, right: Codes, document_of: Codes) -> Codes:
    """(n,) documents of the texts that are near copies of each text, directly or through others."""
    n = len(document_of)
    texts = np.arange(n)
    group = join_same_texts(np.concatenate([texts, left]).tolist(), np.concatenate([texts, right]).tolist())[:n]
    held = np.unique(np.stack([group, document_of]), axis=1)
    found: Codes = np.bincount(held[0], minlength=n)[group]
    return found


def _shared(spans: Spans, document_of: Codes) -> tuple[Codes, tuple[Codes, Codes]]:
    """How many spans each text has, those of many documents left out; and spans with the texts that share them.

    Returns:
        (n,) the numbers; (E,) number of a span, ascending, and (E,) a text that it stands in.
    """
    n = len(spans.n_words)
    n_spans = np.bincount(spans.owner, minlength=n)
    next_same = spans.hashes[1:] == spans.hashes[:-1]
    rows = np.flatnonzero(np.append(next_same, False) | np.append(False, next_same)[: len(spans.hashes)])
    hashes, texts = spans.hashes[rows], spans.owner[rows]
    first = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    group = np.cumsum(first) - 1
    sizes = np.bincount(group, minlength=0)
    pairs = np.unique(group * (int(document_of.max(initial=0)) + 1) + document_of[texts])
    n_documents = np.bincount(pairs // (int(document_of.max(initial=0)) + 1), minlength=len(sizes))
    kept = ((n_documents <= MOST_COPIES) & (sizes <= MOST_TEXTS))[group]
    n_spans -= np.bincount(texts[~kept], minlength=n)
    return n_spans, (group[kept], texts[kept])


def _pairs(n_spans: Codes, group: Codes, texts: Codes) -> tuple[Codes, Codes, Floats, Floats]:
    """The pairs of texts that share enough spans: left, right, and the share of each one's spans."""
    shape = (len(n_spans), int(group.max(initial=-1)) + 1)
    holds = scipy.sparse.csr_array((np.ones(len(group), dtype=np.int32), (texts, group)), shape=shape)
    held = holds.T.tocsr()
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for start in range(0, len(n_spans), _ROWS):
        some = holds[start : start + _ROWS]
        if some.nnz:
            common = (some @ held).tocoo()
            left, right = common.row.astype(np.int64) + start, common.col.astype(np.int64)
            lesser = np.minimum(n_spans[left], n_spans[right])
            enough = np.minimum(np.maximum(FEWEST_SPANS, NEAR_COPY_SHARE * lesser), lesser)
            kept = (left < right) & (common.data >= enough)
            found.append((left[kept], right[kept], common.data[kept].astype(np.int64)))
    left, right, count = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((right, left))
    left, right, count = left[order], right[order], count[order]
    return left, right, count / n_spans[left], count / n_spans[right]


def _in_members(group: Codes, texts: Codes, is_member: Bools) -> Codes:
    """(n,) how many spans of each text stand in a member."""
    of_member = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.bool_)
    of_member[group[is_member[texts]]] = True
    return np.bincount(texts[of_member[group]], minlength=len(is_member))
