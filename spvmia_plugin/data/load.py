"""What an audit reads: the target's manifest, else the user's files, else a public data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.audit_data import Gathered, check_classes_differ, check_held_out
from spvmia_plugin.data.files import Loaded
from spvmia_plugin.data.fingerprint import user_cache_root, user_key
from spvmia_plugin.data.from_manifest import (
    CUSTOM,
    builtin_datasets,
    check_fits,
    find_manifest,
    from_manifest,
    load_canaries,
    manifest_key,
)
from spvmia_plugin.data.hub import load_source
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest
from spvmia_plugin.data.packing import fast_tokenize
from spvmia_plugin.data.source_file import LABEL
from spvmia_plugin.data.sources import cleaned, file_names, load_spec, source_name
from spvmia_plugin.data.split import (
    MIN_RECORDS,
    Packer,
    Parts,
    as_documents,
    split_declared,
    split_paper,
    split_random,
    unique,
    without,
)
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData, Document, Membership

if TYPE_CHECKING:
    from spvmia_plugin.plugins import Registry

__all__ = ["load_audit_data", "load_canaries"]

CLUSTER_RULE = {
    "random": "blocks that share a document, named after the first",
    "paper": "the block's first document; with sequential blocks a document may reach into the next cluster",
}
"""What a cluster is, by split."""


def load_audit_data(
    config: AuditConfig,
    dataset: str,
    *,
    registry: Registry | None,
    tokenizer: Callable[[], Any],
    target_dirs: Sequence[Path],
) -> AuditData:
    """Load the records, prompts and candidate data of one audit.

    A manifest (`mia_manifest`, or found in a target folder) wins; then come the user's files for `custom`, and for a
    named data set its local stand-in (`mia_dataset_path`) or the hub. All data are read and checked before the
    tokenizer is asked for, and it is only asked for where text has to be packed.

    Args:
        config: the options.
        dataset: `custom`, or the name of a registered data set.
        registry: where data sets are registered; None for the built-in ones.
        tokenizer: loads the target's (Hugging Face) tokenizer.
        target_dirs: folders of the target, where a manifest is looked for.

    Raises:
        SpvmiaError: bad, missing, overlapping or too few data; options that contradict a manifest.
    """
    datasets = registry.datasets if registry is not None else builtin_datasets()
    if dataset != CUSTOM and dataset not in datasets:
        names = [CUSTOM, *datasets]
        hint = did_you_mean(dataset, names)
        raise SpvmiaError(f"data set: expected one of {', '.join(names)}, got {dataset!r}{hint}")
    if config.max_samples < MIN_RECORDS:
        raise SpvmiaError(
            f"mia_max_samples: expected at least {MIN_RECORDS} records of a class, got {config.max_samples}; raise it"
        )
    manifest = find_manifest(config, target_dirs)
    if manifest is not None:
        check_fits(manifest, dataset, config, datasets)
        gathered = _of_manifest(manifest, config, datasets, tokenizer)
        return gathered.assemble(config.seed, manifest_key(manifest))
    gathered = _declared(config, tokenizer) if dataset == CUSTOM else _public(config, datasets[dataset], tokenizer)
    return gathered.assemble(config.seed, user_key(user_cache_root(config.cache_dir)))


def _packer(config: AuditConfig, block_size: int, tokenizer: Callable[[], Any]) -> Packer:
    tokenize = fast_tokenize(tokenizer()) if block_size else None
    return Packer(block_size, tokenize, sequential=config.split == "paper")


def _of_manifest(
    manifest: Manifest, config: AuditConfig, datasets: Mapping[str, DatasetSource], tokenizer: Callable[[], Any]
) -> Gathered:
    """The records of a manifest, and candidate data beside it."""
    gathered, rebuilt = from_manifest(manifest, config, datasets)
    candidate = _read_candidate(config, [(f"the {name}", rebuilt.documents[name]) for name in rebuilt.documents])
    if candidate:
        gathered.candidate = _pack_candidate(candidate, _packer(config, gathered.block_size, tokenizer), config)
    return gathered


def _declared(config: AuditConfig, tokenizer: Callable[[], Any]) -> Gathered:
    """The user's own files."""
    _check_named(config)
    specs = {name: spec for name in ("members", "nonmembers", "prompts") if (spec := getattr(config, name))}
    names = file_names({f"mia_{name}": spec for name, spec in specs.items()})
    # One file of both classes says itself who is who.
    labelled = specs["members"] == specs["nonmembers"]
    sides = {"members": True, "nonmembers": False} if labelled else {}
    loaded = {
        name: load_spec(spec, config.text_column, option=f"mia_{name}", names=names, member=sides.get(name))
        for name, spec in specs.items()
    }
    members, nonmembers = loaded["members"].documents, loaded["nonmembers"].documents
    check_classes_differ(members, nonmembers)
    prompts = loaded["prompts"].documents if "prompts" in loaded else None
    audited = [("the members", members), ("the non-members", nonmembers)]
    if prompts is not None:
        check_held_out("mia_prompts", prompts, audited)
    candidate = _read_candidate(config, [*audited, ("the prompts", prompts or ())])
    packer = _packer(config, config.block_size, tokenizer)
    parts = split_declared(members, nonmembers, prompts, packer, config.max_samples, config.seed)
    for name, blocks in (("members", parts.members), ("nonmembers", parts.nonmembers)):
        if len(blocks) < MIN_RECORDS:
            raise _too_few(f"mia_{name}", specs[name], len(blocks), len(loaded[name].documents), config.block_size)
    gathered = _gathered(parts, config, list(loaded.values()), "declared")
    gathered.source = " + ".join(dict.fromkeys(map(source_name, specs.values())))
    if labelled:
        gathered.provenance["labels"] = f"column {LABEL!r}: 1 is a member, 0 is none"
    gathered.candidate = _pack_candidate(candidate, packer, config)
    return gathered


