"""Makes a target by the paper's protocol, and writes down which records it was trained on."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spvmia_plugin.data.files import Loaded
from spvmia_plugin.data.fingerprint import derived_key, user_cache_root, user_key
from spvmia_plugin.data.manifest import (
    MANIFEST_NAME,
    DataOrigin,
    Entry,
    Manifest,
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from spvmia_plugin.data.packing import Block, fast_tokenize
from spvmia_plugin.data.shards import absolute_spec
from spvmia_plugin.data.sources import is_file_spec, load_spec
from spvmia_plugin.data.split import MIN_RECORDS, Packer, deal
from spvmia_plugin.data.tokenisation import Reading, padding_id, probe_digest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.base_model import BaseModel, estimate, load_model, no_loading_bars
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training.finetune_config import FinetuneConfig
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.files import as_path, private_folder

if TYPE_CHECKING:
    from spvmia_plugin.training.trainer import TrainSettings

__all__ = ["FinetuneConfig", "audit_command", "finetune"]

UNFINISHED_NAME = "mia_manifest.unfinished.json"
"""The manifest while training: what a later start of the same run is recognised by."""

WORK_FOLDER = "training"

Say = Callable[[str], None]


def finetune(config: FinetuneConfig, say: Say = print, datasets: Mapping[str, DatasetSource] | None = None) -> Path:
    """Fine-tune a base on a seeded share of the data, and write weights and manifest to `config.output`.

    A run that was killed continues from its last checkpoint when it is started again with the same options.

    Args:
        config: what to do.
        say: called with a line for people at each step; never with the text of a record.
        datasets: data sets by name; the built-in ones by default.

    Returns:
        The output folder (mode 0700): a LoRA adapter or a whole model, as safetensors, and `mia_manifest.json` (0600).

    Raises:
        SpvmiaError: bad or too few data, no such model, an output folder with other contents. The data are checked
            before the model is loaded.
    """
    loaded: list[Loaded] = []
    return behind(
        lambda: _finetune(config, _silence if config.quiet else say, datasets, loaded),
        doing="--data",
        texts=lambda: [(document.id, document.text) for one in loaded for document in one.documents],
    )


def _finetune(
    config: FinetuneConfig, tell: Say, datasets: Mapping[str, DatasetSource] | None, keep: list[Loaded]
) -> Path:
    """As `finetune`; what is read goes into `keep` as well."""
    output = as_path(config.output, "--output", utf8=True).absolute()
    _check_free(output)
    known = datasets if datasets is not None else _registered_datasets()
    loaded = load_spec(config.data, config.text_column, option="--data", datasets=known)
    keep.append(loaded)
    base = BaseModel.find(config)
    dealt, counts = _deal(config, loaded, base)
    manifest = _manifest(config, base, dealt, known)
    _claim(output, manifest)
    sequences = base.sequences(_trained_on(manifest, dealt))
    settings = _train_settings(config)
    tell(_plan(config, manifest, sequences, settings, counts))
    training = _train_and_save(config, base, sequences, settings, output, tell)
    from spvmia_plugin.training.checkpoints import writing

    with writing(output):
        write_manifest(replace(manifest, training=training), output / MANIFEST_NAME)
        shutil.rmtree(output / WORK_FOLDER)  # not before: where the manifest found no room, the next start needs it
        (output / UNFINISHED_NAME).unlink()
    tell(f"target and {MANIFEST_NAME} (private: it names the training records) written to {output}; audit it with:")
    tell(audit_command(base.name, output, config))
    return output


def audit_command(base: str, output: Path, config: FinetuneConfig) -> str:
    """The `lm_eval` command that audits a target; the manifest is found in its folder.

    The preset needs no second model from the hub, which the paper's paraphrases do.
    """
    model = f"pretrained={base},peft={output}" if config.method == "lora" else f"pretrained={output}"
    if config.trust_remote_code:
        model += ",trust_remote_code=True"
    tasks = "mia_custom,canary_audit_custom" if config.canaries else "mia_custom"
    options = f"--tasks {tasks} --metadata mia_preset=standard --batch_size auto --output_path results --log_samples"
    return f"lm_eval --model hf --model_args {shlex.quote(model)} {options}"


def _silence(_: str) -> None:
    pass


def _registered_datasets() -> Mapping[str, DatasetSource]:
    from spvmia_plugin.plugins import load_registry

    return load_registry().datasets


def _check_free(output: Path) -> None:
    """Refuse a folder with anything in it but a run to continue."""
    if output.exists() and not output.is_dir():
        raise SpvmiaError(f"--output: expected a folder, got the file {output}; name another")
    if output.is_dir() and any(output.iterdir()) and not (output / UNFINISHED_NAME).is_file():
        kind = "a finished run" if (output / MANIFEST_NAME).is_file() else "other files"
        raise SpvmiaError(
            f"--output: expected an empty or new folder, or an unfinished run of the same settings, got {kind} in "
            f"{output}; name another folder"
        )


def _claim(output: Path, manifest: Manifest) -> None:
    """Make the folder and write the unfinished manifest, or recognise an earlier start of this very run."""
    path = output / UNFINISHED_NAME
    if path.is_file():
        started = read_manifest(path, option="--output")
        if _identity(started) != _identity(manifest):
            differing = _differing(started, manifest) or "the data"
            raise SpvmiaError(
                f"--output: expected an unfinished run of the same settings, got one in {output} that differs in "
                f"{differing}; name another folder, or remove this one"
            )
        return
    try:
        private_folder(output)
        write_manifest(manifest, path)
    except OSError as error:
        raise SpvmiaError(
            f"--output: expected a folder that can be written, got {output} ({error.strerror}); name another"
        ) from error


def _identity(manifest: Manifest) -> str:
    return json.dumps({**manifest.to_json(), "versions": None}, sort_keys=True)


def _differing(one: Manifest, other: Manifest) -> str:
    """Names of the options in which two runs differ."""
    pairs = [dict(m.settings, model=m.base_model, data=m.data.spec) for m in (one, other)]
    return ", ".join(f"--{name.replace('_', '-')}" for name in pairs[1] if pairs[0].get(name) != pairs[1][name])


def _deal(
    config: FinetuneConfig, loaded: Loaded, base: BaseModel
) -> tuple[dict[str, tuple[Block, ...]], dict[str, int]]:
    """Choose the records of each class.

    Raises:
        SpvmiaError: too few documents for them.
    """
    packer = Packer(config.block_size, fast_tokenize(base.tokenizer) if config.block_size else None)
    prompts = config.members if config.prompts is None else config.prompts
    wanted = {
        "members": config.members,
        "nonmembers": config.nonmembers,
        "canaries": config.canaries,
        "prompts": prompts,
    }
    dealt, parts = deal(loaded.documents, packer, wanted, config.seed)
    least = wanted | {"prompts": min(MIN_RECORDS, prompts) if config.prompts is None else prompts}
    for name, number in least.items():
        if len(dealt[name]) < number:
            unit = f"records of {config.block_size} tokens" if config.block_size else "documents"
            total = sum(map(len, dealt.values()))
            raise SpvmiaError(
                f"--{name}: {config.data}: expected text for {sum(least.values())} {unit} in all, got {total} from "
                f"{len(loaded.documents)} documents; lower --members, --nonmembers, --prompts or --block-size, or give "
                "more documents"
            )
    return dealt, parts.counts | {"empty_rows": loaded.empty_rows}


def _manifest(
    config: FinetuneConfig,
    base: BaseModel,
    dealt: Mapping[str, Sequence[Block]],
    datasets: Mapping[str, DatasetSource],
) -> Manifest:
    from spvmia_plugin.util.libraries import versions

    reading = Reading(base.tokenizer)
    frame = reading.frame("")
    is_file = is_file_spec(config.data, datasets)
    spec = absolute_spec(config.data) if is_file else config.data
    source = datasets.get(config.data)
    column = source.text_column if source else config.text_column
    entries = {name: tuple(Entry.of(block) for block in dealt[name]) for name in ("members", "nonmembers", "prompts")}
    entries["canaries"] = tuple(Entry.of(block, coin) for block, coin in _coins(dealt["canaries"], config.seed))
    # The same data have the same key, and so the same fingerprint, in every target of one user.
    key = derived_key(user_key(user_cache_root(None)), f"manifest {spec} {column}").hex()
    texts = {
        name: [(entry, block.text) for entry, block in zip(entries[name], dealt[name], strict=True)] for name in entries
    }
    return Manifest(
        base_model=base.name,
        method=config.method,
        data=DataOrigin(spec, column, config.block_size, "random", config.seed),
        settings=config.settings(),
        versions=versions(),
        records=entries,
        fingerprint_key=key,
        fingerprint=manifest_fingerprint(key, texts),
        tokenizer=probe_digest(reading.body),
        frame={"before": list(frame.context), "after": list(frame.after)},
    )


def _coins(blocks: Sequence[Block], seed: int) -> Iterator[tuple[Block, bool]]:
    """A fair coin for each canary, independent of the others and of the split."""
    generator = random.Random(stable_seed(seed, "canary coins"))  # noqa: S311 - reproducible by the owner's seed
    for block in blocks:
        yield block, bool(generator.getrandbits(1))


def _trained_on(manifest: Manifest, dealt: Mapping[str, Sequence[Block]]) -> list[Block]:
    """The members, and the canaries whose coin says so."""
    coins = zip(manifest.records["canaries"], dealt["canaries"], strict=True)
    return [*dealt["members"], *(block for entry, block in coins if entry.included)]


def _train_settings(config: FinetuneConfig) -> TrainSettings:
    from spvmia_plugin.training.trainer import TrainSettings

    return TrainSettings(epochs=config.epochs, lr=config.lr, batch_size=config.batch_size, seed=config.seed)


def _plan(
    config: FinetuneConfig,
    manifest: Manifest,
    sequences: Sequence[Sequence[int]],
    settings: TrainSettings,
    counts: Mapping[str, int],
) -> str:
    numbers = {name: len(entries) for name, entries in manifest.records.items()}
    canaries = f", {numbers['canaries']} canaries" if numbers["canaries"] else ""
    tokens = sum(map(len, sequences))
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    return (
        f"plan: {numbers['members']} members, {numbers['nonmembers']} non-members, {numbers['prompts']} prompts"
        f"{canaries}; {config.method} training on {len(sequences)} records ({tokens:,} tokens), {config.epochs:g} "
        f"epochs, {settings.total_steps(len(sequences))} steps" + (f"; left out: {left_out}" if left_out else "")
    )


def _train_and_save(
    config: FinetuneConfig,
    base: BaseModel,
    sequences: Sequence[Sequence[int]],
    settings: TrainSettings,
    output: Path,
    tell: Say,
) -> dict[str, object]:
    from spvmia_plugin.training.checkpoints import writing
    from spvmia_plugin.training.trainer import train
    from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

    with isolated_rng(stable_seed(config.seed, "target")), quiet_libraries(), no_loading_bars():
        model = load_model(config, base)
        tell(estimate(model, sequences, settings))
        with writing(output):
            work = private_folder(output / WORK_FOLDER)
        record = train(
            model,
            sequences,
            settings,
            work,
            pad_token_id=padding_id(base.tokenizer, model),
            description="fine-tuning the target",
        )
        with writing(output):
            model.save_pretrained(output)
            if config.method == "full":
                base.tokenizer.save_pretrained(output)
    return record
