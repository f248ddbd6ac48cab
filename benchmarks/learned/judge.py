"""How good weights are on bases and data they never saw: leave one base and one data set out, cell by cell.

    python benchmarks/learned/judge.py WORK/cells... [--output docs/part.md] [--json FILE]

For every cell, weights are fitted on the cells of other bases and of other data sets alone: none of its base, and none
of its data, whatever the base. Names that agree up to the first hyphen are one family (`wikitext`,
`wikitext-articles`), and count as one. Beside it stand the attacks
that need no fitting, on the same records, and a control: weights fitted in the same way on permuted labels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.learned.cells import Cell, Floats, Kept, read_cells
from spvmia_plugin.attacks.pooled import FEATURE_NAMES, features_of
from spvmia_plugin.attacks.weights import Variant
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.learning import Labelled, design, fit, permuted_labels
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.metrics.tpr import tpr_at_fpr
from spvmia_plugin.shadow.fitting import variants_of
from spvmia_plugin.signals import Unscored

LEARNED = "learned"
BESIDE = ("spv_wbc", "candidate_wbc", "both_wbc", "spv_ez", "lira_candidate", "lira_base", "loss")
"""What stands beside it in the tables, as far as the cells have it."""
METRICS: Mapping[str, Callable[[Floats, Any], float]] = {
    "AUROC": auroc,
    "TPR at 5 %": lambda scores, labels: tpr_at_fpr(scores, labels, 0.05).tpr,
    "TPR at 1 %": lambda scores, labels: tpr_at_fpr(scores, labels, 0.01).tpr,
}
HARD = 0.85
"""Cells in which `spv_wbc` is below this AUROC are told by themselves."""
INNER_FOLDS = 4
CONTROLS = 20
"""Fits on permuted labels for each base and data set left out."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A cell with what the attack saw of it."""

    kept: Kept
    seen: Labelled

    @classmethod
    def of(cls, kept: Kept) -> Judged:
        """Compute the features from the signals that were kept."""
        table = np.full((len(kept.labels), len(FEATURE_NAMES)), np.nan, dtype=np.float32)
        for row, found in enumerate(features_of(kept.signals)):
            if not isinstance(found, Unscored):
                table[row] = found
        return cls(kept, Labelled(table, kept.labels, FEATURE_NAMES, kept.documents, asdict(kept.cell)))

    @property
    def cell(self) -> Cell:
        return self.kept.cell

    @property
    def families(self) -> tuple[str, str]:
        """Of its base and its data."""
        return family(self.cell.base), family(self.cell.data)

    @cached_property
    def variants(self) -> list[str]:
        return variants_of([self.seen])

    def scores(self, weights: Variant) -> Floats:
        """(n,) scores under some weights, NaN where a record lacks a model."""
        z, able = design(self.seen.table, self.seen.names, weights.names)
        scores = np.full(len(self.kept.labels), np.nan)
        scores[able] = z @ np.array(weights.weights)
        return scores

    def auroc(self, weights: Variant) -> float:
        """Of the records that have a score."""
        scores = self.scores(weights)
        known = np.isfinite(scores)
        return float(auroc(scores[known], self.kept.labels[known]))


def family(name: str) -> str:
    """What names have in common that may not be on both sides."""
    return name.partition("-")[0]


def others(cells: Sequence[Judged], of: Judged) -> list[Judged]:
    """The cells that share neither base nor data with one."""
    base, data = of.families
    return [each for each in cells if each.families[0] != base and each.families[1] != data]


def fitted_on(cells: Sequence[Judged], variant: str, labels: Sequence[Any] | None = None) -> Variant:
    """Weights of some cells, with other labels than theirs if they are given."""
    told = [each.kept.labels for each in cells] if labels is None else labels
    return fit([each.seen.table for each in cells], told, cells[0].seen.names, variant)


