"""`spvmia tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
