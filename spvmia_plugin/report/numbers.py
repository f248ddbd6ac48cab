"""The attacks of an audit as people name and order them, and numbers with their exact value and where they stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.api_view import shown_as
from spvmia_plugin.auditing.continuations import COMPARING
from spvmia_plugin.auditing.continuations import STAGE as CONTINUING
from spvmia_plugin.auditing.roles import CALLED, GIVEN
from spvmia_plugin.metrics.leaders import Leader
from spvmia_plugin.metrics.names import ASR, AUROC
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.signals import WRITTEN, Role, View
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import printed


@dataclass(frozen=True, slots=True)
class Number:
    """One number of the report.

    Attributes:
        value: unrounded; None or NaN is not resolved.
        style: of `web.text.STYLES`.
        source: where it was taken from: "results/<task>/<metric>", "mia_audit/<task>/<key>/...", or "computed/...".
    """

    value: float | None
    style: str
    source: str

    def __str__(self) -> str:
        """As it is printed."""
        return printed(self.value, self.style)


Text: TypeAlias = tuple["str | Number", ...]
"""A sentence: words and the numbers in it."""


def plain(text: Iterable[str | Number]) -> str:
    """A sentence as plain text."""
    return "".join(str(part) for part in text)


def counted(number: Number, one: str, many: str = "") -> Text:
    """A count with what it counts: "1 record", "2 records"."""
    return (number, f" {one}" if number.value == 1 else f" {many or one + 's'}")


def metric(task: TaskResult, name: str, style: str) -> Number:
    """A number of the harness's own row."""
    return Number(task.metrics.get(name), style, f"results/{task.task}/{name}")


def audited(task: TaskResult, *path: str | int, style: str) -> Number:
    """A number of the task's `mia_audit`; not resolved where the path ends before it."""
    value: object = task.told
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            value = None
    known = float(value) if isinstance(value, (int, float)) else None
    return Number(known, style, "/".join(("mia_audit", task.task, *map(str, path))))


def with_interval(task: TaskResult, name: str, style: str) -> tuple[Number, Number, Number]:
    """A metric with both ends of its interval."""
    path = (f"{name}_interval",) if name in (AUROC.key, ASR.key) else (name, "interval")
    low, high = (audited(task, "metrics", *path, end, style=style) for end in (0, 1))
    printed = name in task.metrics  # by the harness; the rest stands in mia_audit alone
    value = metric(task, name, style) if printed else audited(task, "metrics", name, "value", style=style)
    return value, low, high


def leading(audit: Audit, name: str, style: str) -> tuple[Number, Number, Number]:
    """The strongest attack's number and both ends of its simultaneous interval.

    Args:
        audit: of which.
        name: key of the leader (`Strongest.every_leader`).
        style: of the numbers.
    """
    first, found = audit.tasks[0], audit.strongest
    leader = found.every_leader[name] if found else Leader()
    told = first.told.get("strongest") or {}
    recorded = found is audit.mia_audit.strongest and isinstance(told.get(name), Mapping)
    place = f"mia_audit/{first.task}/strongest/{name}" if recorded else f"computed/strongest/{name}"
    value, low, high = (Number(getattr(leader, part), style, f"{place}/{part}") for part in ("value", "low", "high"))
    return value, low, high


def title(name: str) -> str:
    """The attack's name in full, safe to show; one of a plugin, which a report does not load, by its own name."""
    return next((attack.title for attack in builtin_attacks() if attack.name == name), "") or shown(name)


NOTHING_ELSE = "nothing else"
"""What an attacker was given who was given nothing."""


def knowledge(task: TaskResult) -> str | None:
    """What the attack was given besides record and target, safe to show; None where the results do not say.

    What it saw of the target stands first where that was less than all log-probabilities.
    """
    told = task.mia_audit.attacker
    if told is None:
        return None
    seen = [] if told.api_view in ("full", "nothing") else [f"of the target {shown(shown_as(told.api_view))}"]
    return ", ".join([*seen, *(GIVEN.get(name, shown(name)) for name in told.given)]) or NOTHING_ELSE


def ranked(audit: Audit) -> list[TaskResult]:
    """The attacks on the model by AUROC, the strongest first; those without an AUROC last."""

    def auroc(task: TaskResult) -> float:
        value = task.metrics.get(AUROC.key, math.nan)
        return value if math.isfinite(value) else -1.0

    return sorted(audit.model_attacks, key=lambda task: -auroc(task))


def blind_task(audit: Audit) -> TaskResult | None:
    """The blind baseline, if it was among the tasks."""
    return next((task for task in audit.tasks if task not in audit.model_attacks), None)


def strongest_task(audit: Audit, name: str = AUROC.key) -> TaskResult | None:
    """The task of the attack with most of a metric."""
    found = audit.strongest
    attack = found.by_metric[name].attack if found else None
    return next((task for task in audit.model_attacks if task.attack == attack), None)


SMALL_P = 0.05
"""The p-value at which the share of non-members is told that have no larger one."""


def small_p_values(audit: Audit) -> dict[str, float]:
    """Share of the non-members whose p-value is at most `SMALL_P`, by attack, of those that give p-values."""
    others = ~audit.labels()
    found = {attack: values[others & ~np.isnan(values)] for attack, values in audit.p_values().items()}
    return {attack: float(np.mean(values <= SMALL_P)) for attack, values in found.items() if len(values)}


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
    kinds = {need.role for need in needs if need.view not in WRITTEN}
    roles = [role for role in Role if role.kind in kinds]  # of several references all
    wanted = {f"scoring: {role.value}" for role in roles} | {CALLED[role] for role in roles}
    wanted |= {f"gradients: {need.role.value}" for need in needs if need.view is View.GRADIENT}
    apart = {View.NEIGHBOURS: "paraphrases", View.CONTINUED: CONTINUING, View.SIMILARITY: COMPARING}
    wanted |= {apart[need.view] for need in needs if need.view in apart}
    return [stage for stage in task.mia_audit.cost if stage in wanted]


def stage_seconds(task: TaskResult, names: Sequence[str] | None) -> float | None:
    """Seconds of the stages an attack rests on: an upper limit, for attacks share them; None if not known."""
    return None if names is None else math.fsum(task.mia_audit.cost[name]["seconds"] for name in names)
