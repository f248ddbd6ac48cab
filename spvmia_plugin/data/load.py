"""What an audit reads: the target's manifest, else the user's files, else a public data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data import BUILTIN_DATASETS
from spvmia_plugin.data.apart import (
    candidate_of_others,
    check_classes_differ,
    check_held_out,
    pack_candidate,
    prompts_of_others,
    read_candidate,
)
from spvmia_plugin.data.assembly import assembled_of_split, held_out_records, packer_of
from spvmia_plugin.data.conversations import TEXT, Format, check_format, load
from spvmia_plugin.data.documents import describe
from spvmia_plugin.data.files import LABEL
from spvmia_plugin.data.fingerprint import user_key
from spvmia_plugin.data.from_manifest import (
    CUSTOM,
    assembled_of_manifest,
    check_beside,
    check_fits,
    find_manifest,
    of_manifest,
)
from spvmia_plugin.data.manifest import MANIFEST_NAME
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import cleaned, file_names, load_source, load_spec, source_name
from spvmia_plugin.data.split import (
    MIN_RECORDS,
    Parts,
    as_documents,
    held_out,
    split_declared,
    split_paper,
    split_random,
    unique,
    without,
)
from spvmia_plugin.data.units import NOBODY, Belonging, check_apart, units_of
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData, Document
from spvmia_plugin.util.files import user_cache

if TYPE_CHECKING:
    from spvmia_plugin.plugins import Registry


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
    if config.unit_column is not None and config.split == "paper":
        raise SpvmiaError(
            "mia_unit_column: expected mia_split=random beside it, got paper, whose blocks run on from one document "
            "into the next; leave one of the two out"
        )
    if manifest is not None:
        check_fits(manifest, dataset, config, datasets)
        beside = check_beside(manifest, target_dirs, named=config.manifest is not None)
        data = of_manifest(manifest, config, datasets, tokenizer, **beside)
    elif dataset == CUSTOM:
        data = _declared(config, tokenizer)
    else:
        data = _public(config, datasets[dataset], tokenizer)
    maker = registry.registered_by("datasets", dataset) if registry is not None and dataset in datasets else ""
    return dataclasses.replace(data, maker=maker)


def load_canaries(
    config: AuditConfig,
    *,
    datasets: Mapping[str, DatasetSource] | None = None,
    target_dirs: Sequence[Path] = (),
    tokenizer: Callable[[], Any] | None = None,
) -> AuditData:
    """The canaries of the target's manifest: records that an independent fair coin each put into training or not.

    Nothing else is audited with them, and all of them are: `mia_max_samples` does not apply. The provenance holds
    `canaries`: their number, how many are included, the coin's probability, and where they come from.

    Args:
        config: `mia_manifest`, `mia_dataset_path`, `mia_seed` are read.
        datasets: named data sets by name; the built-in ones by default.
        target_dirs: folders of the target, where the manifest is looked for.
        tokenizer: loads the target's tokenizer, which canaries that are conversations need.

    Raises:
        SpvmiaError: there is no manifest, it has no canaries, or its data are not there or have changed.
    """
    known = datasets if datasets is not None else builtin_datasets()
    manifest = find_manifest(config, target_dirs)
    if manifest is None:
        raise SpvmiaError(
            "mia_manifest: a canary audit expects the manifest of a target made by 'spvmia finetune --canaries M', got "
            "none in the target's folder; name it with mia_manifest"
        )
    if not manifest.records["canaries"]:
        raise SpvmiaError(
            f"mia_manifest: {manifest.path}: expected canaries, got none; fine-tune with 'spvmia finetune --canaries M'"
        )
    check_fits(manifest, CUSTOM, config, known)
    records, _ = rebuild(manifest, known, config.dataset_path)
    canaries = records["canaries"]
    parts = Parts(
        members=[canary for canary in canaries if canary.is_member],
        nonmembers=[canary for canary in canaries if not canary.is_member],
        prompts=as_documents(records["prompts"]),
        held_out=as_documents(records["prompts"][: held_out_records(config)]),
    )
    kind = manifest.settings.get("canary_kind", "natural")  # earlier versions had no others
    numbers = {"number": len(canaries), "included": len(parts.members), "probability": 0.5, "kind": kind}
    data = assembled_of_manifest(manifest, parts, config, known, tokenizer, canaries=numbers)
    # A coin was thrown for each by itself.
    alone = tuple(dataclasses.replace(record, unit=None, group=None) for record in data.records)
    return dataclasses.replace(data, records=alone, unit_column=None, group_column=None)


def builtin_datasets() -> dict[str, DatasetSource]:
    """The built-in data sets by name."""
    return {source.name: source for source in BUILTIN_DATASETS}


def _declared(config: AuditConfig, tokenizer: Callable[[], Any]) -> AuditData:
    """The user's own files."""
    _check_named(config)
    specs = {name: spec for name in ("members", "nonmembers", "prompts") if (spec := getattr(config, name))}
    names = file_names({f"mia_{name}": spec for name, spec in specs.items()})
    # One file of both classes says itself who is who.
    labelled = specs["members"] == specs["nonmembers"]
    sides = {"members": True, "nonmembers": False} if labelled else {}
    belonging = NOBODY
    if config.unit_column is not None or config.group_column is not None:
        belonging = Belonging(config.unit_column, config.group_column, user_key(user_cache(config.cache_dir)))
    # Which group a prompt is of, nobody asks.
    asked = {name: dataclasses.replace(belonging, group=None) if name == "prompts" else belonging for name in specs}
    loaded = {
        name: load(spec, config, f"mia_{name}", names=names, member=sides.get(name), belonging=asked[name])
        for name, spec in specs.items()
    }
    kind = loaded["members"].format
    for name, each in loaded.items():
        check_format(f"mia_{name}", each, kind)
    format_ = Format.of(kind, config)
    members, nonmembers = loaded["members"].documents, loaded["nonmembers"].documents
    check_classes_differ(members, nonmembers)
    prompts: Sequence[Document] | None = loaded["prompts"].documents if "prompts" in loaded else None
    left_out = Parts()
    if config.unit_column is not None:
        check_apart("mia_unit_column", members, nonmembers, config.unit_column)
        if prompts is not None:
            prompts = prompts_of_others(prompts, units_of([*members, *nonmembers]), left_out, "mia_prompts")
    audited = [("the members", members), ("the non-members", nonmembers)]
    if prompts is not None:
        check_held_out("mia_prompts", prompts, audited)
    beside = dataclasses.replace(belonging, group=None)
    candidate = read_candidate(config, [*audited, ("the prompts", prompts or ())], kind, beside)
    candidate = candidate_of_others(candidate, units_of([*members, *nonmembers, *(prompts or ())]), left_out)
    packer = packer_of(config, format_.block_size, tokenizer)
    prompted = held_out_records(config)
    parts = split_declared(members, nonmembers, prompts, packer, config.max_samples, prompted, config.seed)
    parts.counts |= left_out.counts
    for name, records in (("members", parts.members), ("nonmembers", parts.nonmembers)):
        if len(records) < MIN_RECORDS:
            unit, remedy = "records", "give more documents"
            if format_.block_size:
                unit = f"records of {format_.block_size} tokens"
                remedy += ", or lower mia_block_size (0: whole documents)"
            raise SpvmiaError(
                f"mia_{name}: {specs[name]}: expected at least {MIN_RECORDS} {unit}, got {len(records)} from "
                f"{len(loaded[name].documents)} documents; {remedy}"
            )
    parts.candidate = pack_candidate(candidate, packer, config)
    source = " + ".join(dict.fromkeys(map(source_name, specs.values())))
    labels: dict[str, object] = {"labels": f"column {LABEL!r}: 1 is a member, 0 is none"} if labelled else {}
    renderer = None
    if kind != TEXT:
        renderer = format_.renderer(tokenizer())
        labels["rows"] = [describe(each, source_name(specs[name])) for name, each in loaded.items()]
    return assembled_of_split(parts, config, list(loaded.values()), "declared", source, format_, renderer, **labels)


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


