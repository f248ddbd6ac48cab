"""`spvmia ...` in a process of its own, forked from one that has imported everything: half of a small cell's time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PRELOADED = ["lm_eval.models.huggingface", "peft", "transformers.trainer", "spvmia_plugin.cli.main"]
"""Modules that the server imports before its first fork. None of them starts a thread or draws a number."""


def run_command(words: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command line of `spvmia`, its output appended to `log`. Returns its exit status.

    Args:
        words: `spvmia`, the subcommand, its arguments.
        environment: of the process. What libraries read while they are imported, such as the number of threads, is
            that of the first call.
        log: a file.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(list(words), dict(environment), str(log)))
    with _environment(environment):  # the server inherits it, at the first call
        process.start()
    process.join()
    return int(process.exitcode or 0)


def _main(words: list[str], environment: dict[str, str], log: str) -> None:
    """The child: as if the command had been typed."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    sys.argv = words
    from spvmia_plugin.cli.main import main

    main()


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
