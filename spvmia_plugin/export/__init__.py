"""Results in the formats that others read: Every Eval Ever, the Hub's results, a card's model-index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export.common import ExportOptions, Files, Lines
from spvmia_plugin.export.every_eval_ever import to_every_eval_ever
from spvmia_plugin.export.hub import to_hub_results, to_model_index
from spvmia_plugin.results.model import HarnessRun
from spvmia_plugin.util.files import write_private

__all__ = ["FORMATS", "ExportOptions", "export_run"]

FORMATS: Mapping[str, Callable[[HarnessRun, ExportOptions], Files]] = {
    "every-eval-ever": to_every_eval_ever,
    "hf-eval-results": to_hub_results,
    "model-index": to_model_index,
}
"""Name of a format -> what makes its files: path below the output folder -> content."""


def export_run(run: HarnessRun, to: str, output: Path, options: ExportOptions) -> list[Path]:
    """Write a run in a format; files of the same run are replaced.

    Returns:
        The files, in the order they were written.

    Raises:
        SpvmiaError: the run does not fit the format, or the folder cannot be written.
    """
    files = FORMATS[to](run, options)
    written = []
    try:
        for name, text in files.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, Lines):
                write_private(path, (line.encode("utf-8") for line in text))
            else:
                path.write_bytes(text.encode("utf-8"))
            written.append(path)
    except OSError as error:
        raise SpvmiaError(
            f"--output: expected a folder that can be written, got {output} ({error.strerror}); name another"
        ) from error
    return written
