"""What makes sure that no text is on two sides of an audit, nor a unit that should stand on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spvmia_plugin.config import NO_CANDIDATE, AuditConfig
from spvmia_plugin.data.conversations import check_format, load
from spvmia_plugin.data.split import Packer, Parts, as_documents, text_key, unique
from spvmia_plugin.data.units import NOBODY, Belonging, Owned, without_units
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Record


def read_candidate(
    config: AuditConfig,
    others: Sequence[tuple[str, Sequence[Document]]],
    kind: str,
    belonging: Belonging = NOBODY,
) -> Sequence[Document]:
    """The documents of `mia_candidate`, which are used for nothing else; rows of the same kind as the others'."""
    if config.candidate in (None, NO_CANDIDATE):
        return ()
    loaded = load(config.candidate, config, "mia_candidate", belonging=belonging)
    check_format("mia_candidate", loaded, kind)
    documents = unique(loaded.documents)
    check_held_out("mia_candidate", documents, others)
    return documents


def prompts_of_others(prompts: Sequence[Owned], audited: set[str], parts: Parts, option: str) -> list[Owned]:
    """The prompts without rows of audited units: a reference that has learnt a person calibrates that person away.

    Raises:
        SpvmiaError: there were some, and none is left.
    """
    kept = without_units(prompts, audited)
    parts.count("prompts_of_audited_units", len(prompts) - len(kept))
    if prompts and not kept:
        raise SpvmiaError(
            f"{option}: expected prompts of units that are not audited, got {len(prompts):,}, all of units that have "
            "rows among the members or non-members; give rows of others, or no prompts: then some of the non-members "
            "become prompts, unit by unit"
        )
    return kept


def candidate_of_others(
    candidate: Sequence[Owned], used: set[str], parts: Parts, option: str = "mia_candidate"
) -> Sequence[Owned]:
    """The same for candidate data, which become records of no unit: nobody asks whose they are from here on.

    Raises:
        SpvmiaError: there were some, and none is left.
    """
    if not candidate or not used:
        return candidate
    kept = without_units(candidate, used)
    parts.count("candidate_of_used_units", len(candidate) - len(kept))
    if not kept:
        raise SpvmiaError(
            f"{option}: expected candidate rows of units that are used for nothing else, got {len(candidate):,}, all "
            "of units that have rows among the members, non-members or prompts; give rows of others, or none "
            "(mia_candidate=none)"
        )
    return [dataclasses.replace(item, unit=None) for item in kept]


def pack_candidate(documents: Sequence[Document], packer: Packer, config: AuditConfig) -> Sequence[Document]:
    """Candidate texts cut like the records: what they train must not learn another length. As many as self-prompts."""
    if not documents:
        return ()
    packed = packer.pack(documents, config.self_prompts)
    if not packed.records:
        raise SpvmiaError(
            f"mia_candidate: {config.candidate}: expected text for at least one record of {packer.block_size} tokens, "
            f"got {len(documents)} documents with less; give more documents"
        )
    return as_documents(packed.records)


def check_classes_differ(members: Sequence[Record | Document], nonmembers: Sequence[Record | Document]) -> None:
    """Refuse data in which one text is said to be trained on and not; both its ids are named."""
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
    """Refuse data that should be held out and are among the audited ones; both ids are named.

    Args:
        option: the option that named `documents`.
        documents: what should be nowhere else.
        others: what each of `others` is in words ("the members"), and its documents.
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
