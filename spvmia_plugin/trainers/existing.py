"""`spvmia manifest`: the same file for a model that is already there, from what somebody says of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spvmia_plugin.config import MAX_TOKENS, MAX_WHOLE, Format
from spvmia_plugin.data.chat_templates import read_template
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from spvmia_plugin.data.split import MIN_RECORDS
from spvmia_plugin.data.weights import weights_of
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.records import LossOn
from spvmia_plugin.trainers.building import Rendering, Written, build_manifest, digest_of
from spvmia_plugin.trainers.declared import AUDITED, CLASSES, Declared, Reading, check_format, read_declared
from spvmia_plugin.trainers.facts import packed, versions
from spvmia_plugin.trainers.places import own_key, private
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.files import as_path
from spvmia_plugin.util.strict_json import any_loads, is_whole

ADAPTER_CONFIG = "adapter_config.json"
_BASE = "base_model_name_or_path"
LOSSES = ("auto", "all", "completion")
DEFAULT_BLOCK, DEFAULT_TOKENS = 128, 1024


@dataclass(frozen=True)
class ManifestConfig:
    """The options of `spvmia manifest`.

    Attributes:
        model: folder of the weights: an adapter, or a whole model.
        members, nonmembers, prompts, candidate: files, folders, patterns or `hf:NAME`.
        format: what rows are.
        loss_on: which tokens of conversations carried loss; `auto` is the answers.
        chat_template: a Jinja file in place of the tokenizer's own template.
        record_tokens: the trainer's max_length.
        block_size: tokens per record of plain text; None for 128, or 0 with an end token.
        end_token: whether plain texts were trained on whole, with the tokenizer's end token after each, as TRL does.
        packing: how rows shared sequences: none, bfd, bfd_split, wrapped, multipack, or another word.
        text_column: the column with plain text.
        unit_column: the column that says whom a record belongs to.
        base_model: the model before the training; else what the adapter names.
        seed: of the share of non-members that become prompts.
        trust_remote_code: run the code that the model brings.
    """

    model: str | Path
    members: str
    nonmembers: str
    prompts: str | None = None
    candidate: str | None = None
    format: Format = "auto"
    loss_on: str = "auto"
    chat_template: str | None = None
    record_tokens: int = DEFAULT_TOKENS
    block_size: int | None = None
    end_token: bool = False
    packing: str | None = None
    text_column: str = "text"
    unit_column: str | None = None
    base_model: str | None = None
    seed: int = 0
    trust_remote_code: bool = False


def write_for(config: ManifestConfig, say: Callable[[str], None]) -> Path:
    """Write the manifest of a model that is already there; returns its path.

    Args:
        config: what is said of it.
        say: called with a line for people.

    Raises:
        SpvmiaError: no such weights, a manifest that the training itself wrote, or as `read_declared`; a tokenizer or
            another library fails, without what it says of a record.
    """
    kept: list[Declared] = []
    return behind(
        lambda: _write_for(config, say, kept),
        doing="--members",
        texts=lambda: [pair for declared in kept for pair in declared.texts()],
    )


def _write_for(config: ManifestConfig, say: Callable[[str], None], keep: list[Declared]) -> Path:
    """As `write_for`; what is read goes into `keep` as well."""
    folder = as_path(config.model, "--model", utf8=True).absolute()
    path = folder / MANIFEST_NAME
    _check(config, folder, path)
    adapter = _adapter(folder)
    base = _base(config, adapter or {})
    key = own_key(None)
    reading = Reading(
        config.text_column,
        config.format,
        config.unit_column,
        config.text_column != ManifestConfig.text_column,
        private(None) / "rows",
        key,
        option="--{}",
    )
    declared = read_declared({name: getattr(config, name) for name in CLASSES}, reading, config.seed)
    keep.append(declared)
    rendering = _rendering(config, declared)
    packing = config.packing
    notes = [] if packing in (None, "none") else [packed(str(packing))]
    written = Written(
        written_by="command",
        base_model=base,
        method="full" if adapter is None else str(adapter.get("peft_type", "adapter")).lower(),
        settings={},
        versions=versions(),
        trainer={
            "packing": packing,
            "notes": notes,
            "template": digest_of(rendering.template),
            **reading.told_of_units,
        },
        seed=config.seed,
    )
    manifest = build_manifest(declared, rendering, written, _tokenizer(config, folder, base), key)
    _check_numbers(manifest, declared)
    try:
        write_manifest(replace(manifest, weights=weights_of(folder)), path)
    except (OSError, ValueError) as error:
        raise SpvmiaError(
            f"--model: expected a folder with whole weights that can be written, got {folder} ({reason_of(error)})"
        ) from error
    numbers = ", ".join(f"{len(manifest.records[name])} {name}" for name in declared.sides)
    scored = "" if manifest.data.format == "text" else f", loss on {manifest.data.loss_on}"
    say(f"{numbers} ({manifest.data.format}{scored}) written to {path} (private: it names the training records)")
    return path


def _check(config: ManifestConfig, folder: Path, path: Path) -> None:
    check_format(config.format, "--format")
    if config.loss_on not in LOSSES:
        raise SpvmiaError(f"--loss-on: expected one of {', '.join(LOSSES)}, got {config.loss_on!r}; correct it")
    wanted = (
        ("--record-tokens", config.record_tokens, 2, MAX_TOKENS, ""),
        ("--block-size", config.block_size or 8, 8, MAX_TOKENS, "0 or "),
        ("--seed", config.seed, 0, MAX_WHOLE, ""),
    )
    for option, value, low, high, other in wanted:
        if not is_whole(value) or not low <= value <= high:
            raise SpvmiaError(
                f"{option}: expected {other}a whole number >= {low} and <= {high}, got {value!r}; correct it"
            )
    if config.end_token and config.block_size:
        raise SpvmiaError(
            f"--end-token: expected whole texts, got --block-size {config.block_size} beside it; leave one of them out"
        )
    if not folder.is_dir():
        raise SpvmiaError(
            f"--model: expected the folder of a trained model or adapter, got {config.model}; check the path"
        )
    if path.exists() and read_manifest(path, option="--model").written_by != "command":
        raise SpvmiaError(
            f"--model: {folder}: expected no manifest, or one that this command wrote, got one that the training "
            f"itself wrote, which knows better; remove {path} to replace it"
        )


def _check_numbers(manifest: Manifest, declared: Declared) -> None:
    """Rows are enough when they are read; blocks that are longer than all of a class together leave none of them."""
    for name in AUDITED:
        found = len(manifest.records[name])
        if found < MIN_RECORDS:
            raise SpvmiaError(
                f"--block-size: expected at least {MIN_RECORDS} blocks of {manifest.data.block_size} tokens of the "
                f"{name}, got {found} from {len(declared.sides[name].documents)} rows; give a smaller one, 0 for whole "
                "rows, or more rows"
            )


def _adapter(folder: Path) -> dict[str, Any] | None:
    """What the adapter in a folder says of itself; None for a whole model.

    Raises:
        SpvmiaError: there is neither, or it cannot be read.
    """
    path = folder / ADAPTER_CONFIG
    if path.is_file():
        try:
            told = any_loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpvmiaError(
                f"--model: expected an adapter's configuration in {path}, got {reason_of(error)}; save the adapter "
                "again"
            ) from error
        if not isinstance(told, dict):
            raise SpvmiaError(
                f"--model: expected an adapter's configuration in {path}, a JSON object, got {type(told).__name__}; "
                "save the adapter again"
            )
        return told
    if not (folder / "config.json").is_file():
        raise SpvmiaError(
            f"--model: expected a folder with {ADAPTER_CONFIG} or config.json, got {folder} without; name the folder "
            "of the weights"
        )
    return None


def _base(config: ManifestConfig, adapter: Mapping[str, Any]) -> str:
    """The model before the training, a folder from the root; nothing where nobody names it.

    Raises:
        SpvmiaError: neither a folder nor anything on the hub can be called so.
    """
    option, base = "--base-model", config.base_model or None
    if base is None:
        option, base = f"--model: {_BASE} of {ADAPTER_CONFIG}", adapter.get(_BASE)
    if base is not None and not isinstance(base, str):
        raise SpvmiaError(
            f"{option}: expected a folder or a hub id, got {type(base).__name__}; name the base with --base-model"
        )
    if not base:
        return ""
    place = as_path(base, option, utf8=True)
    return str(place.absolute()) if place.is_dir() else base


def _rendering(config: ManifestConfig, declared: Declared) -> Rendering:
    if declared.kind == "text":
        given = "--loss-on" if config.loss_on == "completion" else "--chat-template" if config.chat_template else None
        if given:
            raise SpvmiaError(
                f"{given}: expected conversations, or prompts with answers, got rows of plain text; leave it out, or "
                "name the kind of rows with --format"
            )
        block = config.block_size if config.block_size is not None else 0 if config.end_token else DEFAULT_BLOCK
        cut = config.record_tokens if config.end_token or config.record_tokens != DEFAULT_TOKENS else 10**9
        return Rendering("all", cut, config.end_token, block)
    if config.block_size or config.end_token:
        raise SpvmiaError(
            f"--{'block-size' if config.block_size else 'end-token'}: expected plain texts, got {declared.kind}, "
            "which are audited whole (--record-tokens says where they were cut); leave it out"
        )
    template = None
    if config.chat_template is not None:
        template = read_template(config.chat_template, option="--chat-template")
    loss_on: LossOn = "all" if config.loss_on == "all" else "completion"
    return Rendering(loss_on, config.record_tokens, False, 0, template)


def _tokenizer(config: ManifestConfig, folder: Path, base: str) -> Any:
    """Of the model, or of its base."""
    from transformers import AutoTokenizer

    named = folder if (folder / "tokenizer_config.json").is_file() else base or folder
    try:
        return AutoTokenizer.from_pretrained(named, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # tokenizers raises nothing more special for a damaged file
        raise SpvmiaError(
            f"--model: no tokenizer could be loaded from {str(named)!r} ({reason_of(error)}); save it beside the "
            "weights, or name the base with --base-model"
        ) from error
