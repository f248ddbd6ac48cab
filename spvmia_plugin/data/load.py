"""What an audit reads: the target's manifest, else the user's files, else a public data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import NO_CANDIDATE, PREFIX, AuditConfig
from spvmia_plugin.data import BUILTIN_DATASETS
from spvmia_plugin.data.chat_templates import read_template
from spvmia_plugin.data.conversations import (
    TEXT,
    Format,
    check_format,
    check_options,
    check_scored,
    load,
    rendered,
    without_shared,
)
from spvmia_plugin.data.documents import describe
from spvmia_plugin.data.files import LABEL
from spvmia_plugin.data.fingerprint import KEY_BYTES, fingerprint, user_key
from spvmia_plugin.data.manifest import CANDIDATE, MANIFEST_NAME, Manifest, read_manifest, rebuild
from spvmia_plugin.data.packing import fast_tokenize
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.sources import PREFIX as HUB_PREFIX
from spvmia_plugin.data.sources import (
    Loaded,
    cleaned,
    file_names,
    is_file_spec,
    load_source,
    load_spec,
    parse_hub_spec,
    source_name,
)
from spvmia_plugin.data.split import (
    MIN_RECORDS,
    Packer,
    Parts,
    as_documents,
    held_out,
    in_units,
    shuffled,
    split_declared,
    split_paper,
    split_random,
    text_key,
    unique,
    without,
)
from spvmia_plugin.data.units import NOBODY, Belonging, Owned, check_apart, check_groups, units_of, without_units
from spvmia_plugin.data.weights import BELOW, check_weights
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData, Conversation, Document, Membership, Record
from spvmia_plugin.util.files import label, path_problem, user_cache

if TYPE_CHECKING:
    from spvmia_plugin.plugins import Registry

CUSTOM = "custom"

CLUSTER_RULE = {
    "random": "blocks that share a document, named after the first",
    "paper": "the block's first document; with sequential blocks a document may reach into the next cluster",
}
"""What a cluster is, by split."""
OF_UNITS = "the unit: whom the record belongs to"

_PROTOCOLS = {"finetune": "spvmia finetune", "command": "spvmia manifest"}

PROTOCOL: Mapping[Membership, str] = {
    "declared": "files of members and non-members",
    "assumed": "one pool, split by the audit; whether the model was trained on the members is assumed",
}


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
    manifest = _find_manifest(config, target_dirs)
    if config.unit_column is not None and config.split == "paper":
        raise SpvmiaError(
            "mia_unit_column: expected mia_split=random beside it, got paper, whose blocks run on from one document "
            "into the next; leave one of the two out"
        )
    if manifest is not None:
        _check_fits(manifest, dataset, config, datasets)
        beside = _check_beside(manifest, target_dirs, named=config.manifest is not None)
        return _of_manifest(manifest, config, datasets, tokenizer, **beside)
    return _declared(config, tokenizer) if dataset == CUSTOM else _public(config, datasets[dataset], tokenizer)


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
    manifest = _find_manifest(config, target_dirs)
    if manifest is None:
        raise SpvmiaError(
            "mia_manifest: a canary audit expects the manifest of a target made by 'spvmia finetune --canaries M', got "
            "none in the target's folder; name it with mia_manifest"
        )
    if not manifest.records["canaries"]:
        raise SpvmiaError(
            f"mia_manifest: {manifest.path}: expected canaries, got none; fine-tune with 'spvmia finetune --canaries M'"
        )
    _check_fits(manifest, CUSTOM, config, known)
    records, _ = rebuild(manifest, known, config.dataset_path)
    canaries = records["canaries"]
    parts = Parts(
        members=[canary for canary in canaries if canary.is_member],
        nonmembers=[canary for canary in canaries if not canary.is_member],
        prompts=as_documents(records["prompts"]),
        held_out=as_documents(records["prompts"][: _held_out_records(config)]),
    )
    kind = manifest.settings.get("canary_kind", "natural")  # earlier versions had no others
    numbers = {"number": len(canaries), "included": len(parts.members), "probability": 0.5, "kind": kind}
    data = _assembled_of_manifest(manifest, parts, config, known, tokenizer, canaries=numbers)
    # A coin was thrown for each by itself.
    alone = tuple(dataclasses.replace(record, unit=None, group=None) for record in data.records)
    return dataclasses.replace(data, records=alone, unit_column=None, group_column=None)


def builtin_datasets() -> dict[str, DatasetSource]:
    """The built-in data sets by name."""
    return {source.name: source for source in BUILTIN_DATASETS}


def _find_manifest(config: AuditConfig, target_dirs: Sequence[Path]) -> Manifest | None:
    """The manifest that `mia_manifest` names, else the one in the first target folder that holds one."""
    if config.manifest is not None:
        return read_manifest(config.manifest)
    for folder in target_dirs:
        # What no folder can be called may still be a model's name: that it is none is for the harness to say.
        if path_problem(folder) is None and (path := folder.expanduser() / MANIFEST_NAME).is_file():
            return read_manifest(path)
    return None


def _check_beside(manifest: Manifest, target_dirs: Sequence[Path], *, named: bool) -> dict[str, object]:
    """Make sure that a manifest with sources lies beside its own weights; what came of it, for the provenance.

    Of any manifest it is told when it was only found beside the model that an adapter was put on.

    Raises:
        SpvmiaError: it was written for others.
    """
    if manifest.path is None:
        return {}
    if not named and manifest.path.parent.resolve() != target_dirs[0].expanduser().resolve():
        return {"weights": BELOW}
    if not manifest.sources:
        return {}
    folders = [
        place for folder in target_dirs if path_problem(folder) is None and (place := folder.expanduser()).is_dir()
    ]
    own = [folder for folder in folders if folder.resolve() == manifest.path.parent.resolve()]
    if not folders:
        return {"weights": "not told: no folder"}
    return {"weights": check_weights(manifest.weights, (own or folders)[0], manifest.path, named=named)}


def _check_fits(manifest: Manifest, dataset: str, config: AuditConfig, datasets: Mapping[str, DatasetSource]) -> None:
    """Make sure a manifest's data are those of the task, and no option says otherwise."""
    spec = manifest.data.spec
    if dataset != CUSTOM and config.dataset_path is None:
        if spec.startswith(HUB_PREFIX):
            fits = parse_hub_spec(spec, option="mia_manifest").dataset == datasets[dataset].hub_id
        else:
            fits = spec == datasets[dataset].name
        if not fits:
            raise SpvmiaError(
                f"mia_manifest: {manifest.path}: the target was fine-tuned on {_short(spec, datasets)}, expected "
                f"{dataset}; run the task on 'custom' data instead, or name the file with mia_dataset_path if it "
                f"stands in for {dataset}"
            )
    files = ("members", "nonmembers", "prompts") if dataset == CUSTOM else ("prompts",)
    contradictions = [(name, "names the records itself") for name in files if getattr(config, name) is not None]
    told = {"split": manifest.data.split, "block_size": manifest.data.block_size, "text_column": manifest.data.column}
    told["format"] = manifest.data.format
    if manifest.unit_column is not None:
        told["unit_column"] = manifest.unit_column
    if manifest.data.format != TEXT:
        told |= {name: getattr(manifest.data, name) for name in ("loss_on", "record_tokens")}
        if config.chat_template is not None and read_template(config.chat_template) != manifest.data.template:
            contradictions.append(("chat_template", "was written with another template"))
    for name, value in told.items():
        if name in config.given and getattr(config, name) not in (value, "auto"):
            contradictions.append((name, f"says {value!r}"))
    if contradictions:
        name, words = contradictions[0]
        raise SpvmiaError(
            f"{PREFIX}{name}: the manifest {manifest.path} {words}, got {getattr(config, name)!r}; leave the option "
            "out to audit the records of the manifest"
        )
    check_options(manifest.data.format, config)


