"""Commands that make and audit a target: `spvmia finetune`, `manifest`, `prepare`, `shadow`, `run` and `tasks`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from spvmia_plugin.cli.output import Json, Quiet, TrustRemoteCode, line_printer, print_json
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.strict_json import any_loads

if TYPE_CHECKING:
    from spvmia_plugin.training.base_model import BaseModel
    from spvmia_plugin.training.config import FinetuneConfig


RowFormat = Annotated[
    str, typer.Option(help="auto, text, messages, prompt_completion, instruction, sharegpt or preference.")
]
LossOn = Annotated[
    str, typer.Option(help="Tokens of conversations with loss: completion (the answers, as auto is) or all.")
]
ChatTemplate = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
    typer.Option(help="A Jinja file.", show_default="the tokenizer's own"),
]
TextColumn = Annotated[str, typer.Option(help="Column with the text.")]


def _methods() -> list[str]:
    from spvmia_plugin.training.config import METHODS

    return list(METHODS)


def _dtypes() -> list[str]:
    from spvmia_plugin.training.config import DTYPES

    return list(DTYPES)


def _canary_kinds() -> list[str]:
    from spvmia_plugin.training.canaries import KINDS

    return list(KINDS)


def finetune(
    model: Annotated[str, typer.Option(help="The base: a folder or a hub id.", metavar="BASE")],
    data: Annotated[
        str, typer.Option(help="wikitext, ag_news, xsum, a file, or `hf:DATASET[:CONFIG][:SPLIT]`.", metavar="SPEC")
    ],
    output: Annotated[Path, typer.Option(help="New folder for the weights and mia_manifest.json.", metavar="DIR")],
    method: Annotated[str, typer.Option(help="lora or full.", autocompletion=_methods)] = "lora",
    members: Annotated[int, typer.Option(help="Records to train on.")] = 1000,
    nonmembers: Annotated[int, typer.Option(help="Records held out, to audit against.")] = 1000,
    prompts: Annotated[
        Optional[int],  # noqa: UP045 - typer reads this at run time
        typer.Option(help="Records held out to prompt the target with.", show_default="as many as members"),
    ] = None,
    canaries: Annotated[int, typer.Option(help="Further records, each trained on by a fair coin.")] = 0,
    canary_kind: Annotated[
        str,
        typer.Option(
            help="natural (held-out records of the data), sampled (the base writes them) or random (tokens).",
            autocompletion=_canary_kinds,
        ),
    ] = "natural",
    epochs: Annotated[float, typer.Option(help="Passes over the training records.")] = 10.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 64,
    lora_alpha: Annotated[float, typer.Option(help="Scale of the adapter.")] = 16.0,
    lora_dropout: Annotated[float, typer.Option(help="Dropout of the adapter.")] = 0.1,
    lora_targets: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Modules, comma-separated, or all-linear.", show_default="peft's for the architecture"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Records per step.")] = 4,
    block_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens per record; 0 for whole documents.", show_default="128; 0 for conversations"),
    ] = None,
    format: RowFormat = "auto",  # noqa: A002 - the option's name
    loss_on: LossOn = "auto",
    chat_template: ChatTemplate = None,
    record_tokens: Annotated[int, typer.Option(help="Conversations are cut to so many tokens.")] = 1024,
    text_column: TextColumn = "text",
    unit_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column that says whom a record belongs to: deals out whole units."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the coins and the training.")] = 0,
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the base: auto (its own; float32 where this CPU is slow in that), float32, bfloat16 or float16.",
            autocompletion=_dtypes,
        ),
    ] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a base on part of a data set, and record which part in a private manifest.

    The tasks find the manifest beside the weights and audit exactly those records. A killed run continues when the
    same command is given again. Defaults are the paper's.

        spvmia finetune --model ./smollm2 --data tickets.jsonl --output target \\
                        --members 500 --nonmembers 500 --block-size 64

    The last line it prints is the lm_eval command that audits the target. All weights instead of an adapter:

        spvmia finetune --model ./smollm2 --data tickets.jsonl --output full \\
                        --members 500 --nonmembers 500 --method full --lr 5e-5

    With canaries, for a lower bound on epsilon:

        spvmia finetune --model ./smollm2 --data tickets.jsonl --output target \\
                        --members 500 --nonmembers 500 --canaries 400
    """
    # Every option but --json is a field of the same name.
    options = {name: value for name, value in locals().items() if name != "as_json"}

    from spvmia_plugin.training.base_model import BaseModel
    from spvmia_plugin.training.config import FinetuneConfig
    from spvmia_plugin.training.finetune import finetune as run

    config = FinetuneConfig(**options)
    base = BaseModel.find(config) if as_json else None  # before the training: afterwards nothing may fail
    folder = run(config, line_printer(quiet=quiet, as_json=as_json))
    if base is not None:
        print_json(_outcome(folder, config, base))


