"""Makes the audit's data of texts that were dealt out: shuffled, fingerprinted, rendered, with where they are from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spvmia_plugin.config import NO_CANDIDATE, AuditConfig
from spvmia_plugin.data.apart import check_classes_differ
from spvmia_plugin.data.conversations import Format, check_scored, rendered, without_shared
from spvmia_plugin.data.fingerprint import fingerprint, held_by, user_key
from spvmia_plugin.data.packing import fast_tokenize
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.sources import Loaded
from spvmia_plugin.data.split import Packer, Parts, shuffled
from spvmia_plugin.data.units import check_groups
from spvmia_plugin.records import AuditData, Document, Membership, Record
from spvmia_plugin.util.files import user_cache

CLUSTER_RULE = {
    "random": "blocks that share a document, named after the first",
    "paper": "the block's first document; with sequential blocks a document may reach into the next cluster",
}
"""What a cluster is, by split."""
OF_UNITS = "the unit: whom the record belongs to"

PROTOCOL: Mapping[Membership, str] = {
    "declared": "files of members and non-members",
    "assumed": "one pool, split by the audit; whether the model was trained on the members is assumed",
}


def held_out_records(config: AuditConfig) -> int:
    """How many records of the prompts' documents are kept for candidates: each takes as many as self-prompts."""
    return config.self_prompts * config.references


def packer_of(config: AuditConfig, block_size: int, tokenizer: Callable[[], Any]) -> Packer:
    """How documents become records; the tokenizer is loaded only where blocks are cut."""
    tokenize = fast_tokenize(tokenizer()) if block_size else None
    return Packer(block_size, tokenize, sequential=config.split == "paper")


def assembled_of_split(
    parts: Parts,
    config: AuditConfig,
    loaded: Sequence[Loaded],
    membership: Membership,
    source: str,
    format_: Format,
    renderer: Renderer | None,
    **more: object,
) -> AuditData:
    """The data of files or of a public data set, with what was read and how it was split; see `assembled`."""
    provenance: dict[str, object] = {
        "protocol": PROTOCOL[membership],
        "split": config.split,
        "split_seed": config.seed,
        "cluster_rule": CLUSTER_RULE[config.split] if config.unit_column is None else OF_UNITS,
        "counts": {
            "documents": sum(len(each.documents) for each in loaded),
            "empty_rows": sum(each.empty_rows for each in loaded),
            **parts.counts,
        },
        **more,
    }
    key = user_key(user_cache(config.cache_dir))
    return assembled(
        parts,
        config.seed,
        key,
        membership,
        source,
        format_,
        renderer,
        provenance,
        without_candidate=config.candidate == NO_CANDIDATE,
        unit_column=config.unit_column,
        group_column=config.group_column,
    )


def assembled(
    parts: Parts,
    seed: int,
    key: bytes,
    membership: Membership,
    source: str,
    format_: Format,
    renderer: Renderer | None,
    provenance: dict[str, object],
    *,
    without_candidate: bool,
    base_model: str | None = None,
    unit_column: str | None = None,
    group_column: str | None = None,
) -> AuditData:
    """Shuffle the records with the seed, fingerprint all that they hold with the key, and render conversations.

    Blocks of different documents may be the same text (a heading, boilerplate) although no document is in both
    classes: nobody can take these out of the files, so they are left to the preconditions, which report them.

    Raises:
        SpvmiaError: a whole document of the members is one of the non-members as well; a template refuses a
            conversation, or no token of a class is scored.
    """
    if group_column is not None:
        check_groups([*parts.members, *parts.nonmembers], group_column)
    if not format_.block_size:
        check_classes_differ(parts.members, parts.nonmembers)
    texts: dict[str, Sequence[Record | Document]] = {
        "member": parts.members,
        "nonmember": parts.nonmembers,
        "prompt": parts.prompts,
        "candidate": parts.candidate,
    }
    mark = fingerprint(key, ((name, held_by(item)) for name, items in texts.items() for item in items))
    parts = without_shared(rendered(parts, renderer))
    if renderer is not None:
        check_scored("members", parts.members)
        check_scored("non-members", parts.nonmembers)
        provenance = {**provenance, "rendering": renderer.identity()}
    return AuditData(
        held_out=() if parts.candidate or without_candidate else tuple(parts.held_out),
        records=tuple(shuffled([*parts.members, *parts.nonmembers], seed, "records")),
        prompts=tuple(parts.prompts),
        candidate=tuple(parts.candidate),
        membership=membership,
        fingerprint=mark,
        source=source,
        block_size=format_.block_size,
        base_model=base_model,
        provenance=provenance,
        format=format_.name,
        renderer=renderer,
        unit_column=unit_column,
        group_column=group_column,
    )
