"""Everything the report tells, unrounded and JSON-ready."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spvmia_plugin import __version__
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.metrics.exposure import MemberExposure, exposure
from spvmia_plugin.report import repeat
from spvmia_plugin.report.attacks import attack_classes, blind_task, ranked, stage_seconds, stages, title
from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.report.verdict import CANNOT_SHOW, judge, ranges
from spvmia_plugin.results import Audit, HarnessRun, TaskResult
from spvmia_plugin.strict_json import finite

FORMAT = 1
"""Version of this layout."""

_SHARED = ("membership", "n", "preconditions", "notes", "cost", "stages", "models", "settings", "seed", "versions")
"""Entries of `mia_audit` that all attacks of an audit share, told once."""


def report_facts(run: HarnessRun, tokens: Sequence[Sequence[TokenView]] = ()) -> dict[str, Any]:
    """All that the report tells about a run; None for what is not resolved.

    Args:
        run: the run.
        tokens: for each audit, records to tell token by token.
    """
    facts = {
        "format": FORMAT,
        "spvmia_version": __version__,
        "model": run.model,
        "date": run.date,
        "results_file": run.path.name,
        "audits": [
            {**audit_facts(audit), "tokens": [found.to_json() for found in (tokens[number] if tokens else ())]}
            for number, audit in enumerate(run.audits)
        ],
        "capabilities": [
            {
                "task": found.task,
                "metric": found.metric,
                "value": found.value,
                "stderr": found.stderr,
                "higher_is_better": found.higher_is_better,
                "n": found.n,
            }
            for found in run.capabilities
        ],
        "config": dict(run.config),
        "versions": dict(run.versions),
        "command": repeat.command(run),
    }
    clean: dict[str, Any] = finite(repeat.without_secrets(facts))
    return clean


def audit_facts(audit: Audit) -> dict[str, Any]:
    """All that the report tells about one audit."""
    record, verdict, classes = audit.record, judge(audit), attack_classes()
    blind = blind_task(audit)
    return {
        "dataset": audit.dataset,
        "is_canary_audit": audit.tasks[0].is_canary_audit,
        "verdict": {
            "level": verdict.level,
            "headline": verdict.headline,
            "sentences": [plain(sentence) for sentence in verdict.sentences],
            "failed_preconditions_it_depends_on": verdict.provisional,
            "ranges": ranges(audit),
            "membership": verdict.membership,
            "cannot_show": CANNOT_SHOW,
        },
        "strongest": audit.strongest.to_json() if audit.strongest else None,
        "attacks": [_attack(task, classes) for task in ranked(audit)],
        "blind_baseline": {**record["blind"], "task": blind.task if blind else None},
        "epsilon_lb": record["epsilon_lb"],
        "exposure": [member.to_json() for member in exposed(audit)],
        "data": {key: value for key, value in record["data"].items() if key != "clusters"},
        **{key: record.get(key) for key in _SHARED},
    }


def exposed(audit: Audit) -> list[MemberExposure]:
    """Exposure of each member over the attacks on the model, the most exposed first; empty without samples.

    Members that no attack sets apart from each other by `lowest_share` stand by their rank under the strongest attack.
    """
    if not audit.has_samples:
        return []
    scores = {task.attack: audit.scores(task) for task in ranked(audit)}
    found = exposure([record.id for record in audit.records], audit.labels(), scores)
    best = audit.strongest.name if audit.strongest else None

    def order(member: MemberExposure) -> tuple[float, float]:
        under_best = member.attacks.get(best) if best else None
        lowest = math.inf if member.lowest_share is None else member.lowest_share
        return lowest, math.inf if under_best is None else under_best.rank

    return sorted(found, key=order)


def _attack(task: TaskResult, classes: Mapping[str, type[Attack]]) -> dict[str, Any]:
    rests_on = stages(task, classes)
    return {
        "task": task.task,
        "title": title(task.attack),
        "attack": task.record["attack"],
        "results": dict(task.metrics),
        "metrics": task.record["metrics"],
        "unscored": task.record["unscored"],
        "rests_on": rests_on,
        "seconds_of_what_it_rests_on": stage_seconds(task, rests_on),
    }
