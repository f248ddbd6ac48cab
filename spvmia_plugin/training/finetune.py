"""Makes a target by the paper's protocol, and writes down which records it was trained on."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import affordable
from spvmia_plugin.data.chat_templates import read_template
from spvmia_plugin.data.conversations import PREFERENCE, TEXT, Format, as_rendered
from spvmia_plugin.data.documents import describe
from spvmia_plugin.data.files import absolute_spec
from spvmia_plugin.data.fingerprint import derived_key, user_key
from spvmia_plugin.data.manifest import (
    CLASSES,
    MANIFEST_NAME,
    Manifest,
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.data.packing import fast_tokenize
from spvmia_plugin.data.rows_read import rows_read
from spvmia_plugin.data.sources import Loaded, is_file_spec, load_spec, source_name
from spvmia_plugin.data.split import MIN_RECORDS, Packer, deal
from spvmia_plugin.data.tokenisation import Reading, padding_id, probe_digest
from spvmia_plugin.data.units import NOBODY, Belonging, units_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document, LossOn, Record
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training.base_model import BaseModel, load_model, training_device
from spvmia_plugin.training.canaries import NATURAL, made_canaries, tossed
from spvmia_plugin.training.config import DEFAULT_BLOCK, FinetuneConfig
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.files import as_path, private_folder, user_cache
from spvmia_plugin.util.libraries import isolated_rng, no_loading_bars, quiet_libraries, versions

if TYPE_CHECKING:
    from spvmia_plugin.training.trainer import TrainSettings


UNFINISHED_NAME = "mia_manifest.unfinished.json"
"""The manifest while training: what a later start of the same run is recognised by."""

WORK_FOLDER = "training"

Say = Callable[[str], None]
Choose = Callable[[Sequence[Document]], Sequence[Document]]
"""Which of the documents of the data are dealt out."""


def finetune(
    config: FinetuneConfig,
    say: Say = print,
    datasets: Mapping[str, DatasetSource] | None = None,
    choose: Choose | None = None,
) -> Path:
    """Fine-tune a base on a seeded share of the data, and write weights and manifest to `config.output`.

    A run that was killed continues from its last checkpoint when it is started again with the same options.

    Args:
        config: what to do.
        say: called with a line for people at each step; never with the text of a record.
        datasets: data sets by name; the built-in ones by default.
        choose: which documents are dealt out, of those that can be trained on; all by default.

    Returns:
        The output folder (mode 0700): a LoRA adapter or a whole model, as safetensors, and `mia_manifest.json` (0600).

    Raises:
        SpvmiaError: bad or too few data, no such model, an output folder with other contents. The data are checked
            before the model is loaded.
    """
    loaded: list[Loaded] = []
    return behind(
        lambda: _finetune(config, (lambda line: None) if config.quiet else say, datasets, loaded, choose),
        doing="--data",
        texts=lambda: [(document.id, document.text) for one in loaded for document in one.documents],
    )


@dataclass(frozen=True)
class Pool:
    """What a fine-tuning deals from.

    Attributes:
        config: its options, the block size filled in.
        base: the model before it.
        format: what the rows are, and how they are rendered.
        loaded: the documents that can be trained on, conversations as the model reads them.
        without_loss: conversations that were left out because no token of them carries loss.
    """

    config: FinetuneConfig
    base: BaseModel
    format: Format
    loaded: Loaded
    without_loss: int

    @property
    def packer(self) -> Packer:
        """How documents become records."""
        size = self.format.block_size
        return Packer(size, fast_tokenize(self.base.tokenizer) if size else None)


def belonging_of(config: FinetuneConfig, datasets: Mapping[str, DatasetSource]) -> Belonging:
    """Which column of the data says whose a row is."""
    column = config.unit_column
    return NOBODY if column is None else Belonging(column, key=_key(config, datasets))


def read_pool(
    config: FinetuneConfig, tell: Say, datasets: Mapping[str, DatasetSource], keep: list[Loaded] | None = None
) -> Pool:
    """Read the data of a fine-tuning, and find its base.

    Args:
        config: its options.
        tell: called with a line that says what conversations were taken for.
        datasets: data sets by name.
        keep: gets what is read as soon as it is.

    Raises:
        SpvmiaError: bad data, no such model, options that do not go with the data.
    """
    text_given = config.text_column != FinetuneConfig.text_column
    loaded = load_spec(
        config.data,
        config.text_column,
        option="--data",
        datasets=datasets,
        format=config.format,
        text_given=text_given,
        belonging=belonging_of(config, datasets),
    )
    if keep is not None:
        keep.append(loaded)
    format_ = _format(config, loaded)
    config = replace(config, block_size=format_.block_size)
    if loaded.format != TEXT:
        tell(describe(loaded, source_name(config.data)))
    base = BaseModel.find(config)
    return Pool(config, base, *_rendered(config, format_, loaded, base))


def _finetune(
    config: FinetuneConfig,
    tell: Say,
    datasets: Mapping[str, DatasetSource] | None,
    keep: list[Loaded],
    choose: Choose | None,
) -> Path:
    """As `finetune`; what is read goes into `keep` as well."""
    output = as_path(config.output, "--output", utf8=True).absolute()
    _check_free(output)
    known = datasets if datasets is not None else load_registry().datasets
    pool = read_pool(config, tell, known, keep)
    config, base, format_ = pool.config, pool.base, pool.format
    if choose is not None:
        pool = replace(pool, loaded=replace(pool.loaded, documents=tuple(choose(pool.loaded.documents))))
    dealt, counts = _deal(pool)
    counts |= {"conversations without a token that carries loss": pool.without_loss}
    if config.canary_kind != NATURAL:
        tell(f"{config.canaries} {config.canary_kind} canaries are made")
        dealt["canaries"] = _made_before(config, output) or made_canaries(config, base, dealt["members"])
    dealt["canaries"] = tossed(dealt["canaries"], config.seed)
    manifest = _manifest(config, base, dealt, known, format_)
    _claim(output, manifest)
    trained = [record for name in ("members", "canaries") for record in dealt[name] if record.is_member]
    sequences = base.sequences(trained)
    masks = [record.rendered.counted for record in trained if record.rendered is not None] or None
    from spvmia_plugin.training.checkpoints import writing
    from spvmia_plugin.training.trainer import TrainSettings

    settings = TrainSettings(epochs=config.epochs, lr=config.lr, batch_size=config.batch_size, seed=config.seed)
    if base.slow is not None:
        tell(base.slow)
    tell(_plan(config, manifest, sequences, settings, counts))
    if (part := rows_read(settings.total_steps(len(sequences)) * config.batch_size, len(sequences))) is not None:
        tell(
            f"warning: in {config.epochs:g} epochs the training reads {part.in_words()}: members and canaries among "
            "the others will be none, and the audit will say so (--epochs 1 or more reads all)"
        )
    training = _train_and_save(config, base, sequences, masks, settings, output, tell)
    with writing(output):
        write_manifest(replace(manifest, training=training), output / MANIFEST_NAME)
        shutil.rmtree(output / WORK_FOLDER)  # not before: where the manifest found no room, the next start needs it
        (output / UNFINISHED_NAME).unlink()
    tell(f"target and {MANIFEST_NAME} (private: it names the training records) written to {output}; audit it with:")
    tell(audit_command(base, output, config))
    return output


def audit_command(base: BaseModel, output: Path, config: FinetuneConfig) -> str:
    """The `lm_eval` command that audits a target; the manifest is found in its folder."""
    model = f"pretrained={base.name},peft={output}" if config.method == "lora" else f"pretrained={output}"
    if base.audited_in is not None:
        model += f",dtype={base.audited_in}"
    if config.trust_remote_code:
        model += ",trust_remote_code=True"
    tasks = "mia_custom,canary_audit_custom" if config.canaries else "mia_custom"
    spent = affordable(config.members, on_cpu=training_device().type == "cpu")
    options = f"--tasks {tasks} --metadata {spent} --batch_size auto --output_path results --log_samples"
    return f"lm_eval --model hf --model_args {shlex.quote(model)} {options}"


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
            differing = _differing(started, manifest) or _what_else_differs(started)
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


def _made_before(config: FinetuneConfig, output: Path) -> tuple[Record, ...]:
    """The canaries that an earlier start of the same run wrote; on another machine the base may write others."""
    path = output / UNFINISHED_NAME
    started = read_manifest(path, option="--output") if path.is_file() else None
    same = started is not None and started.settings == config.settings()
    return started.records["canaries"] if started is not None and same else ()


def _identity(manifest: Manifest) -> str:
    return json.dumps({**manifest.to_json(), "versions": None}, sort_keys=True)


def _differing(one: Manifest, other: Manifest) -> str:
    """Names of the options in which two runs differ."""
    pairs = [
        {
            **m.settings,
            "model": m.base_model,
            "data": m.data.spec,
            **{name: getattr(m.data, name) for name in ("format", "loss_on", "record_tokens")},
            "chat_template": m.data.template,
        }
        for m in (one, other)
    ]
    return ", ".join(f"--{name.replace('_', '-')}" for name in pairs[1] if pairs[0].get(name) != pairs[1][name])


def _what_else_differs(started: Manifest) -> str:
    """What sets a run apart from one that has the same options."""
    if started.by_words:
        return "the version that began it, which did not keep roles and tools of conversations"
    return "the data"


def _format(config: FinetuneConfig, loaded: Loaded) -> Format:
    """What the rows are, and what the options make of them.

    Raises:
        SpvmiaError: an option that has no meaning for such rows; a template that cannot be read.
    """
    if loaded.format == PREFERENCE:
        raise SpvmiaError(
            f"--data: expected texts or conversations, which 'spvmia finetune' trains on one by one, got preferences "
            f"(chosen and rejected) in {config.data}; train with TRL's DPOTrainer, and name its files with mia_members "
            "and mia_nonmembers, or have the callback spvmia_plugin.MembershipManifest write the manifest"
        )
    if loaded.format == TEXT:
        if config.loss_on == "completion" or config.chat_template is not None:
            name = "loss-on" if config.loss_on == "completion" else "chat-template"
            raise SpvmiaError(
                f"--{name}: expected conversations, or prompts with answers, got rows of plain text in {config.data}; "
                "leave it out, or name the kind of rows with --format"
            )
        return Format(TEXT, DEFAULT_BLOCK if config.block_size is None else config.block_size)
    if config.block_size:
        raise SpvmiaError(
            f"--block-size: expected 0 for conversations, which are trained on whole, got {config.block_size}; "
            "leave it out (--record-tokens says where they are cut), or set --format to text"
        )
    if config.canary_kind != NATURAL:
        raise SpvmiaError(
            f"--canary-kind: expected {NATURAL} for conversations, got {config.canary_kind}; leave it out"
        )
    template = None if config.chat_template is None else read_template(config.chat_template, option="--chat-template")
    loss_on: LossOn = "all" if config.loss_on == "all" else "completion"
    return Format(loaded.format, 0, loss_on, config.record_tokens, template)


def _rendered(config: FinetuneConfig, format_: Format, loaded: Loaded, base: BaseModel) -> tuple[Format, Loaded, int]:
    """Conversations as the model reads them, without those that leave nothing to learn, which are counted.

    Raises:
        SpvmiaError: a conversation that the template refuses, or none that leaves something.
    """
    if format_.record_tokens is None:
        return format_, loaded, 0
    context = base.context or format_.record_tokens
    if format_.record_tokens > context and config.record_tokens != FinetuneConfig.record_tokens:
        raise SpvmiaError(
            f"--record-tokens: expected at most the {context} tokens of the model's context, got "
            f"{config.record_tokens}; lower it"
        )
    format_ = replace(format_, record_tokens=min(format_.record_tokens, context))
    documents = as_rendered(loaded.documents, format_.renderer(base.tokenizer))
    kept = tuple(each for each in documents if each.rendered is not None and each.rendered.reason is None)
    if not kept:
        raise SpvmiaError(
            f"--loss-on: {config.data}: expected conversations with a token that carries loss, got {len(documents)} "
            f"without ({next(each.rendered.reason for each in documents if each.rendered is not None)}); raise "
            "--record-tokens, set --loss-on all, or name another --chat-template"
        )
    return format_, replace(loaded, documents=kept), len(documents) - len(kept)


def _deal(pool: Pool) -> tuple[dict[str, tuple[Record, ...]], dict[str, int]]:
    """Choose the records of each class; canaries that are not of the data are none of them.

    Raises:
        SpvmiaError: too few documents for them.
    """
    config, loaded = pool.config, pool.loaded
    prompts = config.members if config.prompts is None else config.prompts
    wanted = {
        "members": config.members,
        "nonmembers": config.nonmembers,
        "canaries": config.canaries if config.canary_kind == NATURAL else 0,
        "prompts": prompts,
    }
    dealt, counts = deal(loaded.documents, pool.packer, wanted, config.seed)
    least = wanted | {"prompts": min(MIN_RECORDS, prompts) if config.prompts is None else prompts}
    for name, number in least.items():
        if len(dealt[name]) < number:
            unit = f"records of {config.block_size} tokens" if config.block_size else "documents"
            total = sum(map(len, dealt.values()))
            raise SpvmiaError(
                f"--{name}: {config.data}: expected text for {sum(least.values())} {unit} in all, got {total} from "
                f"{len(loaded.documents)} documents; lower --members, --nonmembers, --prompts"
                f"{', --canaries' if wanted['canaries'] else ''} or --block-size, or give more documents"
            )
    return dealt, counts | {"empty_rows": loaded.empty_rows}


def _manifest(
    config: FinetuneConfig,
    base: BaseModel,
    dealt: Mapping[str, tuple[Record, ...]],
    datasets: Mapping[str, DatasetSource],
    format_: Format,
) -> Manifest:
    reading = Reading(base.tokenizer)
    frame = reading.frame("") if format_.name == TEXT else None  # conversations begin as their template says
    spec, column = _origin(config, datasets)
    key = _key(config, datasets).hex()
    records = {name: dealt[name] for name in CLASSES}
    return Manifest(
        base_model=base.name,
        method=config.method,
        data=DataOrigin(
            spec,
            column,
            format_.block_size,
            "random",
            config.seed,
            format_.name,
            format_.loss_on,
            format_.record_tokens,
            format_.template,
        ),
        settings=config.settings(),
        versions=versions(),
        records=records,
        fingerprint_key=key,
        fingerprint=manifest_fingerprint(key, records),
        tokenizer=probe_digest(reading.body),
        frame=None if frame is None else {"before": list(frame.context), "after": list(frame.after)},
    )


def _key(config: FinetuneConfig, datasets: Mapping[str, DatasetSource]) -> bytes:
    """Of the manifest's fingerprint and of the names of units.

    The same data have the same key, and so the same fingerprint, in every target of one user.
    """
    spec, column = _origin(config, datasets)
    return derived_key(user_key(user_cache()), f"manifest {spec} {column}")


def _origin(config: FinetuneConfig, datasets: Mapping[str, DatasetSource]) -> tuple[str, str]:
    """Where the texts are, the same from any folder, and in which column."""
    spec = absolute_spec(config.data) if is_file_spec(config.data, datasets) else config.data
    source = datasets.get(config.data)
    return spec, source.text_column if source else config.text_column


def _plan(
    config: FinetuneConfig,
    manifest: Manifest,
    sequences: Sequence[Sequence[int]],
    settings: TrainSettings,
    counts: Mapping[str, int],
) -> str:
    numbers = {name: len(entries) for name, entries in manifest.records.items()}
    units = ""
    if config.unit_column is not None:
        of = {name: len(units_of(manifest.records[name])) for name in ("members", "nonmembers")}
        units = f" of {of['members']} and {of['nonmembers']} units"
    kind = "" if config.canary_kind == NATURAL else f"{config.canary_kind} "
    canaries = f", {numbers['canaries']} {kind}canaries" if numbers["canaries"] else ""
    tokens = sum(map(len, sequences))
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    return (
        f"plan: {numbers['members']} members, {numbers['nonmembers']} non-members{units}, {numbers['prompts']} prompts"
        f"{canaries}; {config.method} training on {len(sequences)} records ({tokens:,} tokens), {config.epochs:g} "
        f"epochs, {settings.total_steps(len(sequences))} steps" + (f"; left out: {left_out}" if left_out else "")
    )


def _train_and_save(
    config: FinetuneConfig,
    base: BaseModel,
    sequences: Sequence[Sequence[int]],
    masks: Sequence[Sequence[bool]] | None,
    settings: TrainSettings,
    output: Path,
    tell: Say,
) -> dict[str, object]:
    from spvmia_plugin.training.checkpoints import writing
    from spvmia_plugin.training.trainer import train

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
            counted=masks,
        )
        with writing(output):
            model.save_pretrained(output)
            if config.method == "full":
                base.tokenizer.save_pretrained(output)
    return record


def estimate(model: Any, sequences: Sequence[Sequence[int]], settings: TrainSettings) -> str:
    """Time one step, after one to warm up, and multiply. Nothing is learned from them.

    Raises:
        SpvmiaError: a step does not fit into memory.
    """
    import torch

    from spvmia_plugin.training.memory import InMemory

    def step() -> None:
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        loss.item()  # waits for the device

    in_memory, was_training = InMemory(model), model.training
    model.train()  # activations are computed anew in this mode alone
    longest = max(sequences, key=lambda ids: len(ids))
    batch = torch.tensor([list(longest)] * settings.batch_size, device=model.device)
    in_memory.foresee(batch.shape)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        in_memory.run(step, batch.shape)
        seconds = time.perf_counter() - started
    in_memory.restore()
    model.train(was_training)
    model.zero_grad(set_to_none=True)
    share = sum(map(len, sequences)) / (len(sequences) * batch.shape[1])
    total = seconds * share * settings.total_steps(len(sequences))
    shown = f"{total / 60:.1f} minutes" if total >= 60 else f"{max(1, total):.0f} s"
    return f"estimate: {shown} of training on {model.device}"
