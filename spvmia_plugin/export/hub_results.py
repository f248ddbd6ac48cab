"""The Hub's `.eval_results/*.yaml` (huggingface.co/docs/hub/eval-results), through huggingface_hub's own class."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export.common import ExportOptions, Files, protocol_digits, warnings
from spvmia_plugin.export.metric import values
from spvmia_plugin.results.model import Audit, HarnessRun, TaskResult
from spvmia_plugin.web.text import unlinked

PATH = ".eval_results/spvmia.yaml"
VALUE = "privacy_score"
"""The format has one number a task and no direction; the Hub ranks large numbers first, so it gets the one that is
better the larger it is. The others stand in the notes."""


def to_hub_results(run: HarnessRun, options: ExportOptions) -> Files:
    """One entry an attack: the privacy score, with AUROC, intervals, protocol and warnings in its notes.

    Raises:
        SpvmiaError: no benchmark was named.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    if options.benchmark is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", options.benchmark):
        raise SpvmiaError(
            "--benchmark: expected the Hub's data set that hosts the leaderboard, ORG/NAME with an eval.yaml, got "
            f"{options.benchmark!r}; its eval.yaml names the tasks as lm_eval does"
        )
    entries = [
        entry
        for audit in run.audits
        for task in audit.tasks
        if (entry := _entry(run, audit, task, options.benchmark)) is not None
    ]
    if not entries:
        raise SpvmiaError(f"RESULTS: expected an audit with a privacy score, got none in {run.path}")
    return {PATH: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=False, width=120)}


def _entry(run: HarnessRun, audit: Audit, task: TaskResult, benchmark: str) -> Any:
    from huggingface_hub import EvalResultEntry

    value = task.metrics.get(VALUE, math.nan)
    if math.isnan(value):
        return None
    return EvalResultEntry(
        dataset_id=benchmark,
        task_id=task.task,
        value=value,
        date=datetime.fromtimestamp(run.date, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        notes=_notes(audit, task),
    )


def _notes(audit: Audit, task: TaskResult) -> str:
    """One paragraph: first what is wrong, then what the number is."""
    told = [f"WARNING: {message}" for message in warnings(task)]
    for value in values(task):
        if value.metric.key != VALUE and not math.isnan(value.value):
            interval = "" if math.isnan(value.low) else f" ({value.low!r} to {value.high!r})"
            told.append(f"{value.metric.name} {value.value!r}{interval}")
    n = task.record["n"]
    told.append(f"{n['members']} members, {n['nonmembers']} non-members, membership {task.record['membership']}")
    told.append(f"protocol {protocol_digits(audit, task)}: comparable with results of the same digits only")
    told.append(f"spvmia-plugin {task.record['versions']['spvmia-plugin']}")
    return unlinked("; ".join(told))