def _short(spec: str, datasets: Mapping[str, DatasetSource]) -> str:
    return source_name(spec) if is_file_spec(spec, datasets) else spec


def _of_manifest(
    manifest: Manifest,
    config: AuditConfig,
    datasets: Mapping[str, DatasetSource],
    tokenizer: Callable[[], Any],
    **more: object,
) -> AuditData:
    """The records of a manifest, `mia_max_samples` of each class, and candidate data beside it."""
    for name in ("members", "nonmembers"):
        if len(manifest.records[name]) < MIN_RECORDS:
            raise SpvmiaError(
                f"mia_manifest: {manifest.path}: expected at least {MIN_RECORDS} {name}, got "
                f"{len(manifest.records[name])}; "
                + (f"name more {name}" if manifest.sources else f"fine-tune again with a larger --{name}")
            )
    key = bytes.fromhex(manifest.fingerprint_key)
    belonging = Belonging(None if manifest.unit_column else config.unit_column, config.group_column, key)
    records, documents = rebuild(manifest, datasets, config.dataset_path, belonging)
    column = manifest.unit_column or config.unit_column
    parts = Parts()
    if column is not None:
        check_apart("mia_unit_column", records["members"], records["nonmembers"], column)
        units = units_of([*records["members"], *records["nonmembers"]])
        records["prompts"] = _prompts_of_others(records["prompts"], units, parts, f"mia_manifest: {manifest.path}")
    for name in ("members", "nonmembers"):
        if len(records[name]) > config.max_samples:
            records[name] = in_units(records[name], config.seed, "max_samples")[: config.max_samples]
    parts.members, parts.nonmembers = records["members"], records["nonmembers"]
    parts.prompts = as_documents(records["prompts"])
    audited = [(f"the {name}", of_class) for name, of_class in documents.items()]
    of_candidate = None if manifest.sources else column  # whose rows are stands in the manifest there, hashed
    belonging = dataclasses.replace(belonging, unit=of_candidate, group=None)
    candidate = _read_candidate(config, audited, manifest.data.format, belonging)
    if column is not None:
        units = units_of(record for of_class in records.values() for record in of_class)
        candidate = _candidate_of_others(candidate, units, parts)
    if candidate:
        parts.candidate = _pack_candidate(candidate, _packer(config, manifest.data.block_size, tokenizer), config)
    elif config.candidate is None:
        parts.candidate = as_documents(records.get(CANDIDATE, ()))
    if manifest.data.end_token:
        parts.candidate = [
            each if each.conversation else dataclasses.replace(each, conversation=Conversation.of_text(each.text))
            for each in parts.candidate
        ]
    parts.held_out = parts.prompts[: _held_out_records(config)]  # cut like the records, when they were dealt out
    return _assembled_of_manifest(manifest, parts, config, datasets, tokenizer, **more)


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
    _check_classes_differ(members, nonmembers)
    prompts: Sequence[Document] | None = loaded["prompts"].documents if "prompts" in loaded else None
    left_out = Parts()
    if config.unit_column is not None:
        check_apart("mia_unit_column", members, nonmembers, config.unit_column)
        if prompts is not None:
            prompts = _prompts_of_others(prompts, units_of([*members, *nonmembers]), left_out, "mia_prompts")
    audited = [("the members", members), ("the non-members", nonmembers)]
    if prompts is not None:
        _check_held_out("mia_prompts", prompts, audited)
    beside = dataclasses.replace(belonging, group=None)
    candidate = _read_candidate(config, [*audited, ("the prompts", prompts or ())], kind, beside)
    candidate = _candidate_of_others(candidate, units_of([*members, *nonmembers, *(prompts or ())]), left_out)
    packer = _packer(config, format_.block_size, tokenizer)
    prompted = _held_out_records(config)
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
    parts.candidate = _pack_candidate(candidate, packer, config)
    source = " + ".join(dict.fromkeys(map(source_name, specs.values())))
    labels: dict[str, object] = {"labels": f"column {LABEL!r}: 1 is a member, 0 is none"} if labelled else {}
    renderer = None
    if kind != TEXT:
        renderer = format_.renderer(tokenizer())
        labels["rows"] = [describe(each, source_name(specs[name])) for name, each in loaded.items()]
    return _assembled_of_split(parts, config, list(loaded.values()), "declared", source, format_, renderer, **labels)


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
    candidate = _read_candidate(config, [("the prompts", prompts or ())], TEXT)
    kept = [without(each.documents, [*(prompts or ()), *candidate]) for each in loaded]
    documents = sum(len(each.documents) for each in loaded)
    packer = _packer(config, config.block_size, tokenizer)
    wanted = config.self_prompts if prompts is None else 0
    if config.split == "paper":
        parts = split_paper(kept[0], kept[1] if len(kept) > 1 else None, packer, config.max_samples, wanted)
    else:
        parts = split_random(kept[0], packer, config.max_samples, wanted, config.seed)
    parts.count("documents_that_are_prompts_or_candidate", documents - sum(map(len, kept)))
    if prompts is not None:
        parts.prompts = packer.prompts(prompts)
        parts.held_out = held_out(prompts, packer, _held_out_records(config), config.seed)
    parts.candidate = _pack_candidate(candidate, packer, config)
    got = len(parts.members), len(parts.nonmembers), len(parts.prompts)
    if min(got[:2]) < MIN_RECORDS or not got[2]:
        raise SpvmiaError(
            f"{'mia_dataset_path' if config.dataset_path else 'mia_block_size'}: {name}: expected documents for at "
            f"least {MIN_RECORDS} members, {MIN_RECORDS} non-members and 1 prompt, got {documents} documents, enough "
            f"for {got[0]}, {got[1]} and {got[2]}; give more documents, or lower mia_block_size"
        )
    return _assembled_of_split(parts, config, loaded, "assumed", name, format_, None)


