"""From the harness's output folder to `HarnessRun`s. Credentials end here: what is read holds none of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.auditing.mia_audit import FORMAT, Counts, MiaAudit, read_mia_audit
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.names import AUROC, METRICS, UNIT_METRICS
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.results.files import load_results
from spvmia_plugin.results.model import Audit, Capability, HarnessRun, TaskResult
from spvmia_plugin.results.samples import Records, read_samples
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.once import Once
from spvmia_plugin.util.redact import without_secrets, without_secrets_in
from spvmia_plugin.util.schema import Misfit
from spvmia_plugin.util.strict_json import is_number

_RESULTS, _SAMPLES = "results_", "samples_"
_NOT_METRICS = {"name", "alias", "sample_len", "sample_count", "samples", " "}
_STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)$")
"""What lm_eval ends the names of results and samples files with: local time."""
_NO_METRICS = "bypass"
"""The metric that `lm_eval --predict_only` puts in place of all others."""
_SAME_AUROC = 1e-3
"""Scores that somebody has rounded may tie; those of another run or with other labels differ by more."""
_END_OF_TIME = 253_402_300_000
"""The year 9999, the last that a calendar has."""
_MAPPINGS = {"config": False, "versions": False, "n-shot": False, "group_subtasks": False} | {
    "higher_is_better": True,
    "n-samples": True,
}
"""Parts of a results file besides its rows, and whether each holds mappings."""


def read_runs(
    place: Path, option: str = "RESULTS", *, samples_of: Collection[Path] | None = None, once: Once | None = None
) -> list[HarnessRun]:
    """Read every run below a folder, or the one of a results file, the oldest first.

    Files that cannot be read are left out where another can, and each run of the folder says which; likewise runs whose
    privacy tasks hold no audit, of which the capability scores are there.

    Args:
        place: what was given to lm_eval as `--output_path`, or one results file in it.
        option: what named it, for errors.
        samples_of: the results files whose samples are read, too; None for all.
        once: remembers what results files have in common, for other folders as well.

    Raises:
        SpvmiaError: there is no results file, or none that can be read.
    """
    runs: list[HarnessRun] = []
    refused: list[tuple[Path, SpvmiaError]] = []
    bare: list[str] = []
    once = Once() if once is None else once
    for path in _results_files(place, option):
        try:
            raw, with_samples = _load(path), samples_of is None or path in samples_of
            runs.append(_run(path, raw, with_samples=with_samples, once=once))
            if not runs[-1].audits and (reason := _why_no_audit(raw)):
                bare.append(f"RESULTS: {shown(str(path))} {reason}")
        except _NoResults:
            continue
        except SpvmiaError as error:
            refused.append((path, error))
    if not runs:
        raise refused[0][1] if refused else _nothing_found(place, option)
    left_out = [*(str(error) for _, error in refused), *bare]
    return sorted((replace(run, left_out=left_out) for run in runs), key=lambda run: run.date)


def read_latest(place: Path, option: str = "RESULTS") -> HarnessRun:
    """Read the newest run with an audit in it, and the samples of that one alone.

    Older runs that cannot be read are left out, and the run says so.

    Args:
        place: as for `read_runs`.
        option: likewise.

    Raises:
        SpvmiaError: as `read_runs`, no run holds a privacy audit, or one that is newer cannot be read.
    """
    audited: tuple[float, Path] | None = None
    refused: list[tuple[Path, SpvmiaError]] = []
    bare: list[str] = []
    runs: list[HarnessRun] = []
    paths = _results_files(place, option)
    for path in paths:
        try:
            raw = _load(path)
            is_audited = any(_has_audit(config) for config in raw["configs"].values())
            if len(paths) > 1:  # one alone is read below
                runs.append(_run(path, raw, with_samples=False) if is_audited else _harness_run(path, raw, ()))
            if is_audited:
                date = float(raw.get("date") or 0.0)
                audited = (date, path) if audited is None or date >= audited[0] else audited
            elif reason := _why_no_audit(raw):
                bare.append(f"{shown(path.name)} {reason}")
        except _NoResults:
            continue
        except SpvmiaError as error:
            refused.append((path, error))
    if audited is None:
        if refused:
            raise refused[0][1]
        told = f" ({bare[0]})" if bare else ""
        raise SpvmiaError(
            f"{option}: expected the output of an lm_eval run with a privacy task, got none in {place}{told}; run for "
            "example `spvmia run --tasks spv_mia_custom ... --output_path results --log_samples`"
        )
    for path, why in refused:
        if _saved(path) > _saved(audited[1]):
            raise SpvmiaError(f"{why}; or name an older results file, such as {audited[1]}") from why
    run = _run(audited[1], _load(audited[1]), with_samples=True)
    older = max(sum(bool(each.audits) for each in runs) - 1, 0)
    return _with_base(replace(run, left_out=[str(error) for _, error in refused], older=older), runs)


def _with_base(run: HarnessRun, others: Sequence[HarnessRun]) -> HarnessRun:
    """The run with what other runs say of its base: scores by what must be equal to compare them, and audits."""
    base = _base_name(run)
    if base is None or base == _plain_model(run):
        return run
    oldest_first = sorted((each for each in others if _plain_model(each) == base), key=lambda each: each.date)
    scores = {capability.key: capability for each in oldest_first for capability in each.capabilities}
    return replace(run, of_base=scores, audits_of_base=[audit for each in oldest_first for audit in each.audits])


def _base_name(run: HarnessRun) -> str | None:
    """What a run calls the model before fine-tuning: whose adapter it loads, else what its audits were told."""
    arguments = run.config.get("model_args")
    if isinstance(arguments, Mapping) and arguments.get("peft"):
        return str(arguments.get("pretrained"))
    names = {str(audit.mia_audit.data.base_model) for audit in run.audits if audit.mia_audit.data.base_model}
    return names.pop() if len(names) == 1 else None


def _plain_model(run: HarnessRun) -> str | None:
    """The model of a run without an adapter."""
    arguments = run.config.get("model_args")
    if isinstance(arguments, Mapping) and not arguments.get("peft"):
        return str(arguments.get("pretrained"))
    return None


class _NoResults(SpvmiaError):
    """A JSON file that lies beside results and is none."""


def _results_files(place: Path, option: str) -> list[Path]:
    """Results files by name: `results_*.json`, or `NAME_<time>.json` where `--output_path` was `NAME.json`."""
    try:
        if place.is_file():
            return [place]
        there, folder = place.exists(), place.is_dir()
    except (OSError, ValueError) as error:
        raise SpvmiaError(f"{option}: expected a folder or a file, got {shown(str(place))}; name another") from error
    if there and not folder:
        raise SpvmiaError(f"{option}: expected lm_eval's output folder or results file, got {place}, a pipe or device")
    if not there:
        named = [path for path in sorted(place.parent.glob("*.json")) if _STAMP.sub("", path.stem) == place.stem]
        if named and place.suffix == ".json":
            return named
        raise SpvmiaError(
            f"{option}: expected lm_eval's output folder or results file, got {place}, which is not there"
        )
    found = [
        path for path in sorted(place.rglob("*.json")) if path.name.startswith(_RESULTS) or _STAMP.search(path.stem)
    ]
    if not found:
        raise _nothing_found(place, option)
    return found


def _nothing_found(place: Path, option: str) -> SpvmiaError:
    samples = next(place.rglob(f"{_SAMPLES}*.jsonl"), None) if place.is_dir() else None
    there = f"with samples only ({shown(samples.name)})" if samples else "without one"
    return SpvmiaError(
        f"{option}: expected a folder with {_RESULTS}*.json, got {place} {there}; run lm_eval with --output_path"
    )


def _load(path: Path) -> dict[str, Any]:
    """A results file whose parts are what lm_eval writes; what is in `mia_audit` is not looked at yet."""
    ours = path.name.startswith(_RESULTS)
    try:
        raw = load_results(path)
    except SpvmiaError as error:
        raise error if ours or not path.is_file() else _NoResults(str(error)) from error
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("results"), dict)
        or not isinstance(raw.get("configs"), dict)
    ):
        kind = SpvmiaError if ours or _STAMP.search(path.stem) is None else _NoResults
        raise kind(f"RESULTS: expected a results file of lm_eval, got {path} without 'results' and 'configs'")
    if problem := _problem(raw):
        raise SpvmiaError(f"RESULTS: {path}: {problem}; run lm_eval again, or leave the file out")
    return raw


def _problem(raw: Mapping[str, Any]) -> str | None:
    """The first part of a results file that is not what lm_eval writes, or None. Files come from other people too."""
    for part, nested in _MAPPINGS.items():
        value = raw.get(part)
        if value is not None and not (
            isinstance(value, Mapping) and all(not nested or isinstance(inner, Mapping) for inner in value.values())
        ):
            return f"expected {'mappings by task' if nested else 'a mapping'} as {part!r}"
    if not all(isinstance(row, Mapping) for row in raw["results"].values()):
        return "expected a mapping for each task in 'results'"
    date = raw.get("date")
    if date is not None and not (is_number(date) and 0 <= date < _END_OF_TIME):
        return "expected a finite number as 'date', the seconds since 1970"
    left = dict(raw.get("group_subtasks") or {})
    if not all(isinstance(m, list) and all(isinstance(name, str) for name in m) for m in left.values()):
        return "expected lists of names in 'group_subtasks'"
    while done := [name for name, members in left.items() if not any(member in left for member in members)]:
        left = {name: members for name, members in left.items() if name not in done}
    return f"expected groups that do not hold themselves, got {sorted(left)[0]!r}" if left else None


def _saved(path: Path) -> float:
    """When a results file was written, by its name, else by the file system."""
    if stamp := _STAMP.search(path.stem):
        day, _, time = stamp[1].partition("T")
        try:
            return datetime.fromisoformat(f"{day}T{time.replace('-', ':')}").timestamp()
        except (ValueError, OverflowError, OSError):
            pass  # a name is only a name
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf


def _run(path: Path, raw: Mapping[str, Any], *, with_samples: bool, once: Once | None = None) -> HarnessRun:
    configs, once = raw["configs"], Once() if once is None else once
    tasks: list[TaskResult] = []
    for name, row in raw["results"].items():
        if _has_audit(configs.get(name)):
            tasks.append(_task(path, name, row, configs[name]["metadata"], tasks, once, with_samples=with_samples))
    return _harness_run(path, raw, _grouped(tasks, once))


def _harness_run(path: Path, raw: Mapping[str, Any], audits: Sequence[Audit]) -> HarnessRun:
    return HarnessRun(
        path=path,
        model=without_secrets_in(_model_of(raw) or path.parent.name),
        date=float(raw.get("date") or 0.0),
        config=without_secrets(raw.get("config") or {}),
        versions={
            key: without_secrets_in(str(raw[key]))
            for key in ("lm_eval_version", "transformers_version")
            if raw.get(key)
        },
        audits=audits,
        capabilities=list(_capabilities(raw)),
        max_length=length if isinstance(length := raw.get("max_length"), int) else None,
    )


_NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")
"""What names the model among its arguments, as lm_eval looks for it."""


def _model_of(raw: Mapping[str, Any]) -> str:
    """What lm_eval calls the model; what `simple_evaluate` returns has it among the arguments alone."""
    arguments = (raw.get("config") or {}).get("model_args")
    given = arguments if isinstance(arguments, Mapping) else {}
    named = (raw.get("model_name"), *(given.get(name) for name in _NAMING), raw.get("model_source"))
    return next((str(name) for name in named if name), "")


def _has_audit(config: object) -> bool:
    metadata = config.get("metadata") if isinstance(config, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("mia_audit"), dict)


def _why_no_audit(raw: Mapping[str, Any]) -> str | None:
    """What keeps a run with privacy tasks from holding an audit; None if it has no such task."""
    ours = [
        name
        for name, config in raw["configs"].items()
        if isinstance(config, dict)
        and isinstance(config.get("metadata"), dict)
        and "spvmia_attack" in config["metadata"]
    ]
    if not ours:
        return None
    rows = (raw["results"].get(name) or {} for name in ours)
    if any(key.partition(",")[0] == _NO_METRICS for row in rows for key in row):
        return "is of a run with --predict_only, which computes no metrics: run it again without that option"
    return f"has no numbers of {shown(without_secrets_in(ours[0]))}: run it again"


def _task(
    path: Path,
    name: str,
    row: Mapping[str, Any],
    metadata: Mapping[str, Any],
    before: Sequence[TaskResult],
    once: Once,
    *,
    with_samples: bool,
) -> TaskResult:
    told, audit = _told(path, name, metadata["mia_audit"], before, once)
    records = None
    samples = _samples_file(path, name) if with_samples else None
    if samples is not None:
        clusters = audit.data.clusters or {}
        records = read_samples(samples, clusters, [task.records for task in before if task.records is not None])
    metrics = {key.partition(",")[0]: _number(value) for key, value in row.items() if key not in _NOT_METRICS}
    _check_range(path, name, metrics)
    if samples is not None and records is not None:
        _check_samples(samples, path, records, audit.n, metrics)
    given = {key: value for key, value in metadata.items() if key.startswith("mia_") and key != "mia_audit"}
    return TaskResult(
        task=without_secrets_in(name),
        dataset=without_secrets_in(str(metadata.get("spvmia_dataset", "custom"))),
        metrics=metrics,
        mia_audit=audit,
        told=told,
        records=records,
        options=once.of_equal("options", given, without_secrets),
    )


def _check_range(path: Path, task: str, metrics: Mapping[str, float]) -> None:
    """Refuse a number that its metric, or the metric's error, cannot be."""
    for metric in (*METRICS.values(), *UNIT_METRICS):
        for key in (metric.key, metric.stderr_key):
            value = metrics.get(key, math.nan)
            if not math.isnan(value) and not 0 <= value <= metric.maximum:
                raise SpvmiaError(
                    f"RESULTS: {path}: {task}: {key}: expected a number from 0 to {metric.maximum:g}, got {value!r}; "
                    "run lm_eval again, or leave the file out"
                )


