"""`spvmia gate`: results held against a bound, for a release that must not go on without."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from spvmia_plugin.cli.output import Json, Quiet, line_printer, passed_over, print_json
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.console import shown

EXIT = {"within": 0, "exceeded": 1, "not_shown": 3, "not_evaluable": 3}
"""Exit status by outcome. 2 is that of a wrong command line and of results that cannot be read."""


def gate(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="lm_eval's --output_path, or one results_*.json in it.")
    ],
    max_auroc: Annotated[
        Optional[float],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option("--max-auroc", metavar="X", help="Limit of every attack's AUROC."),
    ] = None,
    max_tpr_at_1pct: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--max-tpr-at-1pct", metavar="X", help="Limit of every attack's TPR at 1 % FPR."),
    ] = None,
    max_epsilon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--max-epsilon", metavar="X", help="Limit of the canaries' epsilon."),
    ] = None,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--junit", metavar="FILE", help="Also write JUnit XML."),
    ] = None,
    sarif: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold the newest audit of a folder against a bound.

    The bound is the one that was declared with the run (`mia_max_auroc`, `mia_max_tpr_at_1pct`, `mia_max_epsilon`).
    One that is given here was declared after the numbers were known, and the outcome says so; it is held besides the
    declared one, and replaces nothing.

    Exit status 0: within (the upper limits of all attacks are below it, and hold at once); 1: exceeded; 3: not shown
    (too few records, told how many it would take), or not evaluable (a broken split, no samples, an audit without a
    bound beside one with); 2: no outcome at all (a wrong command line, results that cannot be read, no bound).

        spvmia gate results
        spvmia gate results --max-auroc 0.65 --junit gate.xml --sarif gate.sarif
    """
    from spvmia_plugin.export import ci
    from spvmia_plugin.metrics.names import BOUNDED_BY
    from spvmia_plugin.results import read_latest
    from spvmia_plugin.results.bound import WORST_FIRST, hold_every

    given = {"max_auroc": max_auroc, "max_tpr_at_1pct": max_tpr_at_1pct, "max_epsilon": max_epsilon}
    limits = {key: float(limit) for key, name in BOUNDED_BY.items() if (limit := given[name]) is not None}
    _check(given)
    run = read_latest(results)
    verdicts = [verdict for audit in run.audits for verdict in hold_every(audit, limits)]
    if not any(verdict.held for verdict in verdicts):
        raise SpvmiaError(
            f"RESULTS: expected a bound declared with the run (mia_max_auroc, ... in --metadata), got none in "
            f"{results}; give one here with --max-auroc, --max-tpr-at-1pct or --max-epsilon, which counts as given "
            "afterwards"
        )
    outcomes = {verdict.outcome for verdict in verdicts}
    worst = next(each for each in WORST_FIRST if each in outcomes)
    say = line_printer(quiet=quiet, as_json=as_json)
    for verdict in verdicts:
        say(f"{shown(verdict.dataset)}: {verdict.outcome.replace('_', ' ')} ({verdict.when()})")
        for held in verdict.held:
            say(f"  {held.outcome.replace('_', ' ')}: {shown(held.in_words())}")
    say(f"judged: {shown(run.model)}, {shown(run.path.name)}")
    if run.older:
        say(passed_over(run.older))
    for path, content, option in (
        (junit, ci.junit(verdicts, run.model), "--junit"),
        (sarif, ci.sarif(verdicts, run.path), "--sarif"),
    ):
        if path is not None:
            ci.write(path, content, option, ci.MARKS[option])
            say(str(path))
    if as_json:
        judged = {"outcome": worst, "model": run.model, "results": str(run.path), "older": run.older}
        print_json({**judged, "audits": [asdict(verdict) for verdict in verdicts]})
    raise typer.Exit(EXIT[worst])


def _check(given: dict[str, float | None]) -> None:
    """Refuse limits that no metric could stay below, or exceed."""
    from spvmia_plugin.config import AuditConfig

    for name, limit in given.items():
        if limit is None:
            continue
        try:
            AuditConfig.from_metadata({f"mia_{name}": limit})
        except SpvmiaError as error:
            message = str(error.code).replace(f"mia_{name}", f"--{name.replace('_', '-')}")
            raise SpvmiaError(message.replace("; correct it in --metadata", "")) from None
