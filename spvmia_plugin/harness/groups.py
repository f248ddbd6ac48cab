"""Rows of groups: the mean over the tasks that have a number, with the standard error of that mean.

The harness takes the tasks of a group to be scored on data of their own, which is right for `spv_mia` and wrong for
`mia_<dataset>`, where all attacks see the same records; and one NaN (an attack whose data were not given) makes its
mean NaN. A group's YAML cannot say otherwise, so the method that writes the row is wrapped, for groups of our tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from lm_eval.api.group import Group

from spvmia_plugin.audit.plan import show
from spvmia_plugin.harness.request import REQUEST_TYPE
from spvmia_plugin.metrics.names import AUROC
from spvmia_plugin.metrics.several import mean_stderr

if TYPE_CHECKING:
    from spvmia_plugin.harness.task import AuditTask

_DONE = "spvmia_means"
FILTER = "none"
"""The one pipeline of our tasks: metrics appear as `auroc,none`."""


def install_group_means() -> None:
    """Let groups of nothing but audits average as described above; every other group stays with the harness."""
    original = Group.aggregate
    if hasattr(original, _DONE):
        return

    @wraps(original)
    def aggregate(group: Any, task_metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = original(group, task_metrics)
        tasks = [task for task in group.get_all_tasks() if task.task_name in task_metrics]
        if tasks and all(task.OUTPUT_TYPE == REQUEST_TYPE for task in tasks):
            _average(group, tasks, task_metrics, row)
        return row

    setattr(aggregate, _DONE, True)
    Group.aggregate = aggregate


def _average(
    group: Any, tasks: Sequence[AuditTask], task_metrics: Mapping[str, Mapping[str, Any]], row: dict[str, Any]
) -> None:
    """Write the means and their errors into the harness's row, and say which tasks are not in them."""
    for asked in group.aggregate_metric_list or []:
        key, stderr_key = f"{asked.metric},{FILTER}", f"{asked.metric}_stderr,{FILTER}"
        if key not in row:
            continue
        values = {task: float(task_metrics[task.task_name][key]) for task in tasks}
        found = [task for task in tasks if not math.isnan(values[task])]
        sizes = {task: int(task_metrics[task.task_name]["sample_len"]) for task in found}
        total = sum(sizes.values()) if asked.weight_by_size else len(found)
        weights = [(sizes[task] if asked.weight_by_size else 1) / total for task in found]
        complete = {id(task.comparison) for task in found} == {id(task.comparison) for task in tasks}
        row["sample_count"][key] = sum(sizes.values())
        row[key] = sum(w * values[task] for w, task in zip(weights, found, strict=True)) if complete else math.nan
        stderrs = [task_metrics[task.task_name][stderr_key] for task in found]
        if row.get(stderr_key) != "N/A":
            row[stderr_key] = _stderr(asked.metric, found, stderrs, weights) if complete else math.nan
        if asked.metric == AUROC.key and len(found) < len(tasks):
            missing = ", ".join(task.task_name for task in tasks if task not in found)
            show(f"spvmia: {group.name}: means over {len(found)} of {len(tasks)} tasks; without a number: {missing}")


def _stderr(metric: str, tasks: Sequence[AuditTask], stderrs: Sequence[float], weights: Sequence[float]) -> float:
    """Of the weighted mean; NaN where an error is not known."""
    if any(math.isnan(stderr) for stderr in stderrs):
        return math.nan
    return mean_stderr(stderrs, weights, [[_correlation(metric, one, other) for other in tasks] for one in tasks])


def _correlation(metric: str, one: AuditTask, other: AuditTask) -> float:
    """Of the errors of two tasks: known on the same data, none between different data."""
    if one is other:
        return 1.0
    if one.comparison is None or other.comparison is None:
        return 1.0
    if one.comparison is not other.comparison:
        return 0.0
    return one.comparison.correlation(metric, one.config.task, other.config.task)