def _check_samples(samples: Path, path: Path, records: Records, n: Counts, metrics: Mapping[str, float]) -> None:
    """Refuse samples that are not those of the results: cut short, of another run, or changed."""

    def refuse(expected: str, got: str) -> SpvmiaError:
        return SpvmiaError(
            f"RESULTS: {samples}: expected {expected} as in {path.name}, got {got}; copy both files of the run whole"
        )

    if len(records.roster.rows) < len(records):
        raise refuse(f"each of {n.records} records once", f"one of them twice in {len(records)} lines")
    members = int(records.roster.is_member.sum())
    if (members, len(records) - members) != (n.members, n.nonmembers):
        raise refuse(f"{n.members} members and {n.nonmembers} non-members", f"{members} and {len(records) - members}")
    scored = ~np.isnan(records.score)
    told = metrics.get(AUROC.key, math.nan)
    if scored.any() and not math.isnan(told):
        found = auroc(records.score[scored], records.roster.is_member[scored])
        if not abs(found - told) <= _SAME_AUROC:
            raise refuse(f"scores with an AUROC of {told:.6f}", f"{found:.6f}")


def _told(
    path: Path, task: str, given: Mapping[str, Any], before: Sequence[TaskResult], once: Once
) -> tuple[Mapping[str, Any], MiaAudit]:
    """`mia_audit` without credentials, as it stands there and read as what it should be.

    Raises:
        SpvmiaError: another layout, or a value that is not what it should be; names the file, the task and the key.
    """
    if given.get("format") != FORMAT:
        raise SpvmiaError(
            f"RESULTS: {path}: {task}: expected mia_audit of format {FORMAT}, got {given.get('format')!r}; use the "
            "version of spvmia-plugin that wrote it"
        )
    data = given.get("data")
    clusters = data.get("clusters") if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and clusters:
        # 200,000 documents by record: no credentials, and once for all attacks.
        clusters = next((there for other in before if (there := other.mia_audit.data.clusters) == clusters), clusters)
        given = {**given, "data": {**data, "clusters": None}}
    told: dict[str, Any] = {}
    for key, part in given.items():
        told |= once.of_equal(("told", key), part, partial(_told_part, key))
    if clusters:
        told["data"] = {**told["data"], "clusters": clusters}
    try:
        return told, read_mia_audit(told, once)
    except Misfit as problem:
        raise SpvmiaError(
            f"RESULTS: {path}: {task}: mia_audit: {problem}; run lm_eval again, or leave the file out"
        ) from None


