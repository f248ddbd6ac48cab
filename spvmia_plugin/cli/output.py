"""What commands print for programs: JSON alone on stdout, and the lines for people on stderr or nowhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spvmia_plugin.util.strict_json import finite

if TYPE_CHECKING:
    from spvmia_plugin.results import HarnessRun

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout, and all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what --json asks for.")]

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that the model's folder or repository brings.")
]


def passed_over(older: int) -> str:
    """That a folder has other audits than the newest, which was taken."""
    what = "1 older audit of this folder is" if older == 1 else f"{older} older audits of this folder are"
    return f"{what} passed over, of whatever models: name a results_*.json to take another"


def newest(results: Path, say: Callable[[str], None]) -> HarnessRun:
    """The newest audited run of a folder, after a line on the others that are passed over.

    Raises:
        SpvmiaError: as `results.read_latest`.
    """
    from spvmia_plugin.results import read_latest

    run = read_latest(results)
    if run.older:
        say(passed_over(run.older))
    return run


def line_printer(*, quiet: bool, as_json: bool) -> Callable[[str], None]:
    """Return what prints a line for people: to stdout, beside JSON to stderr, or not at all."""

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    return say


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; what is not finite becomes null."""
    print(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))
