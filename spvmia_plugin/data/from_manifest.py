"""The data of an audit whose target has a manifest: exactly its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spvmia_plugin.config import PREFIX, AuditConfig
from spvmia_plugin.data.audit_data import Gathered
from spvmia_plugin.data.fingerprint import KEY_BYTES
from spvmia_plugin.data.hub import PREFIX as HUB_PREFIX
from spvmia_plugin.data.hub import parse_hub_spec
from spvmia_plugin.data.manifest import MANIFEST_NAME, Entry, Manifest, Rebuilt, read_manifest, rebuild
from spvmia_plugin.data.packing import Block
from spvmia_plugin.data.sources import is_file_spec, source_name
from spvmia_plugin.data.split import MIN_RECORDS, shuffled
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData, Document
from spvmia_plugin.util.files import label, path_problem

CUSTOM = "custom"

EntryTexts = Sequence[tuple[Entry, str]]


def find_manifest(config: AuditConfig, target_dirs: Sequence[Path]) -> Manifest | None:
    """Read the manifest `mia_manifest` names, else the one in the first target folder that holds one.

    Raises:
        SpvmiaError: it is named and not there, or is no manifest.
    """
    if config.manifest is not None:
        return read_manifest(config.manifest)
    for folder in target_dirs:
        # What no folder can be called may still be a model's name: that it is none is for the harness to say.
        if path_problem(folder) is None and (path := folder.expanduser() / MANIFEST_NAME).is_file():
            return read_manifest(path)
    return None


def check_fits(manifest: Manifest, dataset: str, config: AuditConfig, datasets: Mapping[str, DatasetSource]) -> None:
    """Make sure a manifest's data are those of the task, and no option says otherwise.

    Raises:
        SpvmiaError: the target was trained on other data, or an option contradicts the manifest.
    """
    if dataset != CUSTOM and not _is_data_of(manifest, datasets[dataset]) and config.dataset_path is None:
        trained_on = _short(manifest.data.spec, datasets)
        raise SpvmiaError(
            f"mia_manifest: {manifest.path}: the target was fine-tuned on {trained_on}, expected {dataset}; run the "
            f"task on 'custom' data instead, or name the file with mia_dataset_path if it stands in for {dataset}"
        )
    files = ("members", "nonmembers", "prompts") if dataset == CUSTOM else ("prompts",)
    for name in files:
        if getattr(config, name) is not None:
            raise _contradiction(manifest, name, "names the records itself", getattr(config, name))
    told = {"split": manifest.data.split, "block_size": manifest.data.block_size, "text_column": manifest.data.column}
    for name, value in told.items():
        if name in config.given and getattr(config, name) != value:
            raise _contradiction(manifest, name, f"says {value!r}", getattr(config, name))


def _contradiction(manifest: Manifest, name: str, says: str, got: object) -> SpvmiaError:
    return SpvmiaError(
        f"{PREFIX}{name}: the manifest {manifest.path} {says}, got {got!r}; leave the option out to audit the "
        "records of the manifest"
    )


def _is_data_of(manifest: Manifest, source: DatasetSource) -> bool:
    spec = manifest.data.spec
    if spec.startswith(HUB_PREFIX):
        return parse_hub_spec(spec, option="mia_manifest").dataset == source.hub_id
    return spec == source.name


def _short(spec: str, datasets: Mapping[str, DatasetSource]) -> str:
    return source_name(spec) if is_file_spec(spec, datasets) else spec


def from_manifest(
    manifest: Manifest, config: AuditConfig, datasets: Mapping[str, DatasetSource]
) -> tuple[Gathered, Rebuilt]:
    """Rebuild the records of a manifest; `mia_max_samples` of each class, chosen with the seed.

    Raises:
        SpvmiaError: the data are not there or have changed, or there are too few records of a class.
    """
    for name in ("members", "nonmembers"):
        if len(manifest.records[name]) < MIN_RECORDS:
            raise SpvmiaError(
                f"mia_manifest: {manifest.path}: expected at least {MIN_RECORDS} {name}, got "
                f"{len(manifest.records[name])}; fine-tune again with a larger --{name}"
            )
    rebuilt = rebuild(manifest, datasets, config.dataset_path)
    members, nonmembers = (_chosen(rebuilt.texts[name], config) for name in ("members", "nonmembers"))
    return _gathered(manifest, members, nonmembers, rebuilt.texts["prompts"], datasets), rebuilt


def load_canaries(
    config: AuditConfig,
    *,
    datasets: Mapping[str, DatasetSource] | None = None,
    target_dirs: Sequence[Path] = (),
) -> AuditData:
    """The canaries of the target's manifest: records that an independent fair coin each put into training or not.

    Nothing else is audited with them, and all of them are: `mia_max_samples` does not apply. The provenance holds
    `canaries`: their number, how many are included, and the coin's probability.

    Args:
        config: `mia_manifest`, `mia_dataset_path`, `mia_seed` are read.
        datasets: named data sets by name; the built-in ones by default.
        target_dirs: folders of the target, where the manifest is looked for.

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
    texts = rebuild(manifest, known, config.dataset_path).texts
    included = [(entry, text) for entry, text in texts["canaries"] if entry.included]
    excluded = [(entry, text) for entry, text in texts["canaries"] if not entry.included]
    gathered = _gathered(manifest, included, excluded, texts["prompts"], known)
    numbers: dict[str, object] = {"number": len(texts["canaries"]), "included": len(included), "probability": 0.5}
    gathered.provenance["canaries"] = numbers
    return gathered.assemble(config.seed, manifest_key(manifest))


def builtin_datasets() -> dict[str, DatasetSource]:
    """The built-in data sets by name."""
    from spvmia_plugin.data import BUILTIN_DATASETS

    return {source.name: source for source in BUILTIN_DATASETS}


def manifest_key(manifest: Manifest) -> bytes:
    """The key for fingerprints of this manifest's data."""
    return bytes.fromhex(manifest.fingerprint_key).ljust(KEY_BYTES, b"\0")


def _gathered(
    manifest: Manifest,
    members: EntryTexts,
    nonmembers: EntryTexts,
    prompts: EntryTexts,
    datasets: Mapping[str, DatasetSource],
) -> Gathered:
    return Gathered(
        members=_blocks(members),
        nonmembers=_blocks(nonmembers),
        prompts=tuple(Document(entry.id, text) for entry, text in prompts),
        membership="manifest",
        source=_short(manifest.data.spec, datasets),
        block_size=manifest.data.block_size,
        base_model=manifest.base_model,
        provenance={
            "protocol": f"spvmia finetune, method {manifest.method}",
            "split": manifest.data.split,
            "split_seed": manifest.data.seed,
            "tokenizer": manifest.tokenizer,
            "frame": manifest.frame,
            "manifest": label(manifest.path or ""),
            "manifest_fingerprint": manifest.fingerprint,
            "finetune": {"method": manifest.method, **manifest.settings},
            "in_manifest": {name: len(entries) for name, entries in manifest.records.items()},
        },
    )


def _blocks(texts: EntryTexts) -> list[Block]:
    return [Block(entry.id, text, entry.cluster, entry.pieces) for entry, text in texts]


def _chosen(texts: EntryTexts, config: AuditConfig) -> EntryTexts:
    if len(texts) <= config.max_samples:
        return texts
    return shuffled(texts, config.seed, "max_samples")[: config.max_samples]
