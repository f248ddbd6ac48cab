"""Every Eval Ever 0.3.0 (github.com/evaleval/every_eval_ever): one record an audit, in the layout of its datastore."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from spvmia_plugin import __version__
from spvmia_plugin.export.common import (
    ABOUT,
    LOCAL_DEVELOPER,
    ExportOptions,
    Files,
    Lines,
    estimates,
    interval_method,
    model_id,
    name_of,
    notes,
    of_the_same_data,
    of_the_strongest,
    protocol_digits,
    source_name,
    strongest_turned_round,
    told_below,
    turned_round,
    warnings,
)
from spvmia_plugin.metrics.names import AUROC, EPSILON, TPR_1PCT, TPR_5PCT, TPRS, Metric
from spvmia_plugin.results.estimate import Estimate, of_attack
from spvmia_plugin.results.model import Audit, HarnessRun, TaskResult
from spvmia_plugin.results.samples import ScoredRecord

SCHEMA_VERSION = "0.3.0"
_LOCAL_BACKENDS = {"hf", "hf-auto", "hf-multimodal", "vllm", "sglang", "mamba_ssm", "steered"}
_PLACES = frozenset(
    f"mia_{name}"
    for name in ("members", "nonmembers", "prompts", "candidate", "manifest", "dataset_path", "cache_dir", "base_model")
)
_MODELS = ("mia_reference", "mia_mask_model")
_WITHHELD = "(text withheld: it is private)"


def to_every_eval_ever(run: HarnessRun, options: ExportOptions) -> Files:
    """The files of a run: aggregate records, and instance-level ones if they are asked for.

    Returns:
        Path below the output folder -> content. The same results have the same paths.
    """
    files: Files = {}
    seen: Counter[str] = Counter()
    for audit in run.audits:
        collection = f"spvmia_{_plain(audit.dataset)}" + ("_canaries" if audit.tasks[0].is_canary_audit else "")
        files.update(_files(run, audit, options, collection, seen[collection]))
        seen[collection] += 1
    return files


def _files(
    run: HarnessRun, audit: Audit, options: ExportOptions, collection: str, before: int
) -> Iterator[tuple[str, str | Lines]]:
    """The files of one audit; `before` says how many of the run's audits are of that collection and come before it."""
    model = model_id(run, options)
    # Two that differ in the seed alone share the protocol's digits: each needs an id, and files, of its own.
    evaluation_id = f"{collection}/{model}/{run.date!r}" + (f"/{before}" if before else "")
    digest = hashlib.sha256(json.dumps([evaluation_id, protocol_digits(audit, audit.tasks[0])]).encode()).digest()
    folder = f"data/{collection}/{model}"
    stem = str(uuid.UUID(bytes=digest[:16], version=4))
    record = _record(run, audit, options, evaluation_id)
    if options.instances and audit.has_samples:
        lines = Lines(lambda: _lines(audit, evaluation_id, model))
        checksum, count = hashlib.sha256(), 0
        for line in lines:
            checksum.update(line.encode())
            count += 1
        path = f"{folder}/{stem}_samples.jsonl"
        record["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": path,
            "hash_algorithm": "sha256",
            "checksum": checksum.hexdigest(),
            "total_rows": count,
        }
        yield path, lines
    yield f"{folder}/{stem}.json", json.dumps(record, indent=2, allow_nan=False) + "\n"


def _record(run: HarnessRun, audit: Audit, options: ExportOptions, evaluation_id: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation_id,
        "evaluation_timestamp": repr(run.date),
        "retrieved_timestamp": repr(time.time()),
        "source_metadata": {
            "source_name": "spvmia-plugin",
            "source_type": "evaluation_run",
            "source_organization_name": options.organization,
            "evaluator_relationship": options.evaluator,
        },
        "eval_library": {
            "name": "lm_eval",
            "version": run.versions.get("lm_eval_version", "unknown"),
            "additional_details": {"plugin": f"spvmia-plugin {__version__}", **_strings(audit.mia_audit.versions)},
        },
        "model_info": _model_info(run, audit, options),
        "evaluation_results": [
            *(result for task in audit.tasks for result in _results(run, audit, task)),
            *_strongest(run, audit),
        ],
    }