def _told_part(key: str, part: Any) -> Any:
    return without_secrets({key: part})  # the name tells whether it is one


def _samples_file(path: Path, task: str) -> Path | None:
    """The samples of a task of a results file; None if there are none."""
    stamp = _STAMP.search(path.stem)
    name = f"{_SAMPLES}{task}_{stamp[1] if stamp else path.stem.removeprefix(_RESULTS)}.jsonl"
    try:
        samples = path.with_name(name)
        return samples if samples.exists() else None
    except (OSError, ValueError):  # no name of a file: too long, a path, half a character
        return None


def _grouped(tasks: list[TaskResult], once: Once) -> list[Audit]:
    """Tasks that audited the same records with the same settings, in the order of the file.

    An attack stands in an audit once: a task that is another one under a second name says nothing more. One whose
    numbers are others was given other records, and makes another audit.
    """
    audits: dict[tuple[object, ...], dict[str, TaskResult]] = {}
    numbers: dict[tuple[object, ...], list[str]] = {}
    for task in tasks:
        audit = task.mia_audit
        settings = once.made("settings by name", audit.settings, _by_name)
        key = (task.dataset, task.is_canary_audit, audit.data.fingerprint, settings, audit.n.records)
        told, own = numbers.setdefault((*key, task.attack), []), repr(sorted(task.metrics.items()))
        if own not in told:
            told.append(own)
        attacks = audits.setdefault((*key, told.index(own)), {})
        if attacks.setdefault(task.attack, task).records is None and task.records is not None:
            attacks[task.attack] = task
    return [Audit(tuple(attacks.values())) for attacks in audits.values()]


def _by_name(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


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
        told = None if version is None else without_secrets_in(str(version))
        count, fewshot = (value if isinstance(value, int) else None for value in (count, fewshot))
        for key, value in row.items():
            metric, _, filtered = key.partition(",")
            if key in _NOT_METRICS or metric.endswith("_stderr") or math.isnan(_number(value)):
                continue
            stderr = _number(row.get(f"{metric}_stderr,{filtered}"))
            direction = better.get(metric) if isinstance(better.get(metric), bool) else None
            called = metric if filtered in ("", "none") else key
            yield Capability(
                without_secrets_in(name),
                without_secrets_in(called),
                _number(value),
                stderr,
                direction,
                count,
                told,
                fewshot,
            )


def _all_audits(name: str, groups: Mapping[str, list[str]], audits: set[str]) -> bool:
    """Whether a group holds nothing but audits, through its subgroups."""
    subtasks = groups.get(name) or []
    return bool(subtasks) and all(sub in audits or _all_audits(sub, groups, audits) for sub in subtasks)


def _number(value: object) -> float:
    """A metric's value; "N/A", None and whatever is no finite number are NaN."""
    return float(value) if is_number(value) else math.nan
