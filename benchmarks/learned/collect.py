"""Runs the missing cells: fine-tunes a target, audits it, and keeps the token signals that attacks saw.

    python benchmarks/learned/collect.py --work ./work --data leads=leads.jsonl --data articles=articles.jsonl \\
        --pretrain small=leads --pretrain deep=articles --base smollm2=./smollm2-135m \\
        --epochs 1,2,3,6 --blocks 64 --seeds 0,1,2 --threads 1

A cell is a file in WORK/cells. Those that are there are skipped, and a cell that was killed goes on where it was. The
plan is shown first; `--plan` shows only that. `--pretrain NAME=DATA[+DATA]` makes a small base on half of these data
sets (`SIZES` says how large the ones with names of their own are); of these data the other half is audited, so that
there are also bases that know the domain. No feature is computed here: `fit.py` and `judge.py` do that.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from filelock import FileLock, Timeout

from benchmarks.learned.cells import Cell, Collector, Kept, cell_path, read_cell, write_cell
from benchmarks.paper.commands import Place, finetune_words
from benchmarks.paper.estimate import shown
from benchmarks.paper.pretrain import Size, pretrain
from benchmarks.paper.processes import PRELOADED
from benchmarks.paper.settings import PROTOCOLS
from benchmarks.paper.steps import make_target
from spvmia_plugin.errors import SpvmiaError

BESIDE = (
    "loss",
    "min_k_pp",
    "lira_base",
    "lira_candidate",
    "wbc",
    "spv_ez",
    "spv_wbc",
    "candidate_ez",
    "candidate_wbc",
    "both_wbc",
)
"""Attacks whose scores are kept beside the signals: all that ask for nothing else. Those of later versions are left out
where they are not there yet."""

SIZES: Mapping[str, Size] = {
    "narrow": Size(vocabulary=2048, hidden=128, layers=6),
    "wide": Size(vocabulary=8192, hidden=256, layers=3),
    "deep": Size(vocabulary=4096, hidden=160, layers=8, lr=1e-3),
}
"""Of small bases, by their names; any other is of the size that benchmarks/paper takes."""


@dataclass(frozen=True)
class Base:
    """A model before fine-tuning.

    Attributes:
        folder: where it is, or is made.
        protocol: how targets of it are made.
        pretrained_on: names of the data sets that it has seen half of.
    """

    folder: Path
    protocol: str
    pretrained_on: Sequence[str] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    data = dict(named(spec, "--data") for spec in options.data)
    bases = wanted_bases(options, data)
    cells = wanted_cells(options, bases, data)
    folder = options.work / "cells"
    missing = [cell for cell in cells if not cell_path(folder, cell).is_file()]
    print(plan_text(cells, missing, folder), flush=True)
    return 0 if options.plan else work_off(missing, bases, data, options)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for bases, targets, the store and the cells")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FILE", help="a data set; repeatable")
    parser.add_argument("--base", action="append", default=[], metavar="NAME=DIR", help="a base model; repeatable")
    parser.add_argument("--pretrain", action="append", default=[], metavar="NAME=DATA", help="a small base to make")
    parser.add_argument("--epochs", default="3", help="comma-separated strengths of the targets")
    parser.add_argument("--blocks", default="64", help="comma-separated tokens per record; 0 for conversations")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="(default: cpu, and small for bases that are made here)")
    parser.add_argument("--members", type=int, help="instead of the protocol's; non-members and prompts as many")
    parser.add_argument("--only", metavar="GLOB", help="cells whose name fits, such as 'smollm2*seed0'")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="begin no cell after it")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu", help="as in lm_eval's --device")
    parser.add_argument("--plan", action="store_true", help="show the plan and end")
    return parser.parse_args(arguments)


def named(spec: str, option: str) -> tuple[str, str]:
    name, _, value = spec.partition("=")
    if not name or not value or "__" in name:
        raise SpvmiaError(f"{option}: expected NAME=VALUE with a plain name, got {spec!r}; correct it")
    return name, value


def wanted_bases(options: argparse.Namespace, data: Mapping[str, str]) -> dict[str, Base]:
    """By name. None is made here."""
    bases = {name: Base(Path(folder), options.protocol or "cpu") for name, folder in map_named(options.base, "--base")}
    for name, value in map_named(options.pretrain, "--pretrain"):
        seen = value.split("+")
        if unknown := [each for each in seen if each not in data]:
            raise SpvmiaError(f"--pretrain: expected names that --data gives, got {', '.join(unknown)}; correct it")
        bases[name] = Base(options.work / "bases" / name, options.protocol or "small", seen)
    if not bases:
        raise SpvmiaError("--base: expected at least one base model, got none; name one, or make one with --pretrain")
    return bases


def map_named(specs: Sequence[str], option: str) -> list[tuple[str, str]]:
    return [named(spec, option) for spec in specs]


def wanted_cells(options: argparse.Namespace, bases: Mapping[str, Base], data: Mapping[str, str]) -> list[Cell]:
    """Every base on every data set, the small bases first and seed by seed: what comes first is of all kinds."""
    numbers = [
        [convert(text) for text in getattr(options, name).split(",")]
        for name, convert in (("seeds", int), ("epochs", float), ("blocks", int))
    ]
    ordered = sorted(bases, key=lambda name: bases[name].protocol != "small")
    cells = [
        Cell(base, name, epochs, block, seed, bases[base].protocol)
        for base in ordered
        for seed, epochs, block in product(*numbers)
        for name in data
    ]
    return [cell for cell in cells if not options.only or fnmatch.fnmatch(cell.name, options.only)]


def plan_text(cells: Sequence[Cell], missing: Sequence[Cell], folder: Path) -> str:
    """The plan as people read it; a cell takes what others of its base took, an epoch and a token."""
    done = [read_cell(cell_path(folder, cell)) for cell in cells if cell not in missing]
    took: dict[str, list[float]] = {}
    for kept in done:
        took.setdefault(kept.cell.base, []).append(float(kept.about["seconds"]))
    estimates = [statistics.median(took[cell.base]) if cell.base in took else None for cell in missing]
    lines = [f"  {cell.name}: {shown(seconds)}" for cell, seconds in zip(missing, estimates, strict=True)]
    known = [seconds for seconds in estimates if seconds is not None]
    unknown = len(missing) - len(known)
    total = f"about {shown(sum(known))}" + (f" and {unknown} not known yet" if unknown else "")
    return "\n".join([f"{len(done)} of {len(cells)} cells are there; {len(missing)} to run, {total}:", *lines])


def work_off(
    missing: Sequence[Cell], bases: Mapping[str, Base], data: Mapping[str, str], options: argparse.Namespace
) -> int:
    """Run the cells one after the other; returns 1 if one failed."""
    started, failed = time.monotonic(), False
    (options.work / "locks").mkdir(parents=True, exist_ok=True)
    for cell in missing:
        if options.budget is not None and time.monotonic() - started > 60 * options.budget:
            print(f"stopped before {cell.name}: the budget is spent")
            break
        try:
            with FileLock(options.work / "locks" / cell.name, timeout=0):
                if not cell_path(options.work / "cells", cell).is_file():
                    _run(cell, bases[cell.base], data, options)
        except Timeout:
            print(f"{cell.name}: another process works on it; left to it")
        except SpvmiaError as error:
            failed = True
            print(f"{cell.name}: {error}", file=sys.stderr, flush=True)
    return int(failed)


def _run(cell: Cell, base: Base, data: Mapping[str, str], options: argparse.Namespace) -> None:
    print(cell.name, flush=True)
    started = time.monotonic()
    work = options.work.absolute()
    files = dict(data)
    if base.pretrained_on:  # the models of one folder are trained by one process
        with FileLock(work / "locks" / f"base-{cell.base}"):
            size = SIZES.get(cell.base, Size())
            files |= pretrain(
                base.folder, {name: data[name] for name in base.pretrained_on}, base.folder / "data", size
            )
    place = Place(
        work=work,
        models={cell.base: str(base.folder)},
        data=files,
        cache=work / "store" / cell.base,
        device=options.device,
        threads=options.threads,
    )
    target, log = work / "targets" / cell.name, work / "logs" / f"{cell.name}.log"
    settings = cell.finetune_options()
    if options.members is not None:
        settings |= dict.fromkeys(("members", "nonmembers", "prompts"), options.members)
    words = finetune_words(str(base.folder), files[cell.data], target, settings)
    make_target(words, target, settings, place, log, lambda line: print(line, flush=True))
    _in_a_process_of_its_own(cell, base, target, place, log, started)
    print(f"  {shown(time.monotonic() - started)}; {cell_path(work / 'cells', cell)}", flush=True)


def _in_a_process_of_its_own(cell: Cell, base: Base, target: Path, place: Place, log: Path, started: float) -> None:
    """Audit a target. What a crashed audit held is gone with its process, and the next cell begins with clean memory.

    Raises:
        SpvmiaError: it failed; the last line of its log is told.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_child, args=(cell, base, target, place, log, started))
    os.environ.update(place.environment())
    process.start()
    process.join()
    if process.exitcode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SpvmiaError(f"audit: failed: {lines[-1] if lines else process.exitcode}; everything it said is in {log}")


