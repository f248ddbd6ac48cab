"""From the harness's output folder to `HarnessRun`s."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.results.check import check_record, check_results, is_sample
from spvmia_plugin.results.model import Audit, Capability, HarnessRun, ScoredRecord, TaskResult
from spvmia_plugin.strict_json import is_number

_RESULTS, _SAMPLES = "results_", "samples_"
_NOT_METRICS = {"name", "alias", "sample_len", "sample_count", "samples", " "}


def read_runs(place: Path, option: str = "RESULTS") -> list[HarnessRun]:
    """Read every run below a folder, or the one of a results file, the oldest first.

    Args:
        place: what was given to lm_eval as `--output_path`, or one `results_*.json` in it.
        option: what named it, for errors.

    Raises:
        SpvmiaError: there is no results file, or one that cannot be read.
    """
    return sorted((_read_run(path) for path in _results_files(place, option)), key=lambda run: run.date)


def read_latest(place: Path, option: str = "RESULTS") -> HarnessRun:
    """Read the newest run with an audit in it.

    Args:
        place: as for `read_runs`.
        option: likewise.

    Raises:
        SpvmiaError: as `read_runs`, or no run holds a privacy audit.
    """
    audited = [run for run in read_runs(place, option) if run.audits]
    if not audited:
        raise SpvmiaError(
            f"{option}: expected the output of an lm_eval run with a privacy task, got none in {place}; run for "
            "example `spvmia run --tasks spv_mia_custom ... --output_path results --log_samples`"
        )
    return audited[-1]


def _results_files(place: Path, option: str) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.exists():
        raise SpvmiaError(
            f"{option}: expected lm_eval's output folder or results file, got {place}, which is not there"
        )
    found = sorted(place.rglob(f"{_RESULTS}*.json"))
    if not found:
        raise SpvmiaError(
            f"{option}: expected a folder with {_RESULTS}*.json, got {place} without one; run lm_eval with "
            "--output_path"
        )
    return found


def _read_run(path: Path) -> HarnessRun:
    raw = _load_json(path)
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("results"), dict)
        or not isinstance(raw.get("configs"), dict)
    ):
        raise SpvmiaError(f"RESULTS: expected a results file of lm_eval, got {path} without 'results' and 'configs'")
    check_results(raw, path)
    tasks = [
        _task(path, name, row, raw["configs"][name]["metadata"])
        for name, row in raw["results"].items()
        if _has_audit(raw["configs"].get(name))
    ]
    return HarnessRun(
        path=path,
        model=str(raw.get("model_name") or raw.get("model_source") or path.parent.name),
        date=float(raw.get("date") or 0.0),
        config=raw.get("config") or {},
        versions={key: str(raw[key]) for key in ("lm_eval_version", "transformers_version") if raw.get(key)},
        audits=_grouped(tasks),
        capabilities=list(_capabilities(raw)),
        max_length=length if isinstance(length := raw.get("max_length"), int) else None,
    )


def _has_audit(config: object) -> bool:
    metadata = config.get("metadata") if isinstance(config, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("mia_audit"), dict)


def _task(path: Path, name: str, row: Mapping[str, Any], metadata: Mapping[str, Any]) -> TaskResult:
    record = metadata["mia_audit"]
    check_record(record, path, name)
    metrics = {key.partition(",")[0]: _number(value) for key, value in row.items() if key not in _NOT_METRICS}
    clusters = record["data"].get("clusters") or {}
    records = tuple(_records(_samples_file(path, name), clusters))
    options = {key: value for key, value in metadata.items() if key.startswith("mia_") and key != "mia_audit"}
    return TaskResult(name, str(metadata.get("spvmia_dataset", "custom")), metrics, record, records, options)


def _samples_file(path: Path, task: str) -> Path:
    stamp = path.stem.removeprefix(_RESULTS)
    return path.with_name(f"{_SAMPLES}{task}_{stamp}.jsonl")


def _records(samples: Path, clusters: Mapping[str, str]) -> Iterator[ScoredRecord]:
    if not samples.exists():
        return
    with samples.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                values = _sample(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
                values = {}
            if not is_sample(values):
                raise SpvmiaError(
                    f"RESULTS: {samples}, line {number}: expected a sample of a privacy task, got something else; "
                    "run lm_eval again with --log_samples"
                )
            yield ScoredRecord(cluster=clusters.get(values["id"], values["id"].partition("#")[0]), **values)


def _sample(raw: Any) -> dict[str, Any]:
    """Document and result of a line of a samples file."""
    doc, found = raw["doc"], json.loads(raw["resps"][0][0])
    result = {key: found[key] for key in ("score", "reason", "n_tokens", "target", "reference")}
    return {"id": doc["id"], "is_member": doc["is_member"], "text": doc.get("text"), **result}


def _grouped(tasks: list[TaskResult]) -> list[Audit]:
    """Tasks that audited the same records with the same settings, in the order of the file."""
    groups: dict[tuple[str, ...], list[TaskResult]] = {}
    for task in tasks:
        record = task.record
        shared = json.dumps([record["settings"], record["n"]["records"]], sort_keys=True)
        key = (task.dataset, str(task.is_canary_audit), str(record["data"]["fingerprint"]), shared)
        groups.setdefault(key, []).append(task)
    return [Audit(tuple(group)) for group in groups.values()]


def _capabilities(raw: Mapping[str, Any]) -> Iterator[Capability]:
    """The metrics of every task and group that is no audit; groups of audits are left out with them."""
    audits = {name for name in raw["results"] if _has_audit(raw["configs"].get(name))}
    groups = raw.get("group_subtasks") or {}
    for name, row in raw["results"].items():
        if name in audits or _all_audits(name, groups, audits):
            continue
        better = (raw.get("higher_is_better") or {}).get(name) or {}
        count = ((raw.get("n-samples") or {}).get(name) or {}).get("effective")
        version, fewshot = ((raw.get(key) or {}).get(name) for key in ("versions", "n-shot"))
        told = None if version is None else str(version)
        count, fewshot = (value if isinstance(value, int) else None for value in (count, fewshot))
        for key, value in row.items():
            metric, _, filtered = key.partition(",")
            if key in _NOT_METRICS or metric.endswith("_stderr") or math.isnan(_number(value)):
                continue
            stderr = _number(row.get(f"{metric}_stderr,{filtered}"))
            direction = better.get(metric) if isinstance(better.get(metric), bool) else None
            shown = metric if filtered in ("", "none") else key
            yield Capability(name, shown, _number(value), stderr, direction, count, told, fewshot)


def _all_audits(name: str, groups: Mapping[str, list[str]], audits: set[str]) -> bool:
    """Whether a group holds nothing but audits, through its subgroups."""
    subtasks = groups.get(name) or []
    return bool(subtasks) and all(sub in audits or _all_audits(sub, groups, audits) for sub in subtasks)


def _number(value: object) -> float:
    """A metric's value; "N/A", None and whatever is no finite number are NaN."""
    return float(value) if is_number(value) else math.nan


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpvmiaError(
            f"RESULTS: expected a JSON file of lm_eval, got {path}, which cannot be read as one ({reason_of(error)})"
        ) from error
