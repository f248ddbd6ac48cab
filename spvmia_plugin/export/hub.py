"""The Hub's two formats, through huggingface_hub's own classes.

`.eval_results/*.yaml` (huggingface.co/docs/hub/eval-results), and the `model-index` of a model card.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export.common import (
    ExportOptions,
    Files,
    estimates,
    interval_method,
    left_out,
    model_id,
    name_of,
    of_the_same_data,
    of_the_strongest,
    one_by_one,
    protocol_digits,
    source_name,
    strongest_turned_round,
    told_below,
    turned_round,
    warnings,
    warnings_of,
)
from spvmia_plugin.metrics.names import AUROC, BLIND, Metric
from spvmia_plugin.results.estimate import Estimate, of_attack, of_blind
from spvmia_plugin.results.model import Audit, HarnessRun
from spvmia_plugin.web.text import unlinked

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_RESULTS_PATH, _CARD_PATH = ".eval_results/spvmia.yaml", "model-index.md"
_LOWER = ": lower is more private"
_HUB_METRICS = {AUROC.key: "roc_auc"}
"""Ids of hf.co/metrics, where there is one."""


def to_hub_results(run: HarnessRun, options: ExportOptions) -> Files:
    """Two entries an audit: the strongest attack's AUROC and TPR, with intervals, protocol and warnings in its notes.

    Raises:
        SpvmiaError: no benchmark was named, no audit has a strongest attack, or several are of one data set.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if options.benchmark is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", options.benchmark):
        raise SpvmiaError(
            "--benchmark: expected the Hub's data set that hosts the leaderboard, ORG/NAME with an eval.yaml, got "
            f"{options.benchmark!r}; its eval.yaml has the tasks mia_<data set>_auroc and mia_<data set>_tpr_..."
        )
    by_task: dict[str, list[Audit]] = {}
    for audit in run.audits:
        if audit.model_attacks:
            by_task.setdefault(_benchmark_task(audit), []).append(audit)
    if several := next((audits for audits in by_task.values() if len(audits) > 1), None):
        raise one_by_one(several)
    date = datetime.fromtimestamp(run.date, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    entries = [
        EvalResultEntry(
            dataset_id=options.benchmark,
            task_id=f"{_benchmark_task(audit)}_{metric.key}",
            value=found.value,
            date=date,
            notes=_notes(audit, metric, found),
        )
        for audit in run.audits
        for metric, found in of_the_strongest(audit)
        if not math.isnan(found.value)
    ]
    if not entries:
        raise SpvmiaError(f"RESULTS: expected an audit with a strongest attack, got none in {run.path}; run an attack")
    told = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=False, width=120)
    return {_RESULTS_PATH: told}


def _benchmark_task(audit: Audit) -> str:
    """Which task of a benchmark an audit's numbers are of; those of canaries are of other records."""
    return f"{'canary_audit' if audit.tasks[0].is_canary_audit else 'mia'}_{audit.dataset}"


def _chosen(found: Estimate) -> str:
    return f"the strongest of {found.chosen_among} attacks" if found.chosen_among != 1 else "the only attack"


def _notes(audit: Audit, metric: Metric, found: Estimate) -> str:
    """One paragraph: first what is wrong, then what the number is."""
    told = [f"WARNING: {message}" for message in warnings_of(audit, metric, found.attack)]
    turned = strongest_turned_round(audit, metric, found)
    told.append(f"{name_of(metric)} of {_chosen(found)}, {found.attack}{f', {turned}' if turned else _LOWER}")
    if not math.isnan(found.low):
        told.append(f"simultaneous {found.confidence:.0%} interval {found.low!r} to {found.high!r}")
        told.append(f"a guess gets {metric.guess:g}")
    if below := told_below(audit, metric, found):
        told.append(below)
    blind = of_blind(audit)
    if not math.isnan(blind.value):
        told.append(f"{name_of(BLIND)} {blind.value!r} ({blind.low!r} to {blind.high!r})")
    about = audit.mia_audit
    told.append(f"{about.n.members} members, {about.n.nonmembers} non-members, membership {about.membership}")
    told.append(
        f"protocol {protocol_digits(audit, *audit.model_attacks)}: comparable with results of the same digits only"
    )
    told.append(f"spvmia-plugin {about.versions['spvmia-plugin']}")
    return unlinked("; ".join(told))