def _held_out_records(config: AuditConfig) -> int:
    """How many records of the prompts' documents are kept for candidates: each takes as many as self-prompts."""
    return config.self_prompts * config.references


def _packer(config: AuditConfig, block_size: int, tokenizer: Callable[[], Any]) -> Packer:
    tokenize = fast_tokenize(tokenizer()) if block_size else None
    return Packer(block_size, tokenize, sequential=config.split == "paper")


def _read_candidate(
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
    _check_held_out("mia_candidate", documents, others)
    return documents


def _prompts_of_others(prompts: Sequence[Owned], audited: set[str], parts: Parts, option: str) -> list[Owned]:
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


def _candidate_of_others(candidate: Sequence[Document], used: set[str], parts: Parts) -> Sequence[Document]:
    """The same for candidate data, which become records of no unit: nobody asks whose they are from here on."""
    if not candidate or not used:
        return candidate
    kept = without_units(candidate, used)
    parts.count("candidate_of_used_units", len(candidate) - len(kept))
    if not kept:
        raise SpvmiaError(
            f"mia_candidate: expected rows of units that are used for nothing else, got {len(candidate):,}, all of "
            "units that have rows among the members, non-members or prompts; give rows of others, or leave it out"
        )
    return [dataclasses.replace(document, unit=None) for document in kept]


def _pack_candidate(documents: Sequence[Document], packer: Packer, config: AuditConfig) -> Sequence[Document]:
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


def _check_classes_differ(members: Sequence[Record | Document], nonmembers: Sequence[Record | Document]) -> None:
    """Refuse data in which one text is said to be trained on and not; both its ids are named."""
    known = {text_key(item.text): item.id for item in members}
    for item in nonmembers:
        if text_key(item.text) in known:
            raise SpvmiaError(
                f"mia_nonmembers: {item.id} is the same text as {known[text_key(item.text)]} of the members, expected "
                "each text in one class: it was trained on, and called a non-member AUROC and every TPR come out too "
                "low; remove one of them"
            )


def _check_held_out(
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


def _assembled_of_manifest(
    manifest: Manifest,
    parts: Parts,
    config: AuditConfig,
    datasets: Mapping[str, DatasetSource],
    tokenizer: Callable[[], Any] | None,
    **more: object,
) -> AuditData:
    provenance: dict[str, object] = {
        "protocol": f"{_PROTOCOLS.get(manifest.written_by, manifest.trainer.get('class'))}, method {manifest.method}",
        "split": manifest.data.split,
        "split_seed": manifest.data.seed,
        "tokenizer": manifest.tokenizer,
        "frame": manifest.frame,
        "manifest": label(manifest.path or ""),
        "manifest_fingerprint": manifest.fingerprint,
        "finetune": {"method": manifest.method, **manifest.settings},
        "in_manifest": {name: len(records) for name, records in manifest.records.items()},
        **({"trainer": dict(manifest.trainer)} if manifest.sources else {}),
        **({"counts": dict(parts.counts)} if parts.counts else {}),
        **more,
    }
    key = bytes.fromhex(manifest.fingerprint_key).ljust(KEY_BYTES, b"\0")
    specs = [each.spec for each in manifest.sources.values()] or [manifest.data.spec]
    source, origin = " + ".join(dict.fromkeys(_short(spec, datasets) for spec in specs)), manifest.data
    format_ = Format(origin.format, origin.block_size, origin.loss_on, origin.record_tokens, origin.template)
    renderer = format_.renderer(tokenizer()) if origin.loss_on is not None and tokenizer is not None else None
    return _assembled(
        parts,
        config.seed,
        key,
        manifest.membership,
        source,
        format_,
        renderer,
        provenance,
        without_candidate=config.candidate == NO_CANDIDATE,
        base_model=manifest.base_model or None,
        unit_column=manifest.unit_column or config.unit_column,
        group_column=config.group_column,
    )


def _assembled_of_split(
    parts: Parts,
    config: AuditConfig,
    loaded: Sequence[Loaded],
    membership: Membership,
    source: str,
    format_: Format,
    renderer: Renderer | None,
    **more: object,
) -> AuditData:
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
    return _assembled(
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


def _assembled(
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
    """Shuffle the records with the seed, fingerprint all texts with the key, and render conversations.

    Blocks of different documents may be the same text (a heading, boilerplate) although no document is in both
    classes: nobody can take these out of the files, so they are left to the preconditions, which report them.

    Raises:
        SpvmiaError: a whole document of the members is one of the non-members as well; a template refuses a
            conversation, or no token of a class is scored.
    """
    if group_column is not None:
        check_groups([*parts.members, *parts.nonmembers], group_column)
    if not format_.block_size:
        _check_classes_differ(parts.members, parts.nonmembers)
    texts: dict[str, Sequence[Record | Document]] = {
        "member": parts.members,
        "nonmember": parts.nonmembers,
        "prompt": parts.prompts,
        "candidate": parts.candidate,
    }
    mark = fingerprint(key, ((name, _both_sides(item)) for name, items in texts.items() for item in items))
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


def _both_sides(item: Record | Document) -> str:
    """The text of a record or document, and of a preference what was rejected: other pairs are other data."""
    rejected = None if item.conversation is None else item.conversation.with_rejected()
    return item.text if rejected is None else f"{item.text}\0{rejected.words()}"
