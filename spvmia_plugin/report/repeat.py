"""The command that repeats an audit, from what the harness recorded of it, without credentials."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from spvmia_plugin.results import HarnessRun
from spvmia_plugin.util.redact import without_secrets

_DEFAULT_SEEDS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
_OPTIONS = {
    "batch_size": "--batch_size",
    "max_batch_size": "--max_batch_size",
    "device": "--device",
    "limit": "--limit",
}
"""Entries of the harness's config that are options of its command."""


def command(run: HarnessRun) -> list[str]:
    """The words of the `lm_eval` command that repeats the audits of a run; its ordinary tasks are left out."""
    config = without_secrets(dict(run.config))
    words = ["lm_eval", "run", "--model", str(config.get("model") or "hf")]
    if config.get("model_args"):
        words += ["--model_args", _model_args(config["model_args"])]
    words += ["--tasks", ",".join(task.task for audit in run.audits for task in audit.tasks)]
    options = without_secrets({key: value for audit in run.audits for key, value in audit.tasks[0].options.items()})
    if options:
        words += ["--metadata", json.dumps(options)]
    for key, option in _OPTIONS.items():
        if config.get(key) not in (None, ""):
            words += [option, _number(config[key])]
    seeds = [config.get(key, default) for key, default in _DEFAULT_SEEDS.items()]
    if seeds != list(_DEFAULT_SEEDS.values()):
        words += ["--seed", ",".join(str(seed) for seed in seeds)]
    return [*words, "--output_path", "results", "--log_samples"]


def typed(words: list[str]) -> str:
    """A command for a shell, one option a line."""
    lines = [" ".join(shlex.quote(word) for word in words[:2])]
    for word in words[2:]:
        if word.startswith("--"):
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def _model_args(arguments: Any) -> str:
    """`key=value,...`, or JSON where a value would not survive that."""
    if not isinstance(arguments, Mapping):
        return str(arguments)
    simple = all(
        isinstance(value, (int, float)) or (isinstance(value, str) and not set(value) & set(",={}[]\"'\n"))
        for value in arguments.values()
    )
    if simple:
        return ",".join(f"{key}={value}" for key, value in arguments.items())
    return json.dumps(dict(arguments))


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() and value > 1 else str(value)
