"""`spvmia export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from spvmia_plugin.cli.machine import Json, Quiet, line_printer, print_json


class Format(str, Enum):
    """What to export to."""

    every_eval_ever = "every-eval-ever"
    hf_eval_results = "hf-eval-results"
    model_index = "model-index"


class Evaluator(str, Enum):
    """Who ran the audit, seen from the model's developer."""

    first_party = "first_party"
    third_party = "third_party"
    collaborative = "collaborative"
    other = "other"


def export(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Output folder of lm_eval (the newest audit in it), or a file.")
    ],
    to: Annotated[Format, typer.Option("--to", help="The format.")],
    output: Annotated[Path, typer.Option("--output", help="Folder to write into.")],
    model_id: Annotated[
        str | None, typer.Option("--model-id", metavar="ORG/NAME", help="The model on the Hub; else the folder's name.")
    ] = None,
    organization: Annotated[str, typer.Option("--organization", help="Who ran the audit.")] = "unknown",
    evaluator: Annotated[
        Evaluator, typer.Option("--evaluator", help="Their relation to the model's developer.")
    ] = Evaluator.first_party,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", metavar="ORG/NAME", help="hf-eval-results: data set that hosts the leaderboard."),
    ] = None,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="every-eval-ever: also ids, labels and scores. They NAME training records."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the newest audit of a results folder in a format that others read.

    ```
    spvmia export results --to every-eval-ever --output eee --model-id acme/support-7b --organization Acme
    spvmia export results --to hf-eval-results --output model --benchmark acme/privacy
    spvmia export results --to model-index --output card
    ```
    """
    from spvmia_plugin.export import ExportOptions, export_run
    from spvmia_plugin.results import read_latest

    options = ExportOptions(model_id, organization, evaluator.value, benchmark, instances)
    say = line_printer(quiet=quiet, as_json=as_json)
    run = read_latest(results)
    files = export_run(run, to.value, output, options)
    for problem in run.left_out if not quiet else ():
        typer.echo(f"left out: {problem}", err=True)
    for path in files:
        say(str(path))
    if as_json:
        print_json({"format": to.value, "files": [str(path) for path in files]})
