"""Everything the report tells, unrounded and for programs, and the command that repeats the audit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spvmia_plugin import __version__
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.metrics.exposure import Exposures, exposure
from spvmia_plugin.metrics.precision import PRIORS, Precision, precisions
from spvmia_plugin.report.advice import advice, bound_sentence
from spvmia_plugin.report.command import command
from spvmia_plugin.report.numbers import (
    attack_classes,
    blind_task,
    plain,
    ranked,
    small_p_values,
    stage_seconds,
    stages,
    strongest_task,
    title,
)
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.report.verdict import CANNOT_SHOW, judge, ranges
from spvmia_plugin.results import Audit, HarnessRun, TaskResult
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.schema import as_json
from spvmia_plugin.util.strict_json import finite

FORMAT = 1
"""Version of this layout."""

_SHARED = ("membership", "n", "preconditions", "notes", "cost", "stages", "models", "settings", "seed", "versions")
"""Entries of `mia_audit` that all attacks of an audit share, told once."""
_SOMETIMES = ("scored", "self_prompts", "groups")
"""Likewise, of audits that have them."""


def report_facts(
    run: HarnessRun,
    tokens: Sequence[Sequence[TokenView]] = (),
    *,
    priors: Sequence[float] = PRIORS,
    one_by_one: bool = False,
) -> dict[str, Any]:
    """All that the report tells about a run; None for what is not resolved.

    Args:
        run: the run.
        tokens: for each audit, records to tell token by token.
        priors: shares of members to tell the precision for.
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
            {
                **audit_facts(run, audit, priors),
                "tokens": [found.to_json() for found in (tokens[number] if tokens else ())],
            }
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
        "command": command(run),
    }
    clean: dict[str, Any] = finite(without_secrets(facts))
    for audit, told in zip(run.audits, clean["audits"], strict=True):
        members = exposed(audit)
        found = picked_out(audit, members)
        told["picked_out"] = None if found is None else as_json(found)
        each = (finite(member.to_json()) for member in members)
        told["exposure"] = each if one_by_one else list(each)
    return clean


def audit_facts(run: HarnessRun, audit: Audit, priors: Sequence[float] = PRIORS) -> dict[str, Any]:
    """All that the report tells about one audit of a run."""
    told, verdict, classes = audit.told, judge(audit), attack_classes()
    blind = blind_task(audit)
    return {
        "dataset": audit.dataset,
        "is_canary_audit": audit.tasks[0].is_canary_audit,
        "verdict": {
            "level": verdict.level,
            "as_a_whole": verdict.as_a_whole,
            "most_exposed": verdict.most_exposed,
            "headline": verdict.headline,
            "sentences": [plain(sentence) for sentence in verdict.sentences],
            "failed_preconditions_it_depends_on": verdict.provisional,
            "ranges": ranges(audit),
            "membership": verdict.membership,
            "cannot_show": CANNOT_SHOW,
        },
        "bound": bound_sentence(audit),
        "advice": [
            {"title": each.title, "evidence": plain(each.evidence), "how": each.how, "command": each.command}
            for each in advice(run, audit, verdict)
        ],
        "strongest": as_json(audit.strongest) if audit.strongest else None,
        "precision": [as_json(found) for found in accusations(audit, priors)],
        "attacks": [_attack(task, classes, small_p_values(audit)) for task in ranked(audit)],
        "blind_baseline": {**told["blind"], "task": blind.task if blind else None},
        "epsilon_lb": told["epsilon_lb"],
        "exposure": [],  # of its own, member by member
        "data": {key: value for key, value in told["data"].items() if key != "clusters"},
        **{key: told[key] for key in _SHARED},
        **{key: told[key] for key in _SOMETIMES if told.get(key)},
    }


def accusations(audit: Audit, priors: Sequence[float]) -> list[Precision]:
    """What share of its accusations are right, for the attack that picks out most; empty where no TPR is resolved.

    At the FPR that the verdict on the most exposed few is made at, from the interval that allows for the choice.
    """
    found = audit.strongest
    if found is None or math.isnan(found.most_exposed.value):
        return []
    leader = found.most_exposed
    return precisions(leader.value, (leader.low, leader.high), found.low_end_metric.fpr, priors)


