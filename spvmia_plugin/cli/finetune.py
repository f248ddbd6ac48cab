"""`spvmia finetune`: a target whose training records are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from spvmia_plugin.cli.machine import Json, Quiet, TrustRemoteCode, line_printer, print_json

if TYPE_CHECKING:
    from spvmia_plugin.training.finetune_config import FinetuneConfig


def _methods() -> list[str]:
    from spvmia_plugin.training.finetune_config import METHODS

    return list(METHODS)


def _dtypes() -> list[str]:
    from spvmia_plugin.training.finetune_config import DTYPES

    return list(DTYPES)


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
    block_size: Annotated[int, typer.Option(help="Tokens per record; 0 for whole documents.")] = 128,
    text_column: Annotated[str, typer.Option(help="Column with the text.")] = "text",
    seed: Annotated[int, typer.Option(help="Of the split, the coins and the training.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="Of the base: auto, float32, bfloat16 or float16.", autocompletion=_dtypes)
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

    from spvmia_plugin.training.finetune import FinetuneConfig
    from spvmia_plugin.training.finetune import finetune as run

    config = FinetuneConfig(**options)
    folder = run(config, line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        print_json(_outcome(folder, config))


def _outcome(folder: Path, config: FinetuneConfig) -> dict[str, Any]:
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
        "audit": audit_command(manifest.base_model, folder, config),
    }