def _check_named(config: AuditConfig) -> None:
    for name, meaning in (("members", "trained on"), ("nonmembers", "not trained on")):
        if getattr(config, name) is None:
            raise SpvmiaError(
                f"mia_{name}: expected a file of records the target was {meaning}, got none, and no {MANIFEST_NAME} "
                "in the target's folder; name both files (mia_members, mia_nonmembers; one file of both classes with a "
                f"column {LABEL!r} twice), or a manifest (mia_manifest)"
            )
    if config.dataset_path is not None:
        raise SpvmiaError(
            "mia_dataset_path: it stands in for a public data set or for the data of a manifest, got it beside "
            "mia_members; leave it out"
        )


def _public(config: AuditConfig, source: DatasetSource, tokenizer: Callable[[], Any]) -> Gathered:
    """A public data set, and nobody who says what the model was trained on."""
    loaded = _load_public(config, source)
    prompts = None
    if config.prompts is not None:
        prompts = unique(load_spec(config.prompts, config.text_column, option="mia_prompts").documents)
    candidate = _read_candidate(config, [("the prompts", prompts or ())])
    kept = [without(item.documents, [*(prompts or ()), *candidate]) for item in loaded]
    packer = _packer(config, config.block_size, tokenizer)
    wanted = config.self_prompts if prompts is None else 0
    if config.split == "paper":
        heldout = kept[1] if len(kept) > 1 else None
        parts = split_paper(kept[0], heldout, packer, config.max_samples, wanted)
    else:
        parts = split_random(kept[0], packer, config.max_samples, wanted, config.seed)
    parts.count("documents_that_are_prompts_or_candidate", sum(map(_n_documents, loaded)) - sum(map(len, kept)))
    if prompts is not None:
        parts.prompts = packer.prompts(prompts)
    gathered = _gathered(parts, config, loaded, "assumed")
    gathered.source = _public_name(config, source)
    gathered.candidate = _pack_candidate(candidate, packer, config)
    _check_enough(parts, config, gathered.source, sum(map(_n_documents, loaded)))
    return gathered


