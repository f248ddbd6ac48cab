"""`spvmia compare`: variants of one model, or training seeds of one recipe, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from spvmia_plugin.cli.output import Json, Quiet, line_printer, print_json
from spvmia_plugin.cli.results import SameData, SameDataOption


def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS...", help="Output folders of lm_eval, or NAME=FOLDER; the first is compared with."
        ),
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option("--output", "-o", metavar="FILE", help="Also write a page (.html) or its numbers (.json)."),
    ] = None,
    same_data: SameDataOption = SameData.fingerprint,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare variants of one model on the same records: adapter, merged, 8 bits, checkpoints.

    Differences are paired (both variants see the same documents) and hold for all attacks, metrics and variants at
    once. Runs that share a name are training seeds of one variant: they get a mean with its error over seeds. Three
    checkpoints or more (`checkpoint-500` in the name, or in the path of the weights) are drawn over training steps.

        spvmia compare adapter=results/lora merged=results/merged int8=results/int8 --output compare.html
        spvmia compare results/checkpoint-100 results/checkpoint-200 results/checkpoint-300
        spvmia compare plain=results/a0 plain=results/a1 dp=results/b0 dp=results/b1
    """
    from spvmia_plugin.compare import view
    from spvmia_plugin.compare.variants import compare as compare_variants
    from spvmia_plugin.errors import SpvmiaError
    from spvmia_plugin.export.ci import write
    from spvmia_plugin.leaderboard.entrants import Source
    from spvmia_plugin.web.page import MARK

    makers = {".html": (view.to_html, MARK), ".json": (view.to_json_text, '"generator": "spvmia-plugin ')}
    if output is not None and output.suffix.lower() not in makers:
        raise SpvmiaError(f"--output: expected a file that ends in .html or .json, got {str(output)!r}; name one")
    found = compare_variants([Source.parse(argument) for argument in results], same_data.value)
    say = line_printer(quiet=quiet, as_json=as_json)
    for line in view.text(found):
        say(line)
    if output is not None:
        make, mark = makers[output.suffix.lower()]
        write(output, make(found), "--output", mark)
        say(str(output))
    if as_json:
        print_json(view.to_json(found))
