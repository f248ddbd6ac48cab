"""What the page shows of an audit, in the order of the page. The template only lays it out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.metrics.exposure import Exposures
from spvmia_plugin.report.attacks import attack_classes, blind_task, ranked, stage_seconds, stages, title
from spvmia_plugin.report.facts import exposed
from spvmia_plugin.report.numbers import Number, Text, audited, metric
from spvmia_plugin.report.table import exposure_table
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.report.tokenwise import Tokenwise, tokenwise
from spvmia_plugin.report.verdict import (
    CANNOT_SHOW,
    Verdict,
    casts_doubt,
    judge,
    ranges,
    strongest_numbers,
    strongest_task,
    tpr_numbers,
)
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.results.findings import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.redact import without_secrets

FIRST_ROWS = 25
"""Rows of the exposure table that stand in the page itself, for readers without scripts and for print."""


@dataclass(frozen=True)
class Row:
    """One attack in the table of all attacks."""

    name: str
    title: str
    task: str
    is_strongest: bool
    is_blind: bool
    auroc: tuple[Number, Number, Number]
    tpr_1: tuple[Number, Number, Number]
    tpr_01: tuple[Number, Number, Number]
    asr: Number
    scored: Number
    seconds: Number
    unscored: Sequence[tuple[Number, str]]


@dataclass(frozen=True)
class Dot:
    """One of the hundred records of the picture: its place, and how sure it is that it can be picked out."""

    x: int
    y: int
    kind: str


@dataclass(frozen=True)
class Hundred:
    """Of 100 training records, how many can be picked out at 1 false accusation in 100 others."""

    dots: Sequence[Dot]
    kinds: frozenset[str]
    alt: str


@dataclass(frozen=True)
class AuditView:
    """One audit's part of the page; see the template for where each goes."""

    audit: Audit
    verdict: Verdict
    warnings: Sequence[str]
    notes: Sequence[str]
    ranges: str
    cannot_show: str
    hundred: Hundred | None
    source: str
    facts: Sequence[tuple[str, Text, Text]]
    rows: Sequence[Row]
    epsilon: Text | None
    blind: Text
    cost: Sequence[tuple[str, Sequence[Number]]]
    members: Exposures
    table: dict[str, Any]
    tokens: Sequence[Tokenwise]
    settings: Sequence[tuple[str, str]]
    provenance: Sequence[tuple[str, str]]


def view(audit: Audit, tokens: Sequence[TokenView] = ()) -> AuditView:
    """Everything the page shows of an audit but the figures.

    Args:
        audit: the audit.
        tokens: records to show token by token.
    """
    record = audit.record
    verdict = judge(audit)
    findings = record["preconditions"]
    members = exposed(audit)
    return AuditView(
        audit=audit,
        verdict=verdict,
        warnings=[shown(found["message"]) for found in _doubts_first(audit)],
        notes=[shown(found["message"]) for found in findings if found["severity"] != "warning"]
        + [shown(str(note)) for note in record.get("notes", ())],
        ranges=ranges(audit),
        cannot_show=CANNOT_SHOW,
        hundred=_hundred(audit),
        source=shown(str(record["data"].get("source") or audit.dataset)),
        facts=_facts(audit),
        rows=_rows(audit),
        epsilon=_epsilon(audit),
        blind=_blind(audit),
        cost=_cost(audit.tasks[0]),
        members=members,
        table=exposure_table(audit, members),
        tokens=[tokenwise(found) for found in tokens],
        settings=_flat(without_secrets(record["settings"])),
        provenance=_flat(without_secrets(_provenance(record))),
    )


def _doubts_first(audit: Audit) -> list[Mapping[str, Any]]:
    """Failed preconditions: those that the verdict depends on before those that touch other numbers."""
    return sorted(failed(audit), key=lambda found: not casts_doubt(found, audit))


