"""Deals documents out to members, non-members and prompts; no document goes to two of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from spvmia_plugin.data.packing import Packed, Tokenize, cut_documents, pack, unit_by_unit, whole_documents
from spvmia_plugin.data.units import Owned
from spvmia_plugin.records import Document, Record
from spvmia_plugin.seeds import stable_seed

MIN_RECORDS = 20
"""Fewer records of a class than this say nothing about a model."""

CLASS_SHARE = 0.4
"""At most this share of the documents goes to the members, and to the non-members: the rest are prompts."""

PROMPT_SHARE = 0.25
"""This share of the non-member documents becomes the prompts where none are given."""

T = TypeVar("T")


@dataclass(frozen=True)
class Packer:
    """How documents become records: blocks of `block_size` tokens, or with 0 one record a document.

    Attributes:
        block_size: tokens per record.
        tokenize: see `packing.Tokenize`; not needed for block size 0.
        sequential: the released code's packing, see `packing.pack`.
    """

    block_size: int
    tokenize: Tokenize | None = None
    sequential: bool = False

    def pack(self, documents: Sequence[Document], limit: int | None = None, *, one_per_cluster: bool = False) -> Packed:
        """Cut documents into records, at most `limit` of them; of each unit by itself where units are known.

        With `one_per_cluster` one of each document, or of each unit.
        """
        if documents and documents[0].unit is not None:
            most = 1 if one_per_cluster else None
            return unit_by_unit(documents, limit, lambda own, left: self._pack(own, most or left, one_per_cluster))
        return self._pack(documents, limit, one_per_cluster)

    def _pack(self, documents: Sequence[Document], limit: int | None, one_per_cluster: bool) -> Packed:
        if self.tokenize is None:
            return whole_documents(documents, limit)
        return pack(
            documents,
            self.tokenize,
            self.block_size,
            limit,
            sequential=self.sequential,
            one_per_cluster=one_per_cluster,
        )

    def prompts(self, documents: Sequence[Document]) -> tuple[Document, ...]:
        """One prompt a document, no longer than a record."""
        if self.tokenize is None:
            return tuple(documents)
        return tuple(cut_documents(documents, self.tokenize, self.block_size))


@dataclass
class Parts:
    """The texts of an audit: records of both classes, and what is never audited. Counts say what was left out.

    `held_out` are the documents of the prompts as the candidate reference is trained on them, see `AuditData`.
    """

    members: Sequence[Record] = ()
    nonmembers: Sequence[Record] = ()
    prompts: Sequence[Document] = ()
    candidate: Sequence[Document] = ()
    held_out: Sequence[Document] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    def take(self, packed: Packed, *, members: bool = False) -> tuple[Record, ...]:
        """Count what packing dropped, and return its records, labelled."""
        self.count("blocks_of_other_length_alone", packed.changed_length)
        self.count("ends_of_documents_dropped", packed.cut_rests)
        return tuple(replace(record, is_member=True) for record in packed.records) if members else packed.records


def text_key(text: str) -> str:
    """What makes two texts the same: everything but white space around them."""
    return text.strip()


def unique(documents: Sequence[Document]) -> list[Document]:
    """The first document of each text, in order."""
    found: dict[str, Document] = {}
    for document in documents:
        found.setdefault(text_key(document.text), document)
    return list(found.values())


def without(documents: Sequence[Document], others: Sequence[Document]) -> list[Document]:
    """The documents whose text is not among the others'."""
    taken = {text_key(document.text) for document in others}
    return [document for document in documents if text_key(document.text) not in taken]


def shuffled(items: Sequence[T], seed: int, purpose: str) -> list[T]:
    """A copy in an order that depends on the seed, what it is for, and the number of items."""
    order = list(items)
    random.Random(stable_seed(seed, purpose)).shuffle(order)  # noqa: S311 - a split is no secret
    return order


def in_units(items: Sequence[Owned], seed: int, purpose: str) -> list[Owned]:
    """The same in the order of their units, shuffled each for itself; as `shuffled` where there are no units.

    Units come in an order that knows nothing of how many items they have: in that of shuffled items the largest would
    come first, and be dealt to the first class.
    """
    order = shuffled(items, seed, purpose)
    if not order or order[0].unit is None:
        return order
    units: dict[str | None, list[Owned]] = {item.unit: [] for item in items}
    for item in order:
        units[item.unit].append(item)
    return [item for unit in shuffled(list(units), seed, f"{purpose} units") for item in units[unit]]


