"""Everything the report tells, unrounded and JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spvmia_plugin import __version__
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.metrics.exposure import Exposures, exposure
from spvmia_plugin.report import repeat
from spvmia_plugin.report.attacks import attack_classes, blind_task, ranked, stage_seconds, stages, title
from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.report.verdict import CANNOT_SHOW, judge, ranges
from spvmia_plugin.results import Audit, HarnessRun, TaskResult
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.strict_json import finite

FORMAT = 1
"""Version of this layout."""

_SHARED = ("membership", "n", "preconditions", "notes", "cost", "stages", "models", "settings", "seed", "versions")
"""Entries of `mia_audit` that all attacks of an audit share, told once."""


def report_facts(
    run: HarnessRun, tokens: Sequence[Sequence[TokenView]] = (), *, one_by_one: bool = False
) -> dict[str, Any]:
    """All that the report tells about a run; None for what is not resolved.

    Args:
        run: the run.
        tokens: for each audit, records to tell token by token.
        one_by_one: give the members under `exposure` as an iterator, for `streamed`: 100,000 in a list take a gigabyte.
    """
    facts = {
        "format": FORMAT,
        "spvmia_version": __version__,
        "model": run.model,
        "date": run.date,
        "results_file": run.path.name,
        "left_out": list(run.left_out),
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
    clean: dict[str, Any] = finite(without_secrets(facts))
    for audit, told in zip(run.audits, clean["audits"], strict=True):
        members = (finite(member.to_json()) for member in exposed(audit))
        told["exposure"] = members if one_by_one else list(members)
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
        "exposure": [],  # of its own, member by member
        "data": {key: value for key, value in record["data"].items() if key != "clusters"},
        **{key: record.get(key) for key in _SHARED},
    }


def exposed(audit: Audit) -> Exposures:
    """Exposure of each member over the attacks on the model, the most exposed first; empty without samples.

    Members that no attack sets apart from each other by `lowest_share` stand by their rank under the strongest attack.
    """
    scores = {task.attack: audit.scores(task) for task in ranked(audit)}
    found = exposure(audit.ids(), audit.labels(), scores)
    best = audit.strongest.name if audit.strongest else None
    if best not in found.names:
        return found
    under_best = found.rank[found.names.index(best)].astype(np.float64)
    under_best[under_best == 0] = np.inf
    return found.chosen(np.lexsort((under_best, found.lowest_shares())))


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
