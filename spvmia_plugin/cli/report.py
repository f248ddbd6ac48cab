"""`spvmia report`: what an audit found, for people."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spvmia_plugin.cli.machine import Quiet, line_printer

if TYPE_CHECKING:
    from spvmia_plugin.report.tokens import TokenView
    from spvmia_plugin.results import HarnessRun

NAME = "report.html"


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="lm_eval's --output_path, or one results_*.json in it.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page; default: report.html in RESULTS.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also write every figure as PNG and SVG.")
    ] = None,
    record: Annotated[
        list[str] | None,
        typer.Option("--record", metavar="ID", help="Show this record token by token, its TEXT included; repeatable."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything unrounded as JSON; a page only with --output.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a page that says what an outsider can and cannot tell: one HTML file that loads nothing.

    The newest run with a privacy task is reported. It needs nothing but the results and samples files that
    `lm_eval --output_path results --log_samples` wrote.

    ```
    spvmia report results
    spvmia report results --output audit.html --figures figures
    spvmia report results --record support.jsonl:214
    spvmia report results --json
    ```
    """
    from spvmia_plugin.results import read_latest

    run = read_latest(results)
    tokens = _tokens(run, record or [])
    page = output or (None if as_json else (results if results.is_dir() else results.parent) / NAME)
    written = [_write_page(run, page, tokens)] if page else []
    if figures:
        written += _write_figures(run, figures)
    _tell(run, written, line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        _print_json(run, tokens)


def _tokens(run: HarnessRun, record_ids: list[str]) -> list[list[TokenView]]:
    """For each audit those of the chosen records that it has, token by token; its error for what no audit has."""
    from spvmia_plugin.report.tokens import token_views

    known: list[Collection[str]] = [audit.records.roster.rows if audit.records else () for audit in run.audits]
    unknown = [record_id for record_id in record_ids if not any(record_id in ids for ids in known)]
    return [
        token_views(run, audit, [record_id for record_id in record_ids if record_id in ids] + unknown)
        for audit, ids in zip(run.audits, known, strict=True)
    ]


def _write_page(run: HarnessRun, page: Path, tokens: list[list[TokenView]]) -> Path:
    from spvmia_plugin.errors import SpvmiaError
    from spvmia_plugin.report.html import render
    from spvmia_plugin.util.files import check_file_to_write, write_private

    if page.is_dir():
        raise SpvmiaError(f"--output: expected a file, got the folder {page}; name a file in it, such as {page / NAME}")
    check_file_to_write(page, "--output")
    content = render(run, tokens).encode("utf-8")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_private(page.resolve(), content)  # it names records, and shows their texts where the run logged them
    except OSError as error:
        raise SpvmiaError(f"--output: cannot write {page} ({error.strerror}); name another file") from error
    return page


def _write_figures(run: HarnessRun, folder: Path) -> list[Path]:
    from spvmia_plugin.errors import SpvmiaError
    from spvmia_plugin.report.figures import pictures

    names = [audit.dataset for audit in run.audits]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, audit in enumerate(run.audits, 1):
            name = audit.dataset if names.count(audit.dataset) == 1 else f"{number}-{audit.dataset}"
            pictures(audit).save(folder, name)
    except OSError as error:
        raise SpvmiaError(f"--figures: cannot write to {folder} ({error.strerror}); name another folder") from error
    return [folder]


def _print_json(run: HarnessRun, tokens: list[list[TokenView]]) -> None:
    import sys

    from spvmia_plugin.report.facts import report_facts, streamed

    for part in streamed(report_facts(run, tokens, one_by_one=True)):
        sys.stdout.write(part)
    sys.stdout.write("\n")


def _tell(run: HarnessRun, written: list[Path], say: Callable[[str], None]) -> None:
    from spvmia_plugin.report.verdict import judge
    from spvmia_plugin.util.console import shown

    for audit in run.audits:
        verdict = judge(audit)
        doubt = " Provisional: see the failed conditions in the report." if verdict.provisional else ""
        say(f"{shown(audit.dataset)}: {verdict.headline}{doubt}")
        if not audit.has_samples:
            say(f"{shown(audit.dataset)}: no scores of single records; run lm_eval with --log_samples to have them")
    for path in written:
        say(shown(str(path)))
    for problem in run.left_out:
        say(f"left out: {shown(problem)}")
