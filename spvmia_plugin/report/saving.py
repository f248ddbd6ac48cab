"""Writes what a report is made of: the page, and its figures as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.precision import PRIORS
from spvmia_plugin.report.figures import pictures
from spvmia_plugin.report.html import render
from spvmia_plugin.results import HarnessRun
from spvmia_plugin.util.files import check_file_to_write, write_private
from spvmia_plugin.web.page import MARK

if TYPE_CHECKING:
    from spvmia_plugin.report.tokens import TokenView

PAGE = "report.html"


def write_page(
    run: HarnessRun,
    page: Path,
    tokens: Sequence[Sequence[TokenView]] = (),
    priors: Sequence[float] = PRIORS,
    option: str = "--output",
) -> Path:
    """Write the page of a run, whole or not at all; only its owner may read it.

    Args:
        run: the run.
        page: the file.
        tokens: as in `html.render`.
        priors: likewise.
        option: what named the file, for errors.

    Raises:
        SpvmiaError: it cannot be written.
    """
    if page.is_dir():
        raise SpvmiaError(f"{option}: expected a file, got the folder {page}; name a file in it, such as {page / PAGE}")
    check_file_to_write(page, option, MARK)
    content = render(run, tokens, priors).encode("utf-8")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_private(page.resolve(), content)  # it names records, and shows their texts where the run logged them
    except OSError as error:
        raise SpvmiaError(f"{option}: cannot write {page} ({error.strerror}); name another file") from error
    return page


def write_figures(run: HarnessRun, folder: Path) -> Path:
    """Write every figure of a run as PNG and SVG.

    Raises:
        SpvmiaError: they cannot be written.
    """
    names = [audit.dataset for audit in run.audits]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, audit in enumerate(run.audits, 1):
            name = audit.dataset if names.count(audit.dataset) == 1 else f"{number}-{audit.dataset}"
            pictures(audit).save(folder, name)
    except OSError as error:
        raise SpvmiaError(f"--figures: cannot write to {folder} ({error.strerror}); name another folder") from error
    return folder
