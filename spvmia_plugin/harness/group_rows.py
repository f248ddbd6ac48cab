"""Rows of groups of audits: the strongest attack of one data set, the mean over several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from lm_eval.api.group import Group

from spvmia_plugin.harness.metrics import FILTER
from spvmia_plugin.harness.request import REQUEST_TYPE
from spvmia_plugin.metrics.leaders import Compared, best
from spvmia_plugin.metrics.mean import mean_stderr
from spvmia_plugin.metrics.names import AUROC, NORMAL_95
from spvmia_plugin.util.console import show

if TYPE_CHECKING:
    from spvmia_plugin.harness.task import AuditTask

_ROWS = "spvmia_rows"
"""Mark of the method that writes the rows of groups, once it is ours."""


def install_group_rows() -> None:
    """Rows of groups of nothing but audits: the strongest attack of one data set, the mean over several.

    `mia_<dataset>`, and a group of the user's own likewise, holds attacks on the same records: its row is the strongest
    attack by each metric, with an error that allows for all that were tried, and without the blind baseline, which sees
    no model. "aggregation: mean" is all that a YAML can ask the harness for; a mean over attacks, many of them weak by
    construction, would say that a model leaks less than it does. In groups over several data sets (`spv_mia`) it is the
    mean over the tasks that have a number, and that mean's error; the harness's own formulas take all tasks to be
    scored on data of their own, and make one NaN the group's. A group's YAML cannot say so, hence the method that
    writes the row is wrapped; every other group stays with the harness.
    """
    original = Group.aggregate
    if hasattr(original, _ROWS):
        return

    @wraps(original)
    def aggregate(group: Any, task_metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = original(group, task_metrics)
        tasks = [task for task in group.get_all_tasks() if task.task_name in task_metrics]
        if tasks and all(task.OUTPUT_TYPE == REQUEST_TYPE for task in tasks):
            compared = tasks[0].comparison.compared if tasks[0].comparison else None
            if len(tasks) > 1 and compared and len({id(task.comparison) for task in tasks}) == 1:
                _take_strongest(group, tasks, compared, task_metrics, row)
                if group.name != f"mia_{tasks[0].config.metadata['spvmia_dataset']}" and not tasks[0].outcome.quiet:
                    show(f"spvmia: {group.name}: its row is the strongest attack on these records, not the mean of all")
            else:
                _average(group, tasks, task_metrics, row)
        return row

    setattr(aggregate, _ROWS, True)
    Group.aggregate = aggregate


def _take_strongest(
    group: Any,
    tasks: Sequence[AuditTask],
    compared: Compared,
    task_metrics: Mapping[str, Mapping[str, Any]],
    row: dict[str, Any],
) -> None:
    """Write the strongest attack's numbers into the harness's row.

    The error is the one whose 1.96 fold is half the simultaneous interval. What has no such interval (`asr`,
    `privacy_score`) is that of the attack with the largest AUROC.
    """
    names = {task.task_name for task in tasks}
    leaders = {
        metric: best(metric, [leader for task, leader in found.items() if task in names])
        for metric, found in compared.leaders.items()
    }
    for asked in group.aggregate_metric_list or []:
        key, stderr_key = f"{asked.metric},{FILTER}", f"{asked.metric}_stderr,{FILTER}"
        if key not in row:
            continue
        leader = leaders.get(asked.metric, leaders[AUROC.key])
        of_leader = task_metrics.get(leader.task or "", {})
        row[key] = float(of_leader.get(key, math.nan))
        row["sample_count"][key] = int(of_leader.get("sample_len", 0))
        if row.get(stderr_key) != "N/A":
            row[stderr_key] = (leader.high - leader.low) / (2 * NORMAL_95) if asked.metric in leaders else "N/A"


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
        if asked.metric == AUROC.key and len(found) < len(tasks) and not tasks[0].outcome.quiet:
            missing = ", ".join(task.task_name for task in tasks if task not in found)
            show(f"spvmia: {group.name}: means over {len(found)} of {len(tasks)} tasks; without a number: {missing}")


def _stderr(metric: str, tasks: Sequence[AuditTask], stderrs: Sequence[float], weights: Sequence[float]) -> float:
    """Of the weighted mean; NaN where an error is not known."""
    if any(math.isnan(stderr) for stderr in stderrs):
        return math.nan
    return mean_stderr(stderrs, weights, [[_correlation(metric, one, other) for other in tasks] for one in tasks])


def _correlation(metric: str, one: AuditTask, other: AuditTask) -> float:
    """Of the errors of two tasks: known on the same data, none between different data."""
    if one is other or one.comparison is None or other.comparison is None:
        return 1.0
    if one.comparison is not other.comparison:
        return 0.0
    return one.comparison.correlation(metric, one.config.task, other.config.task)