def _public(config: AuditConfig, source: DatasetSource, tokenizer: Callable[[], Any]) -> AuditData:
    """A public data set, and nobody who says what the model was trained on."""
    if config.format not in ("auto", TEXT):
        raise SpvmiaError(
            f"mia_format: expected text for {source.name}, got {config.format}; run the task on 'custom' data instead"
        )
    for option in ("unit_column", "group_column"):
        if getattr(config, option) is not None:
            raise SpvmiaError(
                f"mia_{option}: expected data of your own (tasks on 'custom', or a target with a manifest), got "
                f"{source.name}, of which only the text is read; leave it out"
            )
    format_ = Format.of(TEXT, config)
    if config.dataset_path is not None:
        name = source_name(config.dataset_path)
        local = load_spec(config.dataset_path, config.text_column, option="mia_dataset_path", format=TEXT)
        loaded = [dataclasses.replace(local, documents=cleaned(local.documents, source))]
    else:
        name = f"hf:{source.hub_id}:{source.train_split}"
        splits = [source.train_split]
        if config.split == "paper" and source.heldout_split is not None:
            splits.append(source.heldout_split)
        option = f"data set {source.name}"
        loaded = [load_source(source, split, option=option, local_option="mia_dataset_path") for split in splits]
    prompts = None
    if config.prompts is not None:
        prompts = unique(load_spec(config.prompts, config.text_column, option="mia_prompts", format=TEXT).documents)
    candidate = read_candidate(config, [("the prompts", prompts or ())], TEXT)
    kept = [without(each.documents, [*(prompts or ()), *candidate]) for each in loaded]
    documents = sum(len(each.documents) for each in loaded)
    packer = packer_of(config, config.block_size, tokenizer)
    wanted = config.self_prompts if prompts is None else 0
    if config.split == "paper":
        parts = split_paper(kept[0], kept[1] if len(kept) > 1 else None, packer, config.max_samples, wanted)
    else:
        parts = split_random(kept[0], packer, config.max_samples, wanted, config.seed)
    parts.count("documents_that_are_prompts_or_candidate", documents - sum(map(len, kept)))
    if prompts is not None:
        parts.prompts = packer.prompts(prompts)
        parts.held_out = held_out(prompts, packer, held_out_records(config), config.seed)
    parts.candidate = pack_candidate(candidate, packer, config)
    got = len(parts.members), len(parts.nonmembers), len(parts.prompts)
    if min(got[:2]) < MIN_RECORDS or not got[2]:
        raise SpvmiaError(
            f"{'mia_dataset_path' if config.dataset_path else 'mia_block_size'}: {name}: expected documents for at "
            f"least {MIN_RECORDS} members, {MIN_RECORDS} non-members and 1 prompt, got {documents} documents, enough "
            f"for {got[0]}, {got[1]} and {got[2]}; give more documents, or lower mia_block_size"
        )
    return assembled_of_split(parts, config, loaded, "assumed", name, format_, None)
