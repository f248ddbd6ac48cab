"""The command that repeats the audits of a run."""

from __future__ import annotations

import json
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
_LEFT_OUT = (None, "", "cuda:0")
"""Values of these that need no word: the last is the harness's own device, told where there is no GPU, too."""


def command(run: HarnessRun, **changed: object) -> list[str]:
    """The words of the `lm_eval` command that repeats the audits of a run; its ordinary tasks are left out.

    Args:
        run: the run.
        changed: options of the audits that have another value this time.
    """
    config = without_secrets(dict(run.config))
    words = ["lm_eval", "run", "--model", str(config.get("model") or "hf")]
    if config.get("model_args"):
        words += ["--model_args", _model_args(config["model_args"])]
    words += ["--tasks", ",".join(task.task for audit in run.audits for task in audit.tasks)]
    options = without_secrets({key: value for audit in run.audits for key, value in audit.tasks[0].options.items()})
    options |= changed
    if options:
        words += ["--metadata", json.dumps(options)]
    for key, option in _OPTIONS.items():
        if config.get(key) not in _LEFT_OUT:
            value = config[key]  # a limit of 50.0 records is 50
            whole = isinstance(value, float) and value.is_integer() and value > 1
            words += [option, str(int(value) if whole else value)]
    seeds = [config.get(key, default) for key, default in _DEFAULT_SEEDS.items()]
    if seeds != list(_DEFAULT_SEEDS.values()):
        words += ["--seed", ",".join(str(seed) for seed in seeds)]
    return [*words, "--output_path", "results", "--log_samples"]


def _model_args(arguments: Any) -> str:
    """`key=value,...`, or JSON where a value would not survive that.

    A model that was handed over in memory describes itself over several lines: no command names it.
    """
    if not isinstance(arguments, Mapping):
        return str(arguments)
    arguments = {
        key: "IN_MEMORY" if isinstance(value, str) and "\n" in value else value for key, value in arguments.items()
    }
    simple = all(
        isinstance(value, (int, float)) or (isinstance(value, str) and not set(value) & set(",={}[]\"'\n"))
        for value in arguments.values()
    )
    if simple:
        return ",".join(f"{key}={value}" for key, value in arguments.items())
    return json.dumps(dict(arguments))
