"""`spvmia leaderboard`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from spvmia_plugin.cli.machine import Quiet, line_printer


class Metric(str, Enum):
    """What models are ranked by."""

    auroc = "auroc"
    tpr_at_1pct_fpr = "tpr_at_1pct_fpr"
    tpr_at_0_1pct_fpr = "tpr_at_0.1pct_fpr"


class Compare(str, Enum):
    """What differs between the rows of a table."""

    models = "models"
    recipes = "recipes"


class SameData(str, Enum):
    """How data are recognised."""

    fingerprint = "fingerprint"
    ids = "ids"


def leaderboard(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS...", help="Output folders of lm_eval, or NAME=FOLDER to name the model."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write; its ending says how: .html .md .csv .json. Default: print."),
    ] = None,
    attack: Annotated[str, typer.Option("--attack", help="The attack that counts, or 'strongest'.")] = "strongest",
    metric: Annotated[Metric, typer.Option("--metric", help="What models are ranked by.")] = Metric.auroc,
    compare: Annotated[
        Compare,
        typer.Option("--compare", help="models: tuned by one recipe. recipes: of one base model, side by side."),
    ] = Compare.models,
    same_data: Annotated[
        SameData,
        typer.Option("--same-data", help="ids: trust record ids where the audits' fingerprints have other keys."),
    ] = SameData.fingerprint,
    capability: Annotated[
        str | None, typer.Option("--capability", help="Task of the picture's capability axis, for example arc_easy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the board as JSON, unrounded.")] = False,
    quiet: Quiet = False,
) -> None:
    """Set models side by side: what they can do, and how much they give away of their training data.

    Only audits that can be compared share a table; models whose audit failed a precondition are marked, not ranked.

    ```
    spvmia leaderboard results/light results/heavy --output board.html
    spvmia leaderboard light=results/a heavy=results/b --compare recipes
    ```
    """
    from spvmia_plugin.leaderboard import Options, build_board, write_board
    from spvmia_plugin.leaderboard.entrants import Source
    from spvmia_plugin.leaderboard.machine import to_json
    from spvmia_plugin.leaderboard.write import check_output

    if output is not None:
        check_output(output)
    options = Options(attack, metric.value, compare.value, same_data.value, capability)
    board = build_board([Source.parse(argument) for argument in results], options)
    for problem in board.left_out if not quiet else ():
        typer.echo(f"left out: {problem}", err=True)
    if as_json:
        typer.echo(to_json(board), nl=False)
    if output is None:
        if not (as_json or quiet):
            _print(board)
        return
    write_board(board, output)
    rows = sum(len(table.rows) for table in board.tables)
    line_printer(quiet=quiet, as_json=as_json)(f"{output}: {rows} rows in {len(board.tables)} tables")


def _print(board: Any) -> None:
    """A table where there is a terminal, else Markdown, which goes anywhere."""
    import sys

    from rich.console import Console

    from spvmia_plugin.leaderboard.markdown import to_markdown
    from spvmia_plugin.leaderboard.terminal import show_board

    if sys.stdout.isatty():
        show_board(board, Console())
    else:
        typer.echo(to_markdown(board), nl=False)
