"""Assembles `AuditData` from texts whose class is known; the same for every source of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spvmia_plugin.data.fingerprint import fingerprint
from spvmia_plugin.data.packing import Block
from spvmia_plugin.data.split import shuffled, text_key
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Document, Membership, Record


@dataclass
class Gathered:
    """What a source gives: blocks of both classes and what is never audited. Other fields as in `AuditData`."""

    members: Sequence[Block]
    nonmembers: Sequence[Block]
    prompts: Sequence[Document]
    membership: Membership
    block_size: int
    source: str = ""
    candidate: Sequence[Document] = ()
    base_model: str | None = None
    provenance: dict[str, object] = field(default_factory=dict)

    def assemble(self, seed: int, key: bytes) -> AuditData:
        """Label, shuffle with the seed, and fingerprint with the key.

        Blocks of different documents may be the same text (a heading, boilerplate) although no document is in both
        classes: nobody can take these out of the files, so they are left to the preconditions, which report them.

        Raises:
            SpvmiaError: a whole document of the members is one of the non-members as well.
        """
        records = [_record(block, is_member) for block, is_member in _labelled(self.members, self.nonmembers)]
        if not self.block_size:
            check_classes_differ(self.members, self.nonmembers)
        return AuditData(
            records=tuple(shuffled(records, seed, "records")),
            prompts=tuple(self.prompts),
            candidate=tuple(self.candidate),
            membership=self.membership,
            fingerprint=fingerprint(key, self._entries(records)),
            source=self.source,
            block_size=self.block_size,
            base_model=self.base_model,
            provenance=self.provenance,
        )

    def _entries(self, records: Sequence[Record]) -> Iterable[tuple[str, str]]:
        yield from (("member" if record.is_member else "nonmember", record.text) for record in records)
        yield from (("prompt", document.text) for document in self.prompts)
        yield from (("candidate", document.text) for document in self.candidate)


def _labelled(members: Sequence[Block], nonmembers: Sequence[Block]) -> list[tuple[Block, bool]]:
    return [(block, True) for block in members] + [(block, False) for block in nonmembers]


def _record(block: Block, is_member: bool) -> Record:
    return Record(block.id, block.text, is_member, block.cluster)


def check_classes_differ(members: Sequence[Block | Document], nonmembers: Sequence[Block | Document]) -> None:
    """Refuse data in which one text is said to be trained on and not.

    Raises:
        SpvmiaError: such a text; both its ids are named.
    """
    known = {text_key(item.text): item.id for item in members}
    for item in nonmembers:
        if text_key(item.text) in known:
            raise SpvmiaError(
                f"mia_nonmembers: {item.id} is the same text as {known[text_key(item.text)]} of the members, expected "
                "each text in one class: it was trained on, and called a non-member AUROC and every TPR come out too "
                "low; remove one of them"
            )


def check_held_out(
    option: str, documents: Sequence[Document], others: Sequence[tuple[str, Sequence[Document]]]
) -> None:
    """Refuse data that should be held out and are among the audited ones.

    Args:
        option: the option that named `documents`.
        documents: what should be nowhere else.
        others: what each of `others` is in words ("the members"), and its documents.

    Raises:
        SpvmiaError: a common text; both its ids are named.
    """
    known = {text_key(document.text): document.id for document in documents}
    for what, items in others:
        for item in items:
            if text_key(item.text) in known:
                raise SpvmiaError(
                    f"{option}: {known[text_key(item.text)]} is the same text as {item.id} of {what}, expected data "
                    "that are used for nothing else: a reference model that has learnt audited texts lets their scores "
                    "drop, so AUROC is wrong; remove it"
                )