def _load_public(config: AuditConfig, source: DatasetSource) -> list[Loaded]:
    """The training split, and what else is held out under the paper's protocol."""
    if config.dataset_path is not None:
        local = load_spec(config.dataset_path, config.text_column, option="mia_dataset_path")
        return [dataclasses.replace(local, documents=cleaned(local.documents, source))]
    splits = [source.train_split]
    if config.split == "paper" and source.heldout_split is not None:
        splits.append(source.heldout_split)
    option = f"data set {source.name}"
    return [load_source(source, split, option=option, local_option="mia_dataset_path") for split in splits]


def _public_name(config: AuditConfig, source: DatasetSource) -> str:
    return source_name(config.dataset_path) if config.dataset_path else f"hf:{source.hub_id}:{source.train_split}"


def _n_documents(loaded: Loaded) -> int:
    return len(loaded.documents)


def _check_enough(parts: Parts, config: AuditConfig, name: str, documents: int) -> None:
    got = len(parts.members), len(parts.nonmembers), len(parts.prompts)
    if min(got[:2]) >= MIN_RECORDS and got[2] >= 1:
        return
    raise SpvmiaError(
        f"{'mia_dataset_path' if config.dataset_path else 'mia_block_size'}: {name}: expected documents for at least "
        f"{MIN_RECORDS} members, {MIN_RECORDS} non-members and 1 prompt, got {documents} documents, enough for "
        f"{got[0]}, {got[1]} and {got[2]}; give more documents, or lower mia_block_size"
    )


def _too_few(option: str, spec: str, got: int, documents: int, block_size: int) -> SpvmiaError:
    unit, remedy = "records", "give more documents"
    if block_size:
        unit, remedy = f"records of {block_size} tokens", f"{remedy}, or lower mia_block_size (0: whole documents)"
    return SpvmiaError(
        f"{option}: {spec}: expected at least {MIN_RECORDS} {unit}, got {got} from {documents} documents; {remedy}"
    )


def _read_candidate(config: AuditConfig, others: Sequence[tuple[str, Sequence[Document]]]) -> Sequence[Document]:
    """The documents of `mia_candidate`, none of which is used for anything else."""
    if config.candidate is None:
        return ()
    documents = unique(load_spec(config.candidate, config.text_column, option="mia_candidate").documents)
    check_held_out("mia_candidate", documents, others)
    return documents


def _pack_candidate(documents: Sequence[Document], packer: Packer, config: AuditConfig) -> Sequence[Document]:
    """Candidate texts cut like the records: what they train must not learn another length. As many as self-prompts."""
    if not documents:
        return ()
    packed = packer.pack(documents, config.self_prompts)
    if not packed.blocks:
        raise SpvmiaError(
            f"mia_candidate: {config.candidate}: expected text for at least one record of {packer.block_size} tokens, "
            f"got {len(documents)} documents with less; give more documents"
        )
    return as_documents(packed.blocks)


PROTOCOL: Mapping[Membership, str] = {
    "declared": "files of members and non-members",
    "assumed": "one pool, split by the audit; whether the model was trained on the members is assumed",
}


def _gathered(parts: Parts, config: AuditConfig, loaded: Sequence[Loaded], membership: Membership) -> Gathered:
    return Gathered(
        members=parts.members,
        nonmembers=parts.nonmembers,
        prompts=parts.prompts,
        membership=membership,
        block_size=config.block_size,
        provenance={
            "protocol": PROTOCOL[membership],
            "split": config.split,
            "split_seed": config.seed,
            "cluster_rule": CLUSTER_RULE[config.split],
            "counts": {
                "documents": sum(map(_n_documents, loaded)),
                "empty_rows": sum(item.empty_rows for item in loaded),
                **parts.counts,
            },
        },
    )
