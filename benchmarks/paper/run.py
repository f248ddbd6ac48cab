"""Runs the missing cells of the experiment: fine-tune, audit with all attacks, keep the numbers.

    python benchmarks/paper/run.py --model ./smollm2-135m --data ag_news=ag_news.jsonl --data wikitext=wikitext.jsonl \\
        --strengths light,medium,heavy --seeds 0,1,2 --work ./work --budget 60 --threads 1

Cells whose summary lies in benchmarks/paper/results/ are skipped, and a cell that was killed continues. The plan with
its estimate is shown first; `--plan` shows only that.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from filelock import FileLock, Timeout

from benchmarks.paper import cells as store
from benchmarks.paper.cells import Cell, ablation_cells, missing_attacks, read_summaries, shard, summary_path
from benchmarks.paper.commands import Place
from benchmarks.paper.estimate import measured_rates, seconds_needed, shown
from benchmarks.paper.settings import ABLATIONS, ATTACKS, PROTOCOLS
from benchmarks.paper.steps import ALL, Steps
from benchmarks.paper.summary import merge
from spvmia_plugin.data.manifest import MANIFEST_NAME
from spvmia_plugin.errors import SpvmiaError


@dataclass(frozen=True)
class Task:
    """A cell to work on.

    Attributes:
        cell: which.
        attacks: those its summary lacks.
        seconds: estimate, None if nothing was measured yet.
        blocked: why it cannot run here, or empty.
    """

    cell: Cell
    attacks: Sequence[str]
    seconds: float | None
    blocked: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    place = make_place(options)
    summaries = read_summaries(options.results)
    tasks = plan(wanted_cells(options), summaries, place, options.attacks)
    print(plan_text(tasks), flush=True)
    return 0 if options.plan else work_off(tasks, place, options)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cell_options(parser)
    parser.add_argument("--strengths", default="medium", help="comma-separated: light, medium, heavy")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--methods", default="lora", help="comma-separated: lora, full")
    parser.add_argument("--ablation", nargs="+", default=[], metavar="NAME", choices=[*ABLATIONS, "all"])
    parser.add_argument("--max-self-prompts", type=int, default=1000, help="of the ablation self_prompts")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="begin no cell that would end after it")
    parser.add_argument("--only", metavar="GLOB", help="cells whose name fits, such as 'ag_news*seed0'")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N shares (0/2, 1/2); a target stays in one")
    parser.add_argument("--plan", action="store_true", help="show the plan and end")
    return parser.parse_args(arguments)


def add_cell_options(parser: argparse.ArgumentParser) -> None:
    """The options that `run.py` and `combine.py` share."""
    parser.add_argument("--model", type=Path, help="folder of the base model (with --pretrain: where it is written)")
    parser.add_argument("--base-name", help="its name in tables and file names (default: the folder's)")
    parser.add_argument("--pretrain", action="store_true", help="pretrain a small base first: see pretrain.py")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FILE", help="a data set; repeatable")
    parser.add_argument("--other", metavar="NAME=FILE", help="other data of the same domain, for the ablations")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="cpu")
    parser.add_argument("--members", type=int, help="instead of the protocol's")
    parser.add_argument("--prompts", type=int, help="instead of the protocol's")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, result folders and logs")
    parser.add_argument("--cache", type=Path, help="the audits' store (default: WORK/cache)")
    parser.add_argument("--results", type=Path, default=store.RESULTS, help="folder of the summaries")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu", help="as in lm_eval's --device")
    parser.add_argument("--batch-size", default="auto", help="as in lm_eval's --batch_size")
    parser.add_argument("--mask-model", help="folder of a T5, for the paraphrases mask_fill")
    parser.add_argument(
        "--attacks", type=_names, default=ATTACKS, help="comma-separated (default: all that a cell measures)"
    )


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected names of {', '.join(ATTACKS)}, got {', '.join(unknown)}")
    return names


def make_place(options: argparse.Namespace) -> Place:
    """Where things are; pretrains the base if it is asked for."""
    data = dict(_named(spec, "--data") for spec in options.data)
    other = _named(options.other, "--other") if options.other else None
    audited = list(data)
    data |= dict([other] if other else [])
    model = options.model or (options.work / "pretrained" if options.pretrain else None)
    if model is None:
        raise SpvmiaError("--model: expected the folder of a base model, got none; name it, or give --pretrain")
    if options.pretrain:
        from benchmarks.paper.pretrain import pretrain

        data |= pretrain(model, dict([other]) if other else data, options.work / "files")
    options.audited = audited
    options.base_name = options.base_name or model.name
    return Place(
        work=options.work,
        models={options.base_name: str(model)},
        data=data,
        cache=options.cache or options.work / "cache",
        device=options.device,
        threads=options.threads,
        batch_size=options.batch_size,
        mask_model=options.mask_model,
        other=other[0] if other else None,
        overrides={name: value for name in ("members", "prompts") if (value := getattr(options, name)) is not None},
    )


def _named(spec: str, option: str) -> tuple[str, str]:
    name, _, path = spec.partition("=")
    if not name or "__" in name:
        raise SpvmiaError(f"{option}: expected NAME=FILE with a plain name, got {spec!r}; correct it")
    return name, path or name


def wanted_cells(options: argparse.Namespace) -> list[Cell]:
    """The main cells and, after each, those of its ablations."""
    names = list(ABLATIONS) if "all" in options.ablation else options.ablation
    found = []
    for seed in map(int, options.seeds.split(",")):
        for strength in options.strengths.split(","):
            if strength not in PROTOCOLS[options.protocol].strengths:
                raise SpvmiaError(f"--strengths: expected light, medium or heavy, got {strength!r}; correct it")
            for data in options.audited:
                for method in options.methods.split(","):
                    main_cell = Cell(data, options.base_name, options.protocol, method, strength, seed=seed)
                    ablations = [cell for name in names for cell in ablation_cells(main_cell, name)]
                    found += [main_cell, *(cell for cell in ablations if _small_enough(cell, options))]
    chosen = [cell for cell in found if not options.only or fnmatch.fnmatch(cell.name, options.only)]
    if not options.shard:
        return chosen
    index, count = map(int, options.shard.split("/"))
    return shard(chosen, index, count)


def _small_enough(cell: Cell, options: argparse.Namespace) -> bool:
    return int(str(cell.change.audit.get("mia_self_prompts", 0))) <= options.max_self_prompts


def plan(
    cells: Sequence[Cell],
    summaries: Mapping[Cell, Mapping[str, Any]],
    place: Place,
    only: Sequence[str] = ATTACKS,
) -> list[Task]:
    """What is missing of the attacks `only`, and about how long it takes."""
    tasks = []
    targets: set[str] = set()
    mains: set[Cell] = set()
    for cell in cells:
        attacks = [name for name in missing_attacks(cell, summaries.get(cell)) if name in only]
        target_there = _has_target(cell, place)
        if not target_there and attacks:  # all attacks of a summary are of the same weights
            attacks = [name for name in cell.attacks if name in only]
        rates = measured_rates(summaries, cell.base, cell.protocol)
        if attacks:
            seconds = seconds_needed(
                cell,
                attacks,
                rates,
                has_target=target_there or cell.target in targets,
                has_main=cell.main in mains or _was_audited(cell.main, place),
                members=place.overrides.get("members"),  # type: ignore[arg-type]
            )
            tasks.append(Task(cell, attacks, seconds, _blocked(cell, place)))
            targets.add(cell.target)
            if len(attacks) == len(ATTACKS):
                mains.add(cell)
    return tasks


def _has_target(cell: Cell, place: Place) -> bool:
    return (place.work / "targets" / cell.target / MANIFEST_NAME).is_file()


def _was_audited(cell: Cell, place: Place) -> bool:
    """Whether all attacks ran here in one go: an imported cell was audited with another store, maybe by other code."""
    return any((place.work / "results" / cell.name / ALL).glob("**/results_*.json"))


def _blocked(cell: Cell, place: Place) -> str:
    """Why a cell cannot run here."""
    missing = {
        "--other": place.other is None,
        "--mask-model": place.mask_model is None,
        "bitsandbytes": find_spec("bitsandbytes") is None,
    }
    needs = cell.change.needs
    return f"needs {needs}" if missing.get(needs, False) else ""


def plan_text(tasks: Sequence[Task]) -> str:
    """The plan as people read it."""
    runnable = [task for task in tasks if not task.blocked]
    lines = [
        f"  {task.cell.name}: {len(task.attacks)} attacks, {task.blocked or shown(task.seconds)}" for task in tasks
    ]
    known = [task.seconds for task in runnable if task.seconds is not None]
    unknown = len(runnable) - len(known)
    total = f"about {shown(sum(known))}" + (f" and {unknown} not known yet" if unknown else "")
    return "\n".join([f"{len(runnable)} cells to run, {total}:", *lines])


def work_off(tasks: Sequence[Task], place: Place, options: argparse.Namespace) -> int:
    """Run the tasks one after the other; returns how many failed."""
    started, failed = time.monotonic(), 0
    results, budget = options.results, options.budget
    (place.work / "locks").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task.blocked:
            continue
        left = None if budget is None else 60 * budget - (time.monotonic() - started)
        seconds = _estimate_again(task, place, results)
        if left is not None and (left <= 0 or (seconds or 0.0) > left):
            print(f"stopped before {task.cell.name}: {shown(seconds)} needed, {shown(max(left, 0))} of the budget left")
            break
        try:
            with FileLock(place.work / "locks" / task.cell.target, timeout=0):
                _run(task, place, results)
        except Timeout:
            print(f"{task.cell.name}: another process works on its target; left to it")
        except SpvmiaError as error:
            failed += 1
            print(f"{task.cell.name}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _estimate_again(task: Task, place: Place, results: Path) -> float | None:
    """The estimate with what has been measured since."""
    again = plan([task.cell], read_summaries(results), place, task.attacks)
    return again[0].seconds if again else 0.0


def _run(task: Task, place: Place, results: Path) -> None:
    """Run one cell and write its summary; what another process finished meanwhile is left."""
    known = read_summaries(results).get(task.cell)
    if not set(task.attacks) & set(missing_attacks(task.cell, known)):
        return
    print(f"{task.cell.name}: {', '.join(task.attacks)}", flush=True)
    started = time.monotonic()
    summary = Steps(task.cell, place).run(task.attacks)
    if known is not None and known["target"] == summary["target"]:
        summary = merge(known, summary)
    summary["environment"] = environment(place)
    store.write_summary(task.cell, summary, results)
    seconds = time.monotonic() - started
    print(f"  {shown(seconds)}; {summary_path(task.cell, results)}", flush=True)


def environment(place: Place) -> dict[str, object]:
    """The machine, for the reader of the seconds."""
    from benchmarks.common import environment as describe

    found = describe()
    return {key: found[key] for key in ("machine", "processor", "cores")} | {
        "device": place.device,
        "threads": place.threads,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpvmiaError as problem:
        sys.exit(str(problem))
