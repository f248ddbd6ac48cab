"""The entry points that later lm_evals look at: each one loads, and is what 0.4.13 is given by hand."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from spvmia_plugin.harness.metrics import AGGREGATIONS, record_pair, register_metrics
from spvmia_plugin.metrics.names import METRICS

PROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """As the source declares them: installed metadata of an editable install grow old."""
    section = re.search(rf'^\[project\.entry-points\."{re.escape(group)}"\]\n(.*?)^$', PROJECT, re.S | re.M)
    assert section
    pairs = re.findall(r'^"?([\w.]+)"? = "(.+)"$', section[1], re.M)
    return {name: importlib.metadata.EntryPoint(name, value, group) for name, value in pairs}


def test_aggregations() -> None:
    assert {name: entry.load() for name, entry in entry_points("lm_eval.aggregations").items()} == AGGREGATIONS


def test_metrics() -> None:
    found = entry_points("lm_eval.metrics")
    assert set(found) == set(AGGREGATIONS)
    assert all(entry.load() is record_pair for entry in found.values())


def test_tasks_are_a_folder_of_the_wheel() -> None:
    (entry,) = entry_points("lm_eval.tasks").values()
    assert entry.value == "spvmia_plugin.tasks"
    assert '[tool.hatch.build.targets.wheel.force-include]\ntasks = "spvmia_plugin/tasks"' in PROJECT


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_registered_with_the_lm_eval_of_today(name: str) -> None:
    from lm_eval.api import registry

    register_metrics()
    assert registry.get_aggregation(name) is AGGREGATIONS[name]
    if hasattr(registry, "get_metric"):  # 0.4.13 keeps three tables
        assert registry.get_metric(name) is record_pair
        assert registry.get_metric_aggregation(name) is AGGREGATIONS[name]
        assert registry.is_higher_better(name) is METRICS[name].higher_is_better
    else:
        metric = registry.metric_registry.get(name)
        assert metric.fn is record_pair
        assert metric.aggregation is AGGREGATIONS[name]
        assert metric.higher_is_better is METRICS[name].higher_is_better


def test_what_they_compute() -> None:
    pairs = [(True, 0.9), (True, 0.4), (False, 0.5), (False, 0.1)]
    assert AGGREGATIONS["auroc"](pairs) == 0.75
    assert AGGREGATIONS["privacy_score"](pairs) == 0.5