def _model_info(run: HarnessRun, audit: Audit, options: ExportOptions) -> dict[str, Any]:
    model = model_id(run, options)
    backend = str(run.config.get("model"))
    is_local = backend in _LOCAL_BACKENDS
    weights = audit.mia_audit.weights("target")
    details = {
        "deployment_type": "self_deployed" if is_local else "unknown",
        "model_availability": "unknown",
        "lm_eval_model": backend,
        "dtype": str(run.config.get("model_dtype")),
        **({"weights": json.dumps(weights, sort_keys=True)} if weights else {}),
    }
    engine = {"name": "transformers", "version": run.versions.get("transformers_version", "unknown")}
    return {
        "name": model.partition("/")[2] if model.startswith(f"{LOCAL_DEVELOPER}/") else model,
        "id": model,
        "developer": model.partition("/")[0],
        **({"inference_engine": engine} if backend.startswith("hf") else {}),
        "additional_details": details,
    }


def evaluation_name(audit: Audit, task: TaskResult) -> str:
    """Namespaced by protocol: equal for two results exactly if they may be compared."""
    return f"spvmia.{_plain(audit.dataset)}.{_plain(task.attack)}.{protocol_digits(audit, task)}"


def _strongest(run: HarnessRun, audit: Audit) -> Iterator[dict[str, Any]]:
    """The strongest attack's AUROC and TPR, with the intervals that allow for having been chosen."""
    for metric, found in of_the_strongest(audit):
        task = next((task for task in audit.tasks if task.attack == found.attack), None)
        if task is None or math.isnan(found.value):
            continue
        name = f"spvmia.{_plain(audit.dataset)}.strongest.{protocol_digits(audit, *audit.model_attacks)}"
        result = _result(run, audit, task, (metric, found), name)
        uncertainty = result["score_details"]["uncertainty"]
        if "confidence_interval" in uncertainty:
            uncertainty["confidence_interval"] |= {"method": interval_method(metric, found, chosen=True)}
        details = result["score_details"]["details"]
        details["chosen_among"] = str(found.chosen_among)
        turned = strongest_turned_round(audit, metric, found)
        more = [words for words in (turned, told_below(audit, metric, found)) if words]
        if others := len(of_the_same_data(run, audit)) - 1:
            more.append(f"chosen among the attacks of this audit alone: the run has {others} more of the same data")
        details["notes"] = json.dumps([*more, *notes(task)])
        yield result


def _results(run: HarnessRun, audit: Audit, task: TaskResult) -> Iterator[dict[str, Any]]:
    name = evaluation_name(audit, task)
    for metric, estimate in estimates(task):
        if not math.isnan(estimate.value):
            yield _result(run, audit, task, (metric, estimate), name)


def _result(
    run: HarnessRun, audit: Audit, task: TaskResult, number: tuple[Metric, Estimate], name: str
) -> dict[str, Any]:
    metric, estimate = number
    data = audit.mia_audit.data
    about_data = {
        "fingerprint": data.fingerprint,
        "block_size": data.block_size,
        "split": data.provenance.get("split"),
        "protocol": data.provenance.get("protocol"),
        "fine_tuning": data.provenance.get("finetune"),
        "membership": audit.mia_audit.membership,
        "n": audit.told["n"],
    }
    return {
        "evaluation_result_id": f"{name}.{metric.key}",
        "evaluation_name": name,
        "source_data": {
            "dataset_name": source_name(audit),
            "source_type": "other",
            "additional_details": _strings(about_data),
        },
        "evaluation_timestamp": repr(run.date),
        "metric_config": _metric_config(metric),
        "score_details": _score_details(task, metric, estimate),
        "generation_config": {"additional_details": _strings(_without_places(audit.mia_audit.settings))},
    }


def _metric_config(metric: Metric) -> dict[str, Any]:
    about, is_share = ABOUT[metric], math.isfinite(metric.maximum)
    return {
        "evaluation_description": about.description,
        "metric_id": about.id,
        "metric_name": name_of(metric),
        "metric_kind": about.kind,
        "metric_unit": "proportion" if is_share else "nats",
        **({"metric_parameters": {"fpr": metric.fpr}} if not math.isnan(metric.fpr) else {}),
        "lower_is_better": not metric.higher_is_better,
        "score_type": "continuous",
        "min_score": 0,
        "max_score": metric.maximum if is_share else "Infinity",
    }


