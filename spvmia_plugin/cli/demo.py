"""`spvmia demo`: one command, and a real audit of a real language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvmia_plugin.cli.machine import Json, Quiet, line_printer, print_json


def _sizes() -> list[str]:
    from spvmia_plugin.demo.plan import SIZES

    return list(SIZES)


def demo(
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder for all it makes; an unfinished one is continued.")
    ] = Path("spvmia-demo"),
    size: Annotated[
        str, typer.Option("--size", help="small (10 minutes on 2 cores), medium or large.", autocompletion=_sizes)
    ] = "small",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """See an audit: fine-tune a small model on a made-up private corpus, and attack it with lm_eval.

    Needs no GPU and no model hub. Prints every command it runs. Interrupted, it continues when the same command is
    given again.

        spvmia demo
        spvmia demo --size medium --output ./medium
    """
    from spvmia_plugin.demo.plan import size_named
    from spvmia_plugin.demo.run import Demo

    made = Demo(output, size_named(size), line_printer(quiet=quiet, as_json=as_json)).run()
    if as_json:
        print_json({name: str(path) for name, path in made.items()})
