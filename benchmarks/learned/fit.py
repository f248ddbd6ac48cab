"""Fits the weights that the package ships, and writes them with their card.

    python benchmarks/learned/fit.py WORK/cells... [--output spvmia_plugin/attacks/learned_weights.json]

`CHOSEN` says which cells; `judge.py` says what such weights are worth on bases and data that they have not seen.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.learned.cells import Cell, read_cells
from benchmarks.learned.judge import Judged, auroc_in_folds
from spvmia_plugin.attacks.weights import SHIPPED, VARIANTS, Weights, write_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import learn
from spvmia_plugin.util.strict_json import finite

CHOSEN = ("*",)
"""Cells that the shipped weights are fitted on, as patterns of their names: every base, data set, strength and seed
that was collected, but for those of `LEFT_OUT`."""
LEFT_OUT: tuple[str, ...] = ()

OUTPUT = Path(__file__).resolve().parents[2] / "spvmia_plugin" / "attacks" / SHIPPED


def is_chosen(cell: Cell) -> bool:
    """Whether the shipped weights are fitted on a cell."""

    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)

    return fits(CHOSEN) and not fits(LEFT_OUT)


def fit_all(cells: Sequence[Judged], seed: int = 0) -> Weights:
    """Weights of every variant, each on the cells that have its models.

    Raises:
        SpvmiaError: there is no cell.
    """
    if not cells:
        raise SpvmiaError("cells: expected cells that CHOSEN names, got none; collect some, or correct the table")
    found: dict[str, Weights] = {}
    aurocs = {}
    for variant in VARIANTS:
        able = [each for each in cells if variant in each.variants]
        if able:
            aurocs[variant] = auroc_in_folds(able, variant)
            found[variant] = learn([each.seen for each in able], told(cells), [variant], seed=seed)
    settings = {
        **found["base"].card.settings,
        "folds": "whole bases and data sets",
        "auroc_in_folds": finite({name: round(value, 4) for name, value in aurocs.items()}),
    }
    control = {name: each.card.control[name] for name, each in found.items()}
    card = replace(found["base"].card, settings=settings, control=control)  # every cell has its base
    return Weights(card, {name: each.variants[name] for name, each in found.items()})


def told(cells: Sequence[Judged]) -> str:
    """Fitted on what, in a line."""
    bases, data = (dict.fromkeys(getattr(each.cell, name) for each in cells) for name in ("base", "data"))
    return f"{len(cells)} audits: bases {', '.join(bases)}; data {', '.join(data)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", type=Path, help="folders of cells that collect.py wrote")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file to write")
    options = parser.parse_args(arguments)
    kept = [each for folder in options.cells for each in read_cells(folder) if is_chosen(each.cell)]
    cells = [Judged.of(each) for each in kept]
    weights = fit_all(cells)
    write_weights(options.output, weights)
    for variant, control in weights.card.control.items():
        print(
            f"{variant:9} AUROC in folds "
            f"{weights.card.settings['auroc_in_folds'][variant]}, permuted labels {control['auroc']:.3f} (deviation "
            f"{control['sd']:.3f})"
        )
    print(f"{weights.card.summary}; {options.output}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpvmiaError as problem:
        sys.exit(str(problem))