def folds_of_families(cells: Sequence[Judged]) -> list[list[int]]:
    """Numbers of cells in at most `INNER_FOLDS` groups; cells of one base and data set are in one group."""
    names = sorted({each.families for each in cells})
    count = min(INNER_FOLDS, len(names))
    return [[k for k, each in enumerate(cells) if names.index(each.families) % count == fold] for fold in range(count)]


def auroc_in_folds(cells: Sequence[Judged], variant: str) -> float:
    """Mean AUROC on cells that were held out, those of one base and data together; NaN where there is one such kind.

    The regularisation is not chosen by it: a handful of bases and data sets does not tell strengths apart, and the one
    that is best on the small bases is worse on another.
    """
    folds = folds_of_families(cells)
    if len(folds) < 2:
        return math.nan
    found = []
    for held_out in folds:
        weights = fitted_on([each for k, each in enumerate(cells) if k not in held_out], variant)
        found += [cells[k].auroc(weights) for k in held_out]
    return sum(found) / len(found)


@dataclass(frozen=True)
class Row:
    """One cell's numbers.

    Attributes:
        cell: which.
        fitted_on: number of cells.
        numbers: by attack and metric, NaN where there is none.
        control: AUROCs of weights fitted on permuted labels.
    """

    cell: Cell
    fitted_on: int
    numbers: Mapping[str, Mapping[str, float]]
    control: Sequence[float]


def judge(cells: Sequence[Judged], variant: str, seed: int = 0, controls: int = CONTROLS) -> list[Row]:
    """Every cell that has the variant's models, under weights of cells with neither its base nor its data.

    Raises:
        SpvmiaError: for no cell there are any.
    """
    able = [each for each in cells if variant in each.variants]
    rows = []
    rng = np.random.default_rng(seed)
    for families in sorted({each.families for each in able}):
        own = [each for each in able if each.families == families]
        fit_on = others(able, own[0])
        if not fit_on:
            continue
        weights = fitted_on(fit_on, variant)
        dealt = [[permuted_labels(e.seen.labels, e.seen.clusters, rng) for e in fit_on] for _ in range(controls)]
        chance = [fitted_on(fit_on, variant, labels) for labels in dealt]
        for each in own:
            scores = {LEARNED: each.scores(weights), **each.kept.scores}
            rows.append(
                Row(
                    each.cell,
                    len(fit_on),
                    {name: numbers(of, each.kept.labels) for name, of in scores.items()},
                    [each.auroc(w) for w in chance],
                )
            )
    if not rows:
        raise SpvmiaError(
            f"cells: expected cells of at least two bases and two data sets that have the models of {variant!r}, got "
            f"{len({each.families for each in able})} kinds; collect more"
        )
    return rows


def numbers(scores: Floats, labels: Any) -> dict[str, float]:
    """All metrics; a record without a score counts as the median of the others, the rank of a coin toss."""
    known = np.isfinite(scores)
    if not known.any():
        return dict.fromkeys(METRICS, math.nan)
    filled = np.where(known, scores, np.median(scores[known]))
    return {name: float(metric(filled, labels)) for name, metric in METRICS.items()}


def gain(rows: Sequence[Row], attack: str, metric: str, confidence: float = 0.95) -> dict[str, float]:
    """`learned` less another attack, paired by cell: mean, t interval over cells, and in how many it is above."""
    from scipy import stats

    pairs = np.array([[row.numbers[name].get(metric, math.nan) for name in (LEARNED, attack)] for row in rows])
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    gains = pairs[:, 0] - pairs[:, 1]
    n = len(gains)
    mean = float(gains.mean()) if n else math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * gains.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "cells": n,
        "above": int((gains > 0).sum()),
        "ratio": float(pairs[:, 0].mean() / pairs[:, 1].mean()) if n and pairs[:, 1].mean() else math.nan,
    }


