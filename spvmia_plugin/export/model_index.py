"""The `model-index` of a model card, through huggingface_hub's own classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export.common import ExportOptions, Files, model_id, protocol_digits, source_name, warnings
from spvmia_plugin.export.metric import Value, values
from spvmia_plugin.results.model import Audit, HarnessRun, TaskResult
from spvmia_plugin.web.text import unlinked

PATH = "model-index.md"
_HUB_METRICS = {"auroc": "roc_auc"}
"""Ids of hf.co/metrics, where there is one."""


def to_model_index(run: HarnessRun, options: ExportOptions) -> Files:
    """A card of metadata alone, to be merged into the model's README.

    Raises:
        SpvmiaError: an audit whose preconditions failed: a card shows a bare number, and has no place for the warning.
    """
    from huggingface_hub import ModelCardData

    for audit in run.audits:
        _refuse_failed(audit)
    results = [result for audit in run.audits for task in audit.tasks for result in _results(audit, task)]
    if not results:
        raise SpvmiaError(f"RESULTS: expected an audit with a number, got none in {run.path}")
    name = model_id(run, options).partition("/")[2]
    card = ModelCardData(model_name=name, eval_results=results)
    return {PATH: f"---\n{card.to_yaml()}\n---\n"}


def _refuse_failed(audit: Audit) -> None:
    failed = [message for task in audit.tasks for message in warnings(task)]
    if failed:
        raise SpvmiaError(
            f"--to: expected an audit whose preconditions hold, as a model card shows a number without its warnings; "
            f"got {failed[0]}; mend the data and run again, or export to every-eval-ever or hf-eval-results, which "
            "carry the warning"
        )


def _results(audit: Audit, task: TaskResult) -> Iterator[object]:
    from huggingface_hub import EvalResult

    for value in values(task):
        if math.isnan(value.value):
            continue
        metric = value.metric
        better = "lower" if metric.lower_is_better else "higher"
        whose = "" if metric.key == "blind_auroc" else f" of the attack {task.attack}"
        yield EvalResult(
            task_type="text-generation",
            task_name="Membership inference",
            dataset_type=audit.dataset,
            dataset_name=unlinked(source_name(audit)),
            dataset_config=f"{task.task}-{protocol_digits(audit, task)}",
            metric_type=_HUB_METRICS.get(metric.key, metric.key),
            metric_name=unlinked(f"{metric.name}{whose} ({better} is better)"),
            metric_value=value.value,
            metric_args=_arguments(task, value),
        )


def _arguments(task: TaskResult, value: Value) -> dict[str, object]:
    n = task.record["n"]
    return {
        "lower_is_better": value.metric.lower_is_better,
        "members": n["members"],
        "nonmembers": n["nonmembers"],
        "membership": task.record["membership"],
        **({"stderr": value.stderr} if math.isfinite(value.stderr) else {}),
        **({"interval": [value.low, value.high]} if math.isfinite(value.low) else {}),
    }
