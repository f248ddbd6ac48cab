"""Runs of the harness sorted by model: the same weights are the same model, whatever their folder is called."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results.comparable import conditions, digest, hub_id, target_identity
from spvmia_plugin.results.model import Audit, Capability, HarnessRun
from spvmia_plugin.results.read import read_runs
from spvmia_plugin.util.files import as_path
from spvmia_plugin.util.once import Once

_NOT_THE_MODEL = frozenset({"batch_size", "max_batch_size", "device", "parallelize", "device_map_option"})
"""Arguments of the model that do not change what it says."""


@dataclass(frozen=True)
class Source:
    """One argument of the command: a folder or file, and what to call its models.

    Attributes:
        place: lm_eval's output folder, or a results file.
        name: what to call the model; None for the name the harness has.
    """

    place: Path
    name: str | None = None

    @classmethod
    def parse(cls, argument: str) -> Source:
        """`FOLDER`, or `NAME=FOLDER` where there is no file of that name."""
        name, equals, place = argument.partition("=")
        if not equals or as_path(argument, "RESULTS").exists():
            return cls(as_path(argument, "RESULTS"))
        if not name or not place:
            raise SpvmiaError(f"RESULTS: expected FOLDER or NAME=FOLDER, got {argument!r}; name both")
        return cls(as_path(place, "RESULTS"), name)


@dataclass(frozen=True)
class Entrant:
    """One model with all that is known of it.

    Attributes:
        name: what to call it.
        audits: its privacy audits, runs with equal conditions merged.
        capabilities: its capability scores.
        files: the results files they come from.
        dates: when they were run, in seconds since 1970, the oldest first.
        harness: the versions of lm_eval that ran them.
        hub_id: of the model on the Hub; None of one that lies on a disk.
    """

    name: str
    audits: Sequence[Audit]
    capabilities: Sequence[Capability]
    files: Sequence[Path]
    dates: Sequence[float] = ()
    harness: Sequence[str] = ()
    hub_id: str | None = None


def entrants(runs: Iterable[tuple[HarnessRun, str | None]]) -> list[Entrant]:
    """Sort runs by model, in the order in which the models first appear.

    Args:
        runs: each with the name given to it, or None.

    Raises:
        SpvmiaError: two results of one model contradict each other, or a model has two names.
    """
    named = list({(run.path.resolve(), name): (run, name) for run, name in runs}.values())
    groups = _by_model(named)
    names = _names(groups)
    once = {key: {run.path.resolve(): run for run, _ in group}.values() for key, group in groups.items()}
    return [_entrant(names[key], list(found)) for key, found in once.items()]


def read_sources(sources: Sequence[Source], *, strongest: bool, ids: bool) -> list[tuple[HarnessRun, str | None]]:
    """Read the runs of all sources, each with the name given to it.

    Samples are a hundred times as long as results: they are read of runs whose numbers need them. Those are runs that
    did not record the strongest attack, and several runs of one model, where it has to be chosen anew.

    Args:
        sources: what was named.
        strongest: whether the strongest attack is asked for.
        ids: whether the ids of the records are.

    Raises:
        SpvmiaError: as `read_runs`.
    """
    once = Once()

    def read(samples_of: Collection[Path] | None) -> list[tuple[HarnessRun, str | None]]:
        return [
            (run, source.name)
            for source in sources
            for run in read_runs(source.place, samples_of=samples_of, once=once)
        ]

    if ids:
        return read(None)
    runs = read(())
    needed = {run.path for run, _ in runs if strongest and any(audit.needs_samples for audit in run.audits)}
    for group in _by_model(runs).values():
        audited = {run.path.resolve(): run.path for run, _ in group if run.audits}
        needed |= set(audited.values()) if len(audited) > 1 else set()
    return read(needed) if needed else runs


def _by_model(runs: Sequence[tuple[HarnessRun, str | None]]) -> dict[str, list[tuple[HarnessRun, str | None]]]:
    """Runs by the identity of their model, or by its arguments."""
    groups: dict[str, list[tuple[HarnessRun, str | None]]] = {}
    by_arguments = _known_arguments(run for run, _ in runs)
    for run, name in runs:
        arguments = _arguments(run)
        key = _identity(run) or by_arguments.get(arguments) or hashlib.sha256(arguments.encode()).hexdigest()
        groups.setdefault(key, []).append((run, name))
    return groups


def _identity(run: HarnessRun) -> str | None:
    found = {identity for audit in run.audits if (identity := target_identity(audit))}
    return found.pop() if len(found) == 1 else None


def _arguments(run: HarnessRun) -> str:
    given = run.config.get("model_args") or run.model
    if isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name not in _NOT_THE_MODEL}
    return json.dumps([run.config.get("model"), given], sort_keys=True, default=str)


def _known_arguments(runs: Iterable[HarnessRun]) -> dict[str, str]:
    """Model arguments -> identity, by which runs without an audit find their model."""
    known: dict[str, tuple[str, HarnessRun]] = {}
    for run in runs:
        identity = _identity(run)
        if identity is None:
            continue
        before = known.setdefault(_arguments(run), (identity, run))
        if before[0] != identity:
            raise SpvmiaError(
                f"RESULTS: expected one model behind the same model_args, got other weights in {run.path} than in "
                f"{before[1].path}; leave out the results of the weights that are gone"
            )
    return {arguments: identity for arguments, (identity, _) in known.items()}


def _names(groups: Mapping[str, Sequence[tuple[HarnessRun, str | None]]]) -> dict[str, str]:
    """What to call each model: the name given, else as little of the harness's name as tells it from the others."""
    given = {}
    for key, group in groups.items():
        told = sorted({name for _, name in group if name is not None})
        if len(told) > 1:
            raise SpvmiaError(
                f"RESULTS: expected one name for one model, got {told[0]!r} and {told[1]!r} for the same weights "
                f"({group[0][0].path}); give one name, or leave one of the results out"
            )
        given[key] = told[0] if told else None
    long = {key: group[0][0].model for key, group in groups.items() if given[key] is None}
    names = {key: name or _shortest(long[key], long.values()) for key, name in given.items()}
    counts = {name: list(names.values()).count(name) for name in names.values()}
    return {key: name if counts[name] == 1 else f"{name} #{key[:6]}" for key, name in names.items()}