def markdown(rows: Sequence[Row], variant: str) -> str:
    """The tables, for docs/learned.md."""
    attacks = [name for name in (LEARNED, *BESIDE) if any(name in row.numbers for row in rows)]
    lines = [
        f"Variant `{variant}`: {len(rows)} cells of {len({r.cell.base for r in rows})} bases and "
        f"{len({r.cell.data for r in rows})} data sets, each under weights fitted on "
        f"{min(r.fitted_on for r in rows)} to {max(r.fitted_on for r in rows)} cells of other bases and other "
        "data.",
        "",
    ]
    for metric in METRICS:
        lines += [f"{metric}, mean over seeds:", "", *_table(rows, attacks, metric), ""]
    for title, chosen in (
        ("all cells", rows),
        (f"cells with an AUROC of `spv_wbc` below {HARD:g}", [row for row in rows if _is_hard(row)]),
    ):
        lines += _gains(title, chosen, attacks[1:])
    return "\n".join([*lines, *_control(rows)])


def _control(rows: Sequence[Row]) -> list[str]:
    """What weights on permuted labels have, fit by fit: cells that one fit is judged by say the same of it."""
    fits: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        for number, value in enumerate(row.control):
            fits.setdefault((family(row.cell.base), family(row.cell.data), number), []).append(value)
    means = np.array([sum(values) / len(values) for values in fits.values()])
    if len(means) < 2:
        return []
    return [
        f"Weights fitted on permuted labels: mean AUROC {means.mean():.3f}, standard error "
        f"{means.std(ddof=1) / math.sqrt(len(means)):.3f}, deviation from fit to fit {means.std(ddof=1):.3f}, "
        f"{len(means)} fits. The features go together, so that one random direction finds most members or few."
    ]


def _is_hard(row: Row) -> bool:
    return row.numbers.get("spv_wbc", {}).get("AUROC", math.nan) < HARD


def _table(rows: Sequence[Row], attacks: Sequence[str], metric: str) -> list[str]:
    head = ["base", "data", "epochs", "tokens", "seeds", *(f"`{name}`" for name in attacks)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    groups: dict[tuple[str, str, float, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.base, row.cell.data, row.cell.epochs, row.cell.block), []).append(row)
    for (base, data, epochs, block), own in sorted(groups.items()):
        means = [_mean([row.numbers.get(name, {}).get(metric, math.nan) for row in own]) for name in attacks]
        best = max((value for value in means if math.isfinite(value)), default=math.nan)
        cells = [("" if math.isnan(v) else f"**{v:.3f}**" if v == best else f"{v:.3f}") for v in means]
        lines.append(
            "| " + " | ".join([base, data, f"{epochs:g}", str(block or "whole"), str(len(own)), *cells]) + " |"
        )
    return lines


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _gains(title: str, rows: Sequence[Row], attacks: Sequence[str]) -> list[str]:
    if not rows:
        return []
    lines = [f"Gain of `{LEARNED}`, paired by cell, {title} (mean, 95 % interval over cells; above in):", ""]
    head = ["less", *METRICS]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for attack in attacks:
        of_attack = [row for row in rows if attack in row.numbers]
        told = []
        for metric in METRICS:
            found = gain(of_attack, attack, metric)
            ratio = "" if metric == "AUROC" or math.isnan(found["ratio"]) else f", x {found['ratio']:.2f}"
            told.append(
                f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){ratio}; {found['above']} of "
                f"{found['cells']}"
            )
        lines.append("| " + " | ".join([f"`{attack}`", *told]) + " |")
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", type=Path, help="folders of cells that collect.py wrote")
    parser.add_argument("--variants", default="both", help="comma-separated: both, candidate, reference, base")
    parser.add_argument("--controls", type=int, default=CONTROLS, help="fits on permuted labels for each left out")
    parser.add_argument("--output", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--json", type=Path, help="write every cell's numbers to this file")
    options = parser.parse_args(arguments)
    cells = [Judged.of(kept) for folder in options.cells for kept in read_cells(folder)]
    found = {variant: judge(cells, variant, controls=options.controls) for variant in options.variants.split(",")}
    text = "\n\n".join(markdown(rows, variant) for variant, rows in found.items()) + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    if options.json is not None:
        told = {variant: [asdict(row) for row in rows] for variant, rows in found.items()}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpvmiaError as problem:
        sys.exit(str(problem))
