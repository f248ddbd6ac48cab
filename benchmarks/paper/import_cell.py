"""Makes the summary of a cell from a target and a results folder that are there already.

    python benchmarks/paper/import_cell.py --data ag_news --base-name smollm2-135m --strength medium --seed 0 \\
        --target ./target --output-path ./results --work ./work

Attacks that the run did not hold are named as missing. With `--work` the target is linked there, so that `run.py` with
the same `--work` and the store of that run as `--cache` computes the missing attacks alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.paper.cells import (
    MAIN,
    RESULTS,
    Cell,
    missing_attacks,
    read_summaries,
    write_summary,
)
from benchmarks.paper.commands import finetune_words
from benchmarks.paper.settings import ABLATIONS, PROTOCOLS
from benchmarks.paper.steps import finetune_record
from benchmarks.paper.summary import merge, summarise_audit
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.errors import SpvmiaError


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    cell = Cell(
        options.data,
        options.base_name,
        options.protocol,
        options.method,
        options.strength,
        options.ablation,
        options.setting,
        options.seed,
    )
    check_same_recipe(cell, options.target)
    known = read_summaries(options.results).get(cell)
    summary = summarise_audit(options.output_path, options.target, "")
    summary["audits"][-1]["command"] = audit_shown(cell, list(summary["attacks"]))
    check_same_audit(cell, summary["audits"][-1]["settings"])
    if options.work is not None:
        link_all(cell, options.target, options.output_path, options.work)
    if known is not None and set(summary["attacks"]) <= set(known["attacks"]):
        print(f"{cell.name}: nothing new")
        return
    words = finetune_words(
        "$MODEL", f"${cell.data.upper()}", Path(f"$WORK/targets/{cell.target}"), cell.finetune_options()
    )
    summary["finetune"] = finetune_record(options.target, " ".join(words))
    summary = {**(merge(known, summary) if known is not None else summary), "imported": True}
    path = write_summary(cell, summary, options.results)
    missing = ", ".join(missing_attacks(cell, summary)) or "none"
    print(f"{path}: {len(summary['attacks'])} attacks; missing: {missing}")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--base-name", required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="cpu")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--strength", default="medium")
    parser.add_argument("--ablation", default=MAIN, choices=[MAIN, *ABLATIONS])
    parser.add_argument("--setting", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=Path, required=True, help="folder with mia_manifest.json")
    parser.add_argument("--output-path", type=Path, required=True, help="what lm_eval was given")
    parser.add_argument("--work", type=Path, help="work folder of run.py: the target is linked there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def check_same_recipe(cell: Cell, target: Path) -> None:
    """Refuse a target that was not made as the cell's is.

    Raises:
        SpvmiaError: an option differs; named.
    """
    found = read_manifest(target).settings
    for name, value in cell.finetune_options().items():
        got = found.get(name.replace("-", "_"))
        if got != value:
            raise SpvmiaError(f"--target: expected --{name} {value} as in {cell.name}, got {got}; name the right cell")


def check_same_audit(cell: Cell, settings: dict[str, object]) -> None:
    """Refuse a run with other options than the cell's.

    Raises:
        SpvmiaError: an option differs; named.
    """
    for name, value in cell.audit_options().items():
        if name in settings and settings[name] != value:
            raise SpvmiaError(
                f"--output-path: expected {name} {value!r} as in {cell.name}, got {settings[name]!r}; name the cell "
                "that it is"
            )


def audit_shown(cell: Cell, attacks: Sequence[str]) -> str:
    """The command of an imported audit, as the cell's options give it."""
    metadata = cell.audit_options() | {"mia_cache_dir": "$CACHE"}
    return (
        f"spvmia run --model hf --model_args pretrained=$MODEL,peft=$WORK/targets/{cell.target} --device cpu --tasks "
        f"{','.join(f'{attack}_mia_custom' for attack in attacks)} --metadata '{json.dumps(metadata)}' "
        f"--output_path $WORK/results/{cell.name} --log_samples"
    )


def link_all(cell: Cell, target: Path, results: Path, work: Path) -> None:
    """Let `run.py` and `combine.py` find the target and the results where they would have put them."""
    link(target, work / "targets" / cell.target)
    for file in results.rglob("*.json*"):
        link(file, work / "results" / cell.name / "imported" / file.name)


def link(original: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(original.absolute())


if __name__ == "__main__":
    try:
        main()
    except SpvmiaError as problem:
        sys.exit(str(problem))