def _shortest(name: str, names: Iterable[str]) -> str:
    """The last parts of a path, as many as no other model shares; a hub id or a folder's short name as it is."""
    if not PurePath(name).is_absolute() and not name.startswith((".", "~")):
        return name
    parts = PurePath(name).parts
    others = [PurePath(other).parts for other in names if other != name]
    for length in range(1, len(parts) + 1):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return name


def _entrant(name: str, runs: Sequence[HarnessRun]) -> Entrant:
    """Merge the runs of one model."""
    audits: dict[str, tuple[Audit, HarnessRun]] = {}
    for run in runs:
        for audit in run.audits:
            key = digest(conditions(audit, (), "models", "fingerprint"))
            if key in audits:
                audits[key] = _merged(name, audits[key], (audit, run)), run
            else:
                audits[key] = audit, run
    found = [audit for audit, _ in audits.values()]
    return Entrant(
        name=name,
        audits=found,
        capabilities=_capabilities(name, runs),
        files=[run.path for run in runs],
        dates=sorted(run.date for run in runs if run.date),
        harness=sorted({run.versions["lm_eval_version"] for run in runs if "lm_eval_version" in run.versions}),
        hub_id=hub_id(found[0]) if found else None,
    )


def _merged(name: str, one: tuple[Audit, HarnessRun], other: tuple[Audit, HarnessRun]) -> Audit:
    """The attacks of both audits, the newer results of those that both have."""
    tasks = {task.task: task for task in one[0].tasks}
    for task in other[0].tasks:
        before = tasks.get(task.task)
        if before is not None and not _same(before.metrics, task.metrics):
            raise _contradiction(name, task.task, one[1].path, other[1].path)
        tasks[task.task] = task
    # What each run recorded as the strongest attack was chosen among its own: the samples have to tell it anew.
    merged = [task.apart() for task in tasks.values()]
    if len({frozenset(task.records.roster.ids if task.records else ()) for task in merged}) > 1:
        raise SpvmiaError(
            f"RESULTS: expected the same records under all attacks on {name!r}, got others in {other[1].path} than in "
            f"{one[1].path}; run both with --log_samples and without --limit, or leave one out"
        )
    return Audit(tuple(merged))


def _capabilities(name: str, runs: Sequence[HarnessRun]) -> list[Capability]:
    found: dict[tuple[object, ...], tuple[Capability, Path]] = {}
    for run in runs:
        for capability in run.capabilities:
            key = capability.key
            before = found.get(key)
            if before is not None and before[0].value != capability.value:
                raise _contradiction(name, f"{capability.task} ({capability.metric})", before[1], run.path)
            found[key] = capability, run.path
    return [capability for capability, _ in found.values()]


def _contradiction(name: str, what: str, one: Path, other: Path) -> SpvmiaError:
    return SpvmiaError(
        f"RESULTS: expected one result of {what} for model {name!r}, got two that differ: {one} and {other}; "
        "leave one of the files out"
    )


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(
        one[key] == other[key] or (math.isnan(one[key]) and math.isnan(other[key])) for key in one
    )