def without_prompts(held: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """The non-members, `PROMPT_SHARE` of them taken from the end, and those, which become the prompts.

    A unit that would be on both sides prompts: its documents have to stand together, see `in_units`.
    """
    cut = len(held) - max(int(PROMPT_SHARE * len(held)), min(1, len(held) - 1))
    while 0 < cut < len(held) and held[cut].unit is not None and held[cut].unit == held[cut - 1].unit:
        cut -= 1
    return list(held[:cut]), list(held[cut:])


def as_documents(records: Sequence[Record]) -> tuple[Document, ...]:
    """Records that are not audited."""
    return tuple(
        Document(record.id, record.text, conversation=record.conversation, rendered=record.rendered)
        for record in records
    )


def held_out(documents: Sequence[Document], packer: Packer, records: int, seed: int) -> tuple[Document, ...]:
    """Documents of prompts cut like the records, at most `records` of them: what a candidate reference is trained on.

    All of a document counts, where a prompt is its beginning alone. Documents that are together shorter than one
    record stay as they are: a reference on short texts is better than none.
    """
    pool = unique(documents)
    packed = packer.pack(pool if packer.sequential else in_units(pool, seed, "held_out"), records)
    return as_documents(packed.records) or tuple(pool[:records])


def split_random(documents: Sequence[Document], packer: Packer, records: int, prompts: int, seed: int) -> Parts:
    """Deal one pool out at random by document, without equal texts.

    Args:
        documents: the pool.
        packer: makes records of documents.
        records: at most so many of each class, from at most `CLASS_SHARE` of the documents each.
        prompts: at most so many, packed like the records, from the documents that are left.
        seed: of the order.
    """
    pool = shuffled(unique(documents), seed, "split")
    parts = Parts()
    parts.count("duplicate_documents", len(documents) - len(pool))
    share = int(CLASS_SHARE * len(pool))
    members = packer.pack(pool[:share], records)
    nonmembers = packer.pack(pool[members.used : members.used + share], records)
    rest = packer.pack(pool[members.used + nonmembers.used :], prompts)
    parts.members, parts.nonmembers = parts.take(members, members=True), parts.take(nonmembers)
    parts.prompts = parts.held_out = as_documents(parts.take(rest))
    return parts


def deal(
    documents: Sequence[Document], packer: Packer, wanted: Mapping[str, int], seed: int
) -> tuple[dict[str, tuple[Record, ...]], dict[str, int]]:
    """Deal one pool out at random by document, in the order asked for, as far as it goes; without equal texts.

    By unit where units are known: what is left of a unit that is dealt to one class goes to none.

    Args:
        documents: the pool.
        packer: makes records of documents.
        wanted: records by class, in order. Canaries come one a cluster: their coins are independent.
        seed: of the order.

    Returns:
        Records by class, at most as many as wanted, and the counts of what was left out.
    """
    pool = in_units(unique(documents), seed, "split")
    parts = Parts()
    parts.count("duplicate_documents", len(documents) - len(pool))
    dealt = {}
    for name, number in wanted.items():
        packed = packer.pack(pool, number, one_per_cluster=name == "canaries")
        dealt[name], pool = parts.take(packed, members=name == "members"), pool[packed.used :]
    return dealt, parts.counts


def split_paper(
    documents: Sequence[Document], heldout: Sequence[Document] | None, packer: Packer, records: int, prompts: int
) -> Parts:
    """The released code's sequential blocks: members first, prompts next, non-members from data held out.

    Args:
        documents: the training split, in order.
        heldout: documents for the non-members; None takes the last tenth of `documents`.
        packer: makes records of documents.
        records: at most so many of each class; members from at most half of the documents.
        prompts: at most so many blocks.
    """
    pool = unique(documents)
    held = without(unique(heldout or ()), pool)
    parts = Parts()
    parts.count("duplicate_documents", len(documents) + len(heldout or ()) - len(pool) - len(held))
    if heldout is None:
        cut = len(pool) - len(pool) // 10
        pool, held = pool[:cut], pool[cut:]
    members = packer.pack(pool[: len(pool) // 2], records)
    rest = packer.pack(pool[members.used :], prompts)
    parts.members = parts.take(members, members=True)
    parts.prompts = parts.held_out = as_documents(parts.take(rest))
    parts.nonmembers = parts.take(packer.pack(held, records))
    return parts


def split_declared(
    members: Sequence[Document],
    nonmembers: Sequence[Document],
    prompts: Sequence[Document] | None,
    packer: Packer,
    records: int,
    prompted: int,
    seed: int,
) -> Parts:
    """Records of documents whose class is known. Without prompts a share of the non-members becomes the prompts.

    Args:
        members: documents trained on.
        nonmembers: documents not trained on; no text of them is among the members.
        prompts: documents that are neither, if given.
        packer: makes records of documents. A sequential packer takes documents in order, any other in a seeded one.
        records: at most so many of each class.
        prompted: at most so many records of the prompts' documents (`Parts.held_out`).
        seed: of the order and of the share.
    """
    trained, held = unique(members), unique(nonmembers)
    parts = Parts()
    parts.count("duplicate_documents", len(members) + len(nonmembers) - len(trained) - len(held))
    if not packer.sequential:
        trained, held = in_units(trained, seed, "members"), in_units(held, seed, "nonmembers")
    if prompts is None:
        held, prompts = without_prompts(held)
    parts.members = parts.take(packer.pack(trained, records), members=True)
    parts.nonmembers = parts.take(packer.pack(held, records))
    parts.prompts = packer.prompts(unique(prompts))
    parts.held_out = held_out(prompts, packer, prompted, seed)
    return parts