def _score_details(task: TaskResult, metric: Metric, estimate: Estimate) -> dict[str, Any]:
    told = task.told
    uncertainty: dict[str, Any] = {"num_samples": task.mia_audit.n.scored}
    if math.isfinite(estimate.stderr):
        method = "analytic" if metric == AUROC else "bootstrap"
        uncertainty["standard_error"] = {"value": estimate.stderr, "method": method}
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        uncertainty["confidence_interval"] = {
            "lower": estimate.low,
            "upper": estimate.high,
            "confidence_level": estimate.confidence,
            "method": interval_method(metric, estimate, chosen=False),
        }
    details = {name: told[name] for name in ("attack", "n", "unscored")}
    turned = turned_round(metric, estimate, of_attack(task, AUROC.key))
    details |= {"warnings": warnings(task), "notes": [*([turned] if turned else []), *notes(task)]}
    if metric == EPSILON:
        details["bound"] = told["epsilon_lb"]
    if metric in TPRS and not math.isnan(estimate.realised_fpr):
        # The score is read between two thresholds: these are the shares at one, which no score of any record may reach.
        tpr = task.mia_audit.metrics.tprs[metric]
        at = {"threshold": tpr.threshold, "tpr_at_threshold": tpr.largest, "realised_fpr": tpr.realised_fpr}
        details |= {name: value for name, value in at.items() if math.isfinite(value)}
    left_out = {other.key: found.reason for other, found in estimates(task) if math.isnan(found.value)}
    if metric == AUROC and left_out:
        details["left_out"] = left_out
    return {"score": estimate.value, "uncertainty": uncertainty, "details": _strings(details)}


def _lines(audit: Audit, evaluation_id: str, model: str) -> Iterator[str]:
    """A line for each scored record of each attack: ids, labels and scores, nothing that was or describes a text.

    Members are guessed at 1 % FPR, at 5 % where the non-members resolve no less, and not at all where not even that.
    """
    for task in audit.tasks:
        if math.isnan(task.metrics.get(AUROC.key, math.nan)):
            continue
        told = task.mia_audit.metrics
        points = ((TPR_1PCT, told.tpr_at_1pct_fpr), (TPR_5PCT, told.tpr_at_5pct_fpr))
        resolved = next(((metric, point) for metric, point in points if not math.isnan(point.realised_fpr)), None)
        if resolved is None:
            continue
        metric, point = resolved
        # No threshold that 1 in 100 others stay below: nobody is taken for a member.
        threshold = math.inf if math.isnan(point.threshold) else point.threshold
        name = evaluation_name(audit, task)
        for record in task.records or ():
            if record.score is not None:
                row = _instance(name, record, threshold, metric) | {"evaluation_id": evaluation_id, "model_id": model}
                yield json.dumps(row, allow_nan=False) + "\n"


def _instance(name: str, record: ScoredRecord, threshold: float, metric: Metric) -> dict[str, Any]:
    label = "member" if record.is_member else "nonmember"
    guessed = record.score is not None and record.score >= threshold
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_name": name,
        "evaluation_result_id": f"{name}.auroc",
        "sample_id": record.id,
        "interaction_type": "single_turn",
        "input": {"raw": _WITHHELD, "reference": [label]},
        "output": {"raw": [repr(record.score)]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": "member" if guessed else "nonmember",
                "extraction_method": f"score at or above the threshold of {100 * metric.fpr:g} % FPR",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": record.score, "is_correct": guessed == record.is_member},
        "metadata": {"document": record.cluster},
    }


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what is a path of the user's; of a model that may be one or a hub id, the last part."""
    known = {key: value for key, value in settings.items() if key not in _PLACES}
    return known | {key: PurePath(known[key]).name for key in _MODELS if isinstance(known.get(key), str)}


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    """A mapping to strings, as the schema wants it; None left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value is not None
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name, flags=re.ASCII)
