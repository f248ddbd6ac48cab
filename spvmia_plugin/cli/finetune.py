"""`spvmia finetune`: a target whose training records are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def finetune(
    model: Annotated[str, typer.Option(help="The base: a folder or a hub id.", metavar="BASE")],
    data: Annotated[
        str, typer.Option(help="wikitext, ag_news, xsum, a file, or `hf:DATASET[:CONFIG][:SPLIT]`.", metavar="SPEC")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the weights and mia_manifest.json.")],
    method: Annotated[str, typer.Option(help="lora or full.")] = "lora",
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
    dtype: Annotated[str, typer.Option(help="Of the base: auto, float32, bfloat16 or float16.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Fine-tune a base on part of a data set, and record which part in a private manifest.

    The tasks find the manifest beside the weights and audit exactly those records. A killed run continues when it is
    started again. Example:

        spvmia finetune --model ./smollm2 --data tickets.jsonl --output target --members 500 --nonmembers 500
    """
    from spvmia_plugin.finetune import FinetuneConfig
    from spvmia_plugin.finetune import finetune as run

    config = FinetuneConfig(
        model=model,
        data=data,
        output=output,
        method=method,
        members=members,
        nonmembers=nonmembers,
        prompts=prompts,
        canaries=canaries,
        epochs=epochs,
        lr=lr,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        lora_targets=lora_targets,
        batch_size=batch_size,
        block_size=block_size,
        text_column=text_column,
        seed=seed,
        dtype=dtype,
        quiet=quiet,
    )
    run(config, typer.echo)
