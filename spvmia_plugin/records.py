"""What is audited: documents, the records cut from them, and who is a member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Membership = Literal["manifest", "declared", "assumed"]
"""How membership is known: from `spvmia finetune`, from the user's files, or not at all (public data)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a data source.

    Attributes:
        id: `file:row`, rows counted from 1 in each file.
        text: the row's text; it never shows in `repr`.
        row: its number in the whole source, from the second of several files on; 0 where it is the one in `id`.
    """

    id: str
    text: str = field(repr=False)
    row: int = 0


class Piece(NamedTuple):
    """Characters `start` to `end` of the document in a source's row, followed by a blank line."""

    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Record:
    """One audited text: a packed block of tokens, or a whole document.

    Attributes:
        id: `file:row` of its first document, with `#k` appended for the k-th further block of the same document.
        text: what is scored; never shown in `repr`, logs or errors.
        is_member: whether it was in the target's training data. Members are the positive class everywhere.
        cluster: id of the document it comes from. Records of one cluster are dependent, so the cluster is the
            unit of resampling; no document lies in two clusters.
        pieces: where the text was cut from, for a manifest to cut it again.
    """

    id: str
    text: str = field(repr=False)
    is_member: bool
    cluster: str
    pieces: tuple[Piece, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class AuditData:
    """Everything one audit reads: the records, and the documents that are never audited.

    Attributes:
        records: members and non-members in a seeded shuffled order (ranks and `--limit` take slices of it).
        prompts: held-out documents. Their first tokens prompt the target; they are also the ReCaLL prefix and
            the RMIA population.
        candidate: other data of the same domain, for LiRA-Candidate; empty if `mia_candidate` is not given.
        membership: how membership is known.
        fingerprint: keyed hash of all texts and labels; safe to publish.
        source: what the data are, in words for people ("ag_news.jsonl", "hf:fancyzhx/ag_news:train").
        block_size: tokens per record, 0 when a record is a whole document.
        base_model: the model before fine-tuning if a manifest names it.
        provenance: JSON-ready details for `mia_audit` (counts, files, manifest path, protocol).
    """

    records: tuple[Record, ...]
    prompts: tuple[Document, ...]
    candidate: tuple[Document, ...]
    membership: Membership
    fingerprint: str
    source: str
    block_size: int
    base_model: str | None = None
    provenance: dict[str, object] = field(default_factory=dict)

    def texts(self) -> list[tuple[str, str]]:
        """(id, text) of all that is private."""
        documents = [*self.prompts, *self.candidate]
        return [(each.id, each.text) for each in self.records] + [(each.id, each.text) for each in documents]

    @property
    def members(self) -> Sequence[Record]:
        """The records that were trained on."""
        return [record for record in self.records if record.is_member]

    @property
    def nonmembers(self) -> Sequence[Record]:
        """The records that were not."""
        return [record for record in self.records if not record.is_member]
