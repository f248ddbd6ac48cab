"""Several processes of one run: each scores its share of the records, then they meet, and rank 0 knows what all did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spvmia_plugin.audit.outcome import Outcome
from spvmia_plugin.harness.installed import gather
from spvmia_plugin.protocols import Cost
from spvmia_plugin.util.libraries import one_of

_SUMS = ("records", "records_without", "texts")
"""Counts of paraphrases that add up over the shares."""


def meet(lm: Any, outcomes: Sequence[Outcome]) -> None:
    """Wait until every process has scored its share; on rank 0, add what the others spent and noted to `outcomes`.

    Args:
        lm: the harness's LM, which knows its rank and reaches the others.
        outcomes: of the audits of this process; every process has the same audits in the same order.

    Raises:
        SpvmiaError: another process has failed. It has said why; this one must not wait for it.
    """
    if lm.world_size == 1:
        return
    mine = [(outcome.stages, outcome.notes, outcome.details) for outcome in outcomes]
    with one_of(lm.world_size):
        shares = gather(lm, mine)
        lm.barrier()
    if shares is not None:
        for k, outcome in enumerate(outcomes):
            _merge(outcome, [share[k] for share in shares])


def _merge(outcome: Outcome, shares: Sequence[tuple[dict[str, Cost], list[str], dict[str, Any]]]) -> None:
    stages: dict[str, Cost] = {}
    for costs, notes, _ in shares:
        for name, cost in costs.items():
            stages[name] = _together(stages[name], cost) if name in stages else cost
        outcome.notes += [note for note in notes if note not in outcome.notes]
    outcome.stages = stages
    for name in outcome.details:
        outcome.details[name] = _of_all(name, [details[name] for *_, details in shares if name in details])


def _together(one: Cost, other: Cost) -> Cost:
    """Work adds up; processes that run side by side take as long as the slowest."""
    seconds = max(one.seconds, other.seconds)
    total = Cost(**vars(one))
    total += other
    total.seconds = seconds
    return total


def _of_all(name: str, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One stage's record: that of the process which trained; the paraphrases of all."""
    if name == "paraphrases":
        sums = {key: sum(each[key] for each in details) for key in _SUMS}
        rated = [each for each in details if each["mask_rate"] is not None]
        weight = sum(each["texts"] for each in rated)
        mean = sum(each["mask_rate"] * each["texts"] for each in rated) / weight if weight else None
        return {**details[0], **sums, "mask_rate": mean}
    return dict(next((each for each in details if each.get("trained")), details[0]))
