"""The records that a manifest names: where it is found, whether it is the target's, what it makes of its sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spvmia_plugin.config import NO_CANDIDATE, PREFIX, AuditConfig
from spvmia_plugin.data.apart import candidate_of_others, pack_candidate, prompts_of_others, read_candidate
from spvmia_plugin.data.assembly import assembled, held_out_records, packer_of
from spvmia_plugin.data.chat_templates import read_template
from spvmia_plugin.data.conversations import TEXT, Format, check_options
from spvmia_plugin.data.fingerprint import KEY_BYTES
from spvmia_plugin.data.manifest import CANDIDATE, MANIFEST_NAME, Manifest, read_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import PREFIX as HUB_PREFIX
from spvmia_plugin.data.sources import is_file_spec, parse_hub_spec, source_name
from spvmia_plugin.data.split import MIN_RECORDS, Parts, as_documents, in_units
from spvmia_plugin.data.units import Belonging, check_apart, units_of
from spvmia_plugin.data.weights import BELOW, check_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData, Conversation, Record
from spvmia_plugin.util.files import label, path_problem

CUSTOM = "custom"

_PROTOCOLS = {"finetune": "spvmia finetune", "command": "spvmia manifest"}


def find_manifest(config: AuditConfig, target_dirs: Sequence[Path]) -> Manifest | None:
    """The manifest that `mia_manifest` names, else the one in the first target folder that holds one."""
    if config.manifest is not None:
        return read_manifest(config.manifest)
    for folder in target_dirs:
        # What no folder can be called may still be a model's name: that it is none is for the harness to say.
        if path_problem(folder) is None and (path := folder.expanduser() / MANIFEST_NAME).is_file():
            return read_manifest(path)
    return None


def check_beside(manifest: Manifest, target_dirs: Sequence[Path], *, named: bool) -> dict[str, object]:
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


def check_fits(manifest: Manifest, dataset: str, config: AuditConfig, datasets: Mapping[str, DatasetSource]) -> None:
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


def of_manifest(
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
        records["prompts"] = prompts_of_others(records["prompts"], units, parts, f"mia_manifest: {manifest.path}")
    for name in ("members", "nonmembers"):
        if len(records[name]) > config.max_samples:
            records[name] = in_units(records[name], config.seed, "max_samples")[: config.max_samples]
    parts.members, parts.nonmembers = records["members"], records["nonmembers"]
    parts.prompts = as_documents(records["prompts"])
    audited = [(f"the {name}", of_class) for name, of_class in documents.items()]
    # Older manifests of trainers know whose rows are, hashed, and not what the column is called.
    of_candidate = manifest.named_unit_column if manifest.sources else column
    belonging = dataclasses.replace(belonging, unit=of_candidate, group=None)
    candidate = read_candidate(config, audited, manifest.data.format, belonging)
    own: Sequence[Record] = records.get(CANDIDATE, ()) if config.candidate is None else ()
    if column is not None:
        used = units_of(record for name, of_class in records.items() if name != CANDIDATE for record in of_class)
        candidate = candidate_of_others(candidate, used, parts)
        own = candidate_of_others(own, used, parts, f"mia_manifest: {manifest.path}")
    if candidate:
        parts.candidate = pack_candidate(candidate, packer_of(config, manifest.data.block_size, tokenizer), config)
    else:
        parts.candidate = as_documents(own)
    if manifest.data.end_token:
        parts.candidate = [
            each if each.conversation else dataclasses.replace(each, conversation=Conversation.of_text(each.text))
            for each in parts.candidate
        ]
    parts.held_out = parts.prompts[: held_out_records(config)]  # cut like the records, when they were dealt out
    return assembled_of_manifest(manifest, parts, config, datasets, tokenizer, **more)


def assembled_of_manifest(
    manifest: Manifest,
    parts: Parts,
    config: AuditConfig,
    datasets: Mapping[str, DatasetSource],
    tokenizer: Callable[[], Any] | None,
    **more: object,
) -> AuditData:
    """The data of a manifest, with what it says of the training; see `assembled`."""
    part = manifest.partly_read
    provenance: dict[str, object] = {
        "protocol": f"{_PROTOCOLS.get(manifest.written_by, manifest.trainer.get('class'))}, method {manifest.method}",
        "split": manifest.data.split,
        "split_seed": manifest.data.seed,
        "tokenizer": manifest.tokenizer,
        "frame": manifest.frame,
        "manifest": label(manifest.path or ""),
        "manifest_fingerprint": manifest.fingerprint,
        "finetune": {"method": manifest.method, **_made(manifest)},
        "in_manifest": {name: len(records) for name, records in manifest.records.items()},
        **({} if manifest.not_held is None else {"not_in_manifest": manifest.not_held}),
        **({"trainer": dict(manifest.trainer)} if manifest.sources else {}),
        **({} if part is None else {"rows_read": part.to_json()}),
        **({"counts": dict(parts.counts)} if parts.counts else {}),
        **more,
    }
    key = bytes.fromhex(manifest.fingerprint_key).ljust(KEY_BYTES, b"\0")
    specs = [each.spec for each in manifest.sources.values()] or [manifest.data.spec]
    source, origin = " + ".join(dict.fromkeys(_short(spec, datasets) for spec in specs)), manifest.data
    format_ = Format(origin.format, origin.block_size, origin.loss_on, origin.record_tokens, origin.template)
    renderer = format_.renderer(tokenizer()) if origin.loss_on is not None and tokenizer is not None else None
    return assembled(
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


def _made(manifest: Manifest) -> dict[str, object]:
    """The settings of the training, with the passes that were made in place of those that were planned."""
    told = dict(manifest.settings)
    return told if not manifest.sources or manifest.epochs is None else {**told, "epochs": round(manifest.epochs, 3)}


def _short(spec: str, datasets: Mapping[str, DatasetSource]) -> str:
    return source_name(spec) if is_file_spec(spec, datasets) else spec
