"""The attacks of an audit for people: names, order, and what each of them rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.signals import View
from spvmia_plugin.util.console import shown

TITLES: Mapping[str, str] = {
    "loss": "Loss",
    "zlib": "Loss per zlib byte",
    "lowercase": "Lowercase ratio",
    "min_k": "Min-K%",
    "min_k_pp": "Min-K%++",
    "neighbour": "Neighbours",
    "detectgpt": "DetectGPT",
    "ratio": "Loss ratio, base reference",
    "lira_base": "LiRA, base reference",
    "lira_candidate": "LiRA, candidate reference",
    "spv": "SPV-MIA",
    "ez": "Error zone, base reference",
    "wbc": "Windows, base reference",
    "spv_ez": "Error zone, SPV reference",
    "spv_wbc": "Windows, SPV reference",
    "recall": "ReCaLL",
    "rmia": "RMIA, offline",
    "bag_of_words": "Bag of words (sees no model)",
}
"""Names in full; an attack of a plugin goes by its own name."""

CALIBRATING = {"reference": ("reference",), "candidate": ("candidate reference",)}
"""Stages that bring a role's model, beyond those that score with it."""


def title(name: str) -> str:
    """The attack's name in full, safe to show."""
    return TITLES.get(name) or shown(name)


def ranked(audit: Audit) -> list[TaskResult]:
    """The attacks on the model by AUROC, the strongest first; those without an AUROC last."""
    return sorted(audit.model_attacks, key=lambda task: -_auroc(task))


def blind_task(audit: Audit) -> TaskResult | None:
    """The blind baseline, if it was among the tasks."""
    return next((task for task in audit.tasks if task not in audit.model_attacks), None)


def _auroc(task: TaskResult) -> float:
    value = task.metrics.get("auroc", math.nan)
    return value if math.isfinite(value) else -1.0


def attack_classes() -> Mapping[str, type[Attack]]:
    """The attacks of all installed plugins by name."""
    from spvmia_plugin.plugins import load_registry  # reads the entry points of every installed distribution

    return load_registry().attacks


def stages(task: TaskResult, classes: Mapping[str, type[Attack]]) -> list[str] | None:
    """Stages of the audit's cost that the attack rests on; None for an attack of a plugin that is not installed."""
    cls = classes.get(task.attack)
    if cls is None:
        return None
    needs = cls().needs
    roles = {need.role.value for need in needs}
    wanted = {f"scoring: {role}" for role in roles}
    wanted |= {stage for role in roles for stage in CALIBRATING.get(role, ())}
    if any(need.view is View.NEIGHBOURS for need in needs):
        wanted.add("paraphrases")
    return [stage for stage in task.record.get("cost", {}) if stage in wanted]


def stage_seconds(task: TaskResult, names: Sequence[str] | None) -> float | None:
    """Seconds of the stages an attack rests on: an upper limit, for attacks share them; None if not known."""
    return None if names is None else math.fsum(task.record["cost"][name]["seconds"] for name in names)