def exposed(audit: Audit) -> Exposures:
    """Exposure of each member over the attacks on the model, the most exposed first; empty without samples.

    First those that the verdict calls picked out, by their rank under the attack that does so: of twenty attacks one
    sets almost any record apart by chance. Then the others by `lowest_share`, and by their rank under the strongest
    attack where that leaves them equal.
    """
    scores = {task.attack: audit.scores(task) for task in ranked(audit)}
    found = exposure(audit.ids(), audit.labels(), scores, audit.p_values())
    best = strongest_task(audit)
    if best is None or best.attack not in found.names:
        return found
    under_best = found.rank[found.names.index(best.attack)].astype(np.float64)
    under_best[under_best == 0] = np.inf
    order = np.lexsort((under_best, found.lowest_shares()))
    if picked := picked_by_verdict(audit, found):
        ranks = found.rank[found.names.index(picked.attack)][order].astype(np.float64)
        ranks[(ranks == 0) | (ranks > picked.rank)] = np.inf
        order = order[np.argsort(ranks, kind="stable")]
    return found.chosen(order)


@dataclass(frozen=True)
class PickedOut:
    """The members that the attack on the most exposed few picks out.

    Attributes:
        attack: its name.
        records: how many members.
        rank: the lowest rank among them, under that attack, of all records that it scored.
        others: non-members that it scored.
        wrongly: how many of these may score as high.
    """

    attack: str
    records: int
    rank: int
    others: int
    wrongly: int


def picked_out(audit: Audit, members: Exposures) -> PickedOut | None:
    """Which of the members those are; None where there are none, or no attack speaks for the most exposed few.

    Args:
        audit: the audit.
        members: all of them.
    """
    found = audit.strongest
    attack = found.most_exposed.attack if found else None
    if found is None or attack is None or attack not in members.names:
        return None
    number = members.names.index(attack)
    # Above the other at rank f (n + 1), as the TPR is read: see `metrics.tpr`.
    wrongly = math.floor(found.low_end_metric.fpr * (members.others[number] + 1)) - 1
    counts = members.at_least[number]
    picked = (counts >= 0) & (counts <= wrongly)
    if not picked.any():
        return None
    rank = int(members.rank[number][picked].max())
    return PickedOut(attack, int(picked.sum()), rank, members.others[number], wrongly)


def picked_by_verdict(audit: Audit, members: Exposures) -> PickedOut | None:
    """The same where the verdict says that members can be picked out, else None."""
    verdict = judge(audit)
    return picked_out(audit, members) if verdict.most_exposed == "evidence" and not verdict.by_split else None


def _attack(task: TaskResult, classes: Mapping[str, type[Attack]], small: Mapping[str, float]) -> dict[str, Any]:
    rests_on = stages(task, classes)
    return {
        "task": task.task,
        "title": title(task.attack),
        "attack": task.told["attack"],
        **({"attacker": task.told["attacker"]} if task.told.get("attacker") else {}),
        "results": dict(task.metrics),
        "metrics": task.told["metrics"],
        "unscored": task.told["unscored"],
        "rests_on": rests_on,
        "seconds_of_what_it_rests_on": stage_seconds(task, rests_on),
        **{key: task.told[key] for key in ("references", "unit") if task.told.get(key)},
        **({"nonmembers_with_p_at_most_5pct": small[task.attack]} if task.attack in small else {}),
    }


def streamed(value: Any, indent: int = 2, level: int = 0) -> Iterator[str]:
    """The text of a JSON value as `json.dumps(value, indent=2)` writes it; iterators are lists.

    Args:
        value: mappings with text keys, lists, iterators and scalars. Nothing that is not finite.
        indent: spaces of a level.
        level: of `value`.

    Raises:
        ValueError: a number is not finite.
    """
    if isinstance(value, Mapping):
        opened, closed, parts = "{", "}", ((f"{json.dumps(str(key))}: ", inner) for key, inner in value.items())
    elif isinstance(value, (list, tuple, Iterator)):
        opened, closed, parts = "[", "]", (("", inner) for inner in value)
    else:
        yield json.dumps(value, allow_nan=False)
        return
    inside = f"\n{' ' * indent * (level + 1)}"
    separator = opened
    for name, inner in parts:
        yield f"{separator}{inside}{name}"
        yield from streamed(inner, indent, level + 1)
        separator = ","
    yield f"{opened}{closed}" if separator == opened else f"\n{' ' * indent * level}{closed}"
