"""`spvmia demo`: one command, and a real audit of a real language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", help="Folder for all it makes; an unfinished one is continued.")
    ] = Path("spvmia-demo"),
    size: Annotated[str, typer.Option("--size", help="small (10 minutes on 2 cores), medium or large.")] = "small",
) -> None:
    """See an audit: fine-tune a small model on a made-up private corpus, and attack it with lm_eval.

    Needs no GPU and no model hub. Prints every command it runs.
    """
    from spvmia_plugin.demo.plan import size_named
    from spvmia_plugin.demo.run import Demo

    Demo(output, size_named(size), typer.echo).run()