def _outcome(folder: Path, config: FinetuneConfig, base: BaseModel) -> dict[str, Any]:
    """What a program wants to know of a finished target; no record ids."""
    from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest
    from spvmia_plugin.training.finetune import audit_command

    manifest = read_manifest(folder)
    return {
        "output": str(folder),
        "manifest": str(folder / MANIFEST_NAME),
        "base_model": manifest.base_model,
        "settings": dict(manifest.settings),
        "records": {name: len(entries) for name, entries in manifest.records.items()},
        "training": dict(manifest.training),
        "versions": dict(manifest.versions),
        "audit": audit_command(base, folder, config),
    }


def manifest(
    model: Annotated[Path, typer.Option(help="Folder of the trained adapter or model.", metavar="DIR")],
    members: Annotated[str, typer.Option(help="What it was trained on.", metavar="F")],
    nonmembers: Annotated[str, typer.Option(help="Records like them that it was not.", metavar="F")],
    prompts: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(help="Held-out records.", metavar="F", show_default="a quarter of the non-members"),
    ] = None,
    candidate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Other records of the same kind.", metavar="F", show_default="the prompts"),
    ] = None,
    format: RowFormat = "auto",  # noqa: A002 - the option's name
    loss_on: LossOn = "auto",
    chat_template: ChatTemplate = None,
    record_tokens: Annotated[int, typer.Option(help="The trainer's max_length.")] = 1024,
    block_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens per record of plain text; 0 for whole rows.", show_default="128; 0 with --end-token"),
    ] = None,
    end_token: Annotated[
        bool, typer.Option("--end-token", help="Plain texts had an end token after them, as TRL trains.")
    ] = False,
    packing: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="How rows shared sequences: bfd, bfd_split, wrapped, multipack.", show_default="not at all"),
    ] = None,
    text_column: TextColumn = "text",
    unit_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column that says whom a record belongs to."),
    ] = None,
    base_model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The model before the training.", show_default="what the adapter names"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the share of the non-members that become prompts.")] = 0,
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the manifest of a model that is already there, so that its audits need no option.

    Files are read and bound to the weights by hashes; no model is loaded. What is said here of the training is taken
    for true: `membership` in the results is `declared`. A training of your own can write the file itself, and then it
    vouches for it: docs/trainers.md.

        spvmia manifest --model adapter --members trained_on.jsonl --nonmembers held_out.jsonl

    Plain texts as TRL's SFTTrainer trains on them, and conversations with loss on every token:

        spvmia manifest --model adapter --members texts.jsonl --nonmembers more.jsonl --end-token
        spvmia manifest --model adapter --members chats.jsonl --nonmembers more.jsonl --loss-on all
    """
    # Every option but --json and --quiet is a field of the same name.
    options = {name: value for name, value in locals().items() if name not in ("as_json", "quiet")}

    from spvmia_plugin.trainers.existing import ManifestConfig, write_for

    path = write_for(ManifestConfig(**options), line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        from spvmia_plugin.data.manifest import read_manifest

        found = read_manifest(path)
        print_json(
            {
                "manifest": str(path),
                "base_model": found.base_model,
                "records": {name: len(entries) for name, entries in found.records.items()},
                "format": found.data.format,
                "loss_on": found.data.loss_on,
            }
        )


def prepare(
    model_args: Annotated[str, typer.Option("--model_args", help="As for lm_eval: pretrained=BASE,peft=ADAPTER")],
    model: Annotated[str, typer.Option("--model", help="As for lm_eval.")] = "hf",
    tasks: Annotated[str, typer.Option("--tasks", help="The task whose reference is built.")] = "spv_mia_custom",
    metadata: Annotated[
        str, typer.Option("--metadata", help="mia_* options, as for lm_eval: JSON, or key=value,key=value.")
    ] = "{}",
    device: Annotated[
        str, typer.Option("--device", help="As for lm_eval; the CPU where there is no such GPU.")
    ] = "cuda:0",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build the self-prompt reference now; a later lm_eval run with the same options finds it.

    Sampling from the target and training the reference take most of an audit's time, and can be done where the GPU is.

        spvmia prepare --model_args pretrained=./smollm2,peft=target \\
                       --metadata '{"mia_preset": "quick"}'

    Interrupted, it continues when the same command is given again.
    """
    options = _read_options(metadata)
    from spvmia_plugin.harness.prepare import prepare as build

    say = line_printer(quiet=quiet, as_json=as_json)
    arguments = f"{model_args},trust_remote_code=True" if trust_remote_code else model_args
    outcome = build(model, arguments, tasks, options, device=device)
    reference: Any = outcome.details["reference"]
    found: list[Any] = [made for role, made in outcome.details.items() if role.partition("_")[0] == "reference"]
    if as_json:
        several = {"references": found} if len(found) > 1 else {}
        print_json({"reference": reference, **several, "cost": outcome.cost_json()})
    trained = sum(bool(one["trained"]) for one in found)
    made = "trained now" if trained else "found in the store, trained before"
    if 0 < trained < len(found):
        made = f"{trained} trained now, {len(found) - trained} found in the store"
    which, them = ("reference", "it")
    if len(found) > 1:
        which, them = f"{len(found)} references", "them"
        made = f"all {made}" if trained in (0, len(found)) else made
    say(
        f"{which} ready: {made}, on {reference['self_prompts']} self-prompts; lm_eval finds {them} when it is given "
        "the same model, data and options"
    )


