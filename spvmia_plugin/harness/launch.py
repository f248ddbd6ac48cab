"""`spvmia run`: the harness's own command line with our tasks folder included."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.harness.enable import enabled, tasks_folder
from spvmia_plugin.harness.installed import known_tasks_only

if TYPE_CHECKING:
    from lm_eval.__main__ import HarnessCLI

_NOT_FOUND = "Tasks not found: "
_OVERRIDES = "Task '%s' from %s overrides existing task from %s"


def launch(arguments: Sequence[str]) -> None:
    """Run lm_eval's command line on `arguments`, its tasks and ours included.

    Raises:
        SpvmiaError: there is no lm_eval, or no such task; and whatever a task of ours raises.
    """
    state = enabled()
    from lm_eval.__main__ import HarnessCLI, setup_logging

    setup_logging()
    index_log = logging.getLogger("lm_eval.tasks._index")
    index_log.addFilter(_is_news)
    own_argv = sys.argv
    sys.argv = ["lm_eval", *arguments]  # the harness reads it, and records it nowhere else
    try:
        command_line = HarnessCLI()
        options = command_line.parse_args()
        if getattr(options, "command", None):
            _include(options, str(tasks_folder()), needed=state != "current")
        _execute(command_line, options)
    finally:
        sys.argv = own_argv
        index_log.removeFilter(_is_news)


def _execute(command_line: HarnessCLI, options: argparse.Namespace) -> None:
    """A misspelt task ends in one line, as our own tasks' errors do, and not in the harness's traceback."""
    try:
        with known_tasks_only():
            command_line.execute(options)
    except ValueError as error:
        _, found, missing = str(error).partition(_NOT_FOUND)
        if not found:
            raise
        ours = [path.stem for path in tasks_folder().glob("*.yaml")]
        named = ", ".join(f"{name!r}{did_you_mean(name, ours)}" for name in missing.split(", "))
        raise SpvmiaError(
            f"--tasks: expected tasks that 'spvmia run ls tasks' lists, or files of yours by their names, got {named}"
        ) from None


def _include(options: argparse.Namespace, folder: str, *, needed: bool) -> None:
    """Have `folder` once among the included paths, or not at all where lm_eval has the same files already.

    `--include_path` takes one folder on the command line, and any number from Python.
    """
    given = options.include_path
    if given is None and getattr(options, "config", None):
        from lm_eval.config.evaluate_config import EvaluatorConfig

        given = EvaluatorConfig.load_yaml_config(options.config).get("include_path")
    folders = [] if given is None else given if isinstance(given, list) else [given]
    others = [path for path in folders if Path(path).resolve() != Path(folder).resolve()]
    options.include_path = [*others, folder] if needed else others or None


def _is_news(record: logging.LogRecord) -> bool:
    """False for the harness's warning that a task of ours replaces the older copy that lies enabled: as it should."""
    if record.msg != _OVERRIDES or not isinstance(record.args, tuple):
        return True
    return Path(str(record.args[1])).parent != tasks_folder()