def _child(cell: Cell, base: Base, target: Path, place: Place, log: Path, started: float) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(place.environment())
    collect(cell, base, target, place, started)


def collect(cell: Cell, base: Base, target: Path, place: Place, started: float) -> Path:
    """Audit a target and write its cell."""
    import numpy as np

    from spvmia_plugin.data.manifest import read_manifest
    from spvmia_plugin.harness.in_process import audit, load_task

    if place.threads:
        import torch

        torch.set_num_threads(place.threads)
    arguments = {"pretrained": str(base.folder.absolute()), "peft": str(target)}
    metadata = {**cell.audit_options(), "mia_cache_dir": str(place.cache)}
    task = load_task("loss_mia_custom", arguments, metadata)
    collector = Collector()
    there = [name for name in BESIDE if name in task.registry.attacks]
    attacks = {name: task.registry.attack(name, task.settings) for name in there}
    outcome = audit(task, {"collector": collector, **attacks}, arguments, device=place.device)
    records = task.data.records
    results = {name: [outcome.results[name][record.id].score for record in records] for name in there}
    manifest = read_manifest(target)
    kept = Kept(
        cell=cell,
        ids=[record.id for record in records],
        labels=np.array([record.is_member for record in records], dtype=bool),
        documents=[record.cluster for record in records],
        signals=collector.kept,
        scores={
            name: np.array([np.nan if score is None else score for score in scores]) for name, scores in results.items()
        },
        about={
            "finetune": dict(manifest.settings),
            "audit": json.loads(json.dumps(task.settings.to_json(), default=str)),
            "loss_on": manifest.data.loss_on,
            "fingerprint": task.data.fingerprint,
            "models": outcome.models,
            "details": json.loads(json.dumps(outcome.details, default=str)),
            "versions": {name: importlib.metadata.version(name) for name in ("spvmia-plugin", "torch", "transformers")},
            "seconds": time.monotonic() - started,
        },
    )
    (place.work / "cells").mkdir(parents=True, exist_ok=True)
    return write_cell(place.work / "cells", kept)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpvmiaError as problem:
        sys.exit(str(problem))
