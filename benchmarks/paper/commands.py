"""The two public commands behind a cell, `spvmia finetune` and `spvmia run`, and how they are shown to readers."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paper.processes import run_command
from spvmia_plugin.errors import SpvmiaError


@dataclass(frozen=True)
class Place:
    """What a machine adds to a cell: where things are and how fast they may run.

    Attributes:
        work: folder for targets, result folders, files and locks.
        models: folder of each base model, by name.
        data: file or data set of each data set, by name.
        cache: the audits' store.
        device: as in lm_eval's `--device`.
        threads: of torch; None for its own choice.
        batch_size: as in lm_eval's `--batch_size`.
        mask_model: folder of a T5, for the paraphrases `mask_fill`.
        other: name among `data` of the set that stands for "other data of the same domain".
        overrides: options of `spvmia finetune` that replace a protocol's, such as `members`.
    """

    work: Path
    models: Mapping[str, str]
    data: Mapping[str, str]
    cache: Path
    device: str = "cpu"
    threads: int | None = None
    batch_size: str = "auto"
    mask_model: str | None = None
    other: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)

    def shown(self, words: Sequence[str]) -> str:
        """A command line for readers: what differs between machines becomes a variable."""
        names = {str(Path(path).absolute()): f"$MODEL_{_variable(name)}" for name, path in self.models.items()}
        names |= {_absolute(spec): f"${_variable(name)}" for name, spec in self.data.items()}
        names |= {str(self.cache.absolute()): "$CACHE", str(self.work.absolute()): "$WORK"}
        line = shlex.join(words)
        for path in sorted(names, key=len, reverse=True):
            line = line.replace(path, names[path])
        return line

    def environment(self) -> dict[str, str]:
        """Of the commands: torch's threads, and no look at the network."""
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        return {**os.environ, "HF_HUB_OFFLINE": "1", **threads}


def _variable(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name).upper()


def _absolute(spec: str) -> str:
    return str(Path(spec).absolute()) if Path(spec).exists() else spec


def finetune_words(model: str, data: str, output: Path, options: Mapping[str, object]) -> list[str]:
    """The command line that makes a target."""
    words = ["spvmia", "finetune", "--model", _absolute(model), "--data", _absolute(data), "--output", str(output)]
    for name, value in options.items():
        words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def audit_words(
    model_args: str, attacks: Sequence[str], metadata: Mapping[str, Any], output: Path, place: Place
) -> list[str]:
    """The command line that audits it."""
    return [
        *("spvmia", "run", "--model", "hf", "--model_args", model_args, "--device", place.device),
        *("--tasks", ",".join(f"{attack}_mia_custom" for attack in attacks)),
        *("--batch_size", place.batch_size, "--metadata", json.dumps(metadata)),
        *("--output_path", str(output), "--log_samples"),
    ]


def execute(words: Sequence[str], place: Place, log: Path) -> None:
    """Run `spvmia ...` in a process of its own, its output in `log`.

    Raises:
        SpvmiaError: it failed; the last line it printed is told.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    status = run_command(words, place.environment(), log)
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"status {status}"
        raise SpvmiaError(f"{words[1]}: failed: {last}; everything it printed is in {log}")