def _presets() -> list[str]:
    from spvmia_plugin.config import PRESETS

    return list(PRESETS)


def shadow(
    target: Annotated[Path, typer.Option(help="Folder of the fine-tuned target, with its manifest.", metavar="DIR")],
    output: Annotated[Path, typer.Option(help="Folder for the shadows and the weights.", metavar="DIR")],
    data: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(help="As for finetune.", metavar="SPEC", show_default="the target's own data"),
    ] = None,
    shadows: Annotated[int, typer.Option(help="How many.", metavar="K")] = 1,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="As mia_preset of the target's audit.", show_default="paper", autocompletion=_presets),
    ] = None,
    metadata: Annotated[
        str, typer.Option("--metadata", help="The mia_* options of the target's audit, as JSON.")
    ] = "{}",
    device: Annotated[
        str, typer.Option("--device", help="Of the audits, as for lm_eval; the CPU where there is no such GPU.")
    ] = "cuda:0",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fit the attack `learned` on shadows of your own target: models of the same recipe on other records.

    Fine-tunes K shadows on documents that the target's members, non-members and prompts do not hold, audits each as the
    target will be audited, and fits. No label of the target is used. Interrupted, it goes on when the same command is
    given again; what is finished is not made anew.

        spvmia shadow --target target --output shadows --preset quick

    With other documents of the same kind, and three shadows:

        spvmia shadow --target target --data more.jsonl --output shadows --shadows 3 --preset quick

    The last line it prints is the lm_eval command that audits the target with what was fitted.
    """
    from spvmia_plugin.shadow import ShadowConfig, make_shadows

    options = _read_options(metadata)
    if isinstance(options, str):
        raise SpvmiaError("--metadata: expected a JSON object, got text in the form key=value; write it as JSON")
    if preset is not None:
        if preset not in _presets():
            raise SpvmiaError(f"--preset: expected one of {', '.join(_presets())}, got {preset!r:.80}; correct it")
        options["mia_preset"] = preset
    config = ShadowConfig(target, output, data, shadows, options, device, trust_remote_code)
    found = make_shadows(config, line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        print_json(found.to_json())


def _read_options(text: str) -> dict[str, Any] | str:
    """The options as a dict; text in the form `key=value` is left to the harness."""
    if "=" in text and not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = any_loads(text)
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise SpvmiaError(
            f"--metadata: expected a JSON object, got text that is not JSON ({why}); correct it"
        ) from error
    if not isinstance(value, dict):
        raise SpvmiaError(f"--metadata: expected a JSON object, got {type(value).__name__}; correct it")
    return value


def run(context: typer.Context) -> None:
    """Run lm_eval with the audit tasks included; every argument goes to lm_eval as it is.

    Needs no `spvmia enable`, and does no harm after it. Your own `--include_path` is kept.

        spvmia run --model hf --model_args pretrained=BASE,peft=adapter \\
                   --tasks spv_mia_custom,arc_easy --batch_size auto \\
                   --output_path results --log_samples

    lm_eval's own options and its list of tasks:

        spvmia run run --help
        spvmia run ls tasks

    What the `mia_*` options in `--metadata` mean: docs/options.md.
    """
    from spvmia_plugin.harness.enable import launch

    launch(context.args)


def tasks(
    write: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="ATTACK DATASET", help="Write the task file of a registered attack on a data set."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where --write puts it.")] = Path("spvmia_tasks"),
) -> None:
    """Print the folder of the audit tasks, or write the task of a plugin's attack.

    For an lm_eval that nothing may be copied into:

        lm_eval --include_path "$(spvmia tasks)" --tasks spv_mia_wikitext \\
                --model hf --model_args pretrained=MODEL

    For an attack or a data set that a plugin registers, `--write` makes the file; the task is `<attack>_mia_<dataset>`:

        spvmia tasks --write my_attack custom
        spvmia run --include_path spvmia_tasks --tasks my_attack_mia_custom \\
                   --model hf --model_args pretrained=MODEL
    """
    from spvmia_plugin.harness.enable import tasks_folder

    if write is None:
        print(tasks_folder())
        return
    from spvmia_plugin.harness.yamls import write_task

    path = write_task(*write, output)
    print(f"wrote {path}")
    print(f"use it with: spvmia run --include_path {path.parent} --tasks {path.stem} ...")