def _hundred(audit: Audit) -> Hundred | None:
    best = strongest_task(audit)
    if best is None:
        return None
    tpr, low, high = (number.value for number in tpr_numbers(best, "per_hundred"))
    if tpr is None or low is None or high is None or math.isnan(tpr):
        return None
    ends = [round(100 * value) for value in (low, tpr, high)]
    kinds = [
        "sure" if i < ends[0] else "likely" if i < ends[1] else "maybe" if i < ends[2] else "rest" for i in range(100)
    ]
    numbers = tpr_numbers(best, "per_hundred")
    alt = "Of 100 training records about {} can be picked out, at least {}, at most {}.".format(*numbers)
    return Hundred([Dot(i % 10, i // 10, kind) for i, kind in enumerate(kinds)], frozenset(kinds), alt)


def _facts(audit: Audit) -> list[tuple[str, Text, Text]]:
    """The tiles below the verdict: what, the number, and its range."""
    first, best = audit.tasks[0], strongest_task(audit)
    tiles: list[tuple[str, Text, Text]] = []
    if best is not None:
        auroc, low, high = strongest_numbers(audit, "share")
        tiles.append(("AUROC of the strongest", (auroc,), (low, " to ", high)))
        tpr, low, high = tpr_numbers(best, "share")
        tiles.append(("its TPR at 1 % FPR", (tpr,), (low, " to ", high)))
        tiles.append(
            ("its privacy score", (metric(best, "privacy_score", "share"),), ("1 = guessing, 0 = told apart",))
        )
    members, others = (audited(first, "n", key, style="count") for key in ("members", "nonmembers"))
    tiles.append(("audited", (members, " members"), (others, " others")))
    tiles.append(("membership", (str(audit.record["membership"]),), ()))
    return tiles


def _rows(audit: Audit) -> list[Row]:
    classes = attack_classes()
    best, blind = strongest_task(audit), blind_task(audit)
    rows = []
    for task in (*ranked(audit), *([blind] if blind else [])):
        seconds = stage_seconds(task, stages(task, classes))
        low, high = (audited(task, "metrics", "auroc_interval", end, style="share") for end in (0, 1))
        tenth_low, tenth_high = (
            audited(task, "metrics", "tpr_at_0.1pct_fpr", "interval", end, style="share") for end in (0, 1)
        )
        rows.append(
            Row(
                name=task.attack,
                title=title(task.attack),
                task=shown(task.task),
                is_strongest=task is best,
                is_blind=task is blind,
                auroc=(metric(task, "auroc", "share"), low, high),
                tpr_1=tpr_numbers(task, "share"),
                tpr_01=(metric(task, "tpr_at_0.1pct_fpr", "share"), tenth_low, tenth_high),
                asr=metric(task, "asr", "share"),
                scored=audited(task, "n", "scored", style="count"),
                seconds=Number(seconds, "seconds", f"computed/{task.task}/seconds_of_what_it_rests_on"),
                unscored=[
                    (audited(task, "unscored", reason, style="count"), shown(reason))
                    for reason in task.record["unscored"]
                ],
            )
        )  # fmt: skip
    return rows


def _epsilon(audit: Audit) -> Text | None:
    """The bound on epsilon of a canary audit."""
    if not audit.tasks[0].is_canary_audit:
        return None
    task = audit.tasks[0]
    bound = metric(task, "epsilon_lb", "share")
    if bound.value is None or math.isnan(bound.value):
        return (f"No bound on epsilon: {shown(str(audit.record['epsilon_lb'].get('reason')))}.",)
    confidence = audited(task, "epsilon_lb", "confidence", style="percent")
    canaries = audited(task, "epsilon_lb", "n_canaries", style="count")
    return (
        "Coins decided which of ",
        *(canaries, " canaries were trained on. With ", confidence, " confidence the training is not differentially "),
        *("private for any epsilon below ", bound, ". It is a lower bound: 0 does not mean private."),
    )


def _blind(audit: Audit) -> Text:
    """What words alone tell: whether the data give membership away by themselves."""
    found, first = audit.record["blind"], audit.tasks[0]
    if found.get("auroc") is None:
        return (f"Without any model: not tested, {shown(str(found.get('reason')))}.",)
    auroc, low, high = (audited(first, "blind", key, style="share") for key in ("auroc", "low", "high"))
    gives_away = isinstance(low.value, float) and low.value > 0.5
    meaning = (
        "The data give membership away by themselves, so the attacks may have learned that."
        if gives_away
        else "The words of the records alone do not give membership away, as far as this test sees."
    )
    return ("A classifier that sees no model reaches an AUROC of ", auroc, " (", low, " to ", high, f"). {meaning}")


def _cost(task: TaskResult) -> list[tuple[str, Sequence[Number]]]:
    """Each stage's tokens and seconds."""
    kinds = (
        ("forward_tokens", "count"),
        ("generated_tokens", "count"),
        ("training_tokens", "count"),
        ("seconds", "seconds"),
    )
    return [
        (shown(stage), [audited(task, "cost", stage, key, style=style) for key, style in kinds])
        for stage in task.record.get("cost", {})
    ]


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in record["data"].items() if key != "clusters"}
    return {
        "data": data,
        "models": record.get("models", {}),
        "stages": record.get("stages", {}),
        "seed": record.get("seed"),
        "versions": record.get("versions", {}),
    }


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested JSON value as (path, printed) pairs."""
    if isinstance(value, Mapping) and value:
        return [
            pair for key, inner in value.items() for pair in _flat(inner, f"{prefix} › {key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        return [pair for number, inner in enumerate(value, 1) for pair in _flat(inner, f"{prefix} › {number}")]
    if value is None:
        return [(shown(prefix), "not given")]
    printed = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(shown(prefix), shown(printed))]