def to_model_index(run: HarnessRun, options: ExportOptions) -> Files:
    """A card of metadata alone, to be merged into the model's README.

    Raises:
        SpvmiaError: an audit whose preconditions failed, or whose strongest attack left many records out: a card shows
            a bare number, and has no place for the warning. Several audits of the same data: each would be "the
            strongest".
    """
    from huggingface_hub import ModelCardData

    failed = [message for audit in run.audits for message in _no_card(audit)]
    if failed:
        raise SpvmiaError(
            f"--to: expected an audit whose preconditions hold, as a model card shows a number without its warnings; "
            f"got {failed[0]}; mend the data and run again, or export to every-eval-ever or hf-eval-results, which "
            "carry the warning"
        )
    results = []
    for audit in run.audits:
        if len(alike := of_the_same_data(run, audit)) > 1:
            raise one_by_one(alike)
        digits = protocol_digits(audit, *audit.model_attacks)
        for metric, found in of_the_strongest(audit):
            below = told_below(audit, metric, found)
            whose = f" of {_chosen(found)}, {found.attack}{f'; {below}' if below else ''}"
            turned = strongest_turned_round(audit, metric, found)
            method = interval_method(metric, found, chosen=True)
            results += _card_results(audit, (metric, found), f"strongest-{digits}", whose, turned, method)
        for task in audit.tasks:
            config, missing = f"{task.task}-{protocol_digits(audit, task)}", left_out(task)
            for metric, found in estimates(task):
                whose = "" if metric == BLIND else f" of the attack {task.attack}"
                whose += f"; {missing}" if missing and metric != BLIND else ""
                turned = turned_round(metric, found, of_attack(task, AUROC.key))
                method = interval_method(metric, found, chosen=False)
                results += _card_results(audit, (metric, found), config, whose, turned, method)
    if not results:
        raise SpvmiaError(f"RESULTS: expected an audit with a number, got none in {run.path}")
    card = ModelCardData(model_name=model_id(run, options).partition("/")[2], eval_results=results)
    return {_CARD_PATH: f"---\n{card.to_yaml()}\n---\n"}


def _no_card(audit: Audit) -> Iterator[str]:
    """Why no card is made of an audit. That an attack left records out is told with its numbers if others lead."""
    leaders = {found.attack for _, found in of_the_strongest(audit)}
    for task in audit.tasks:
        own = None if task.attack in leaders else left_out(task)
        yield from (message for message in warnings(task) if message != own)


def _card_results(
    audit: Audit, number: tuple[Metric, Estimate], config: str, whose: str, turned: str | None, method: str
) -> list[EvalResult]:
    """A card's entry of one number, none where there is no number.

    Args:
        audit: its audit.
        number: the metric and its value.
        config: what tells it from the others of that metric.
        whose: which attack's it is, in words.
        turned: what a number below guessing leaves open, in words: such a one has no direction.
        method: how its interval was computed.
    """
    from huggingface_hub import EvalResult

    (metric, estimate), about = number, audit.mia_audit
    if math.isnan(estimate.value):
        return []
    direction = turned or f"{'higher' if metric.higher_is_better else 'lower'} is better"
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Membership inference",
            dataset_type=audit.dataset,
            dataset_name=unlinked(source_name(audit)),
            dataset_config=config,
            metric_type=_HUB_METRICS.get(metric.key, metric.key),
            metric_name=unlinked(f"{name_of(metric)}{whose} ({direction})"),
            metric_value=estimate.value,
            metric_args={
                **({} if turned else {"lower_is_better": not metric.higher_is_better}),
                "members": about.n.members,
                "nonmembers": about.n.nonmembers,
                "membership": about.membership,
                **({"stderr": estimate.stderr} if math.isfinite(estimate.stderr) else {}),
                **(_interval(estimate, method) if math.isfinite(estimate.low) else {}),
            },
        )
    ]


def _interval(found: Estimate, method: str) -> dict[str, object]:
    return {
        "interval": [found.low, found.high],
        "confidence_level": found.confidence,
        "interval_method": method,
    }
