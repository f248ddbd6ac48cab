"""Two figures: strength against AUROC, and cost against AUROC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.paper.aggregate import Group, groups, rates_of
from benchmarks.paper.cells import MAIN, Cell
from benchmarks.paper.settings import ATTACKS, BLIND, MAIN_ATTACKS
from spvmia_plugin.errors import SpvmiaError

Summaries = Mapping[Cell, Mapping[str, Any]]

LABEL_GAP = 0.019
"""Between two labels, in AUROC."""
LOWEST = 0.4
"""Of the axis: below lie only ends of intervals."""
_NAMES = {"strength": "auroc_by_strength.svg", "cost": "auroc_by_cost.svg"}


def draw(summaries: Summaries, folder: Path) -> list[Path]:
    """Write both figures as SVG. Returns their paths; none where there is no main cell.

    Raises:
        SpvmiaError: matplotlib is not installed.
    """
    mains = [group for group in groups(summaries).values() if group.cell.ablation == MAIN]
    if not mains:
        return []
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"strength": _by_strength(pyplot, mains), "cost": _by_cost(pyplot, mains, summaries)}
    paths = []
    for kind, figure in figures.items():
        path = folder / _NAMES[kind]
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        paths.append(path)
    return paths


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise SpvmiaError(
            "figures: expected matplotlib, got none installed; run: pip install matplotlib, or give --no-figures"
        ) from error
    matplotlib.use("Agg")
    # The same numbers give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "spvmia", "svg.fonttype": "none", "axes.grid": True, "font.size": 9})
    from matplotlib import pyplot

    return pyplot


def _panels(pyplot: Any, mains: list[Group]) -> tuple[Any, dict[str, Any]]:
    names = sorted({_panel(group) for group in mains})
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.6 * len(names), 4.2), sharey=True, squeeze=False)
    panels = dict(zip(names, axes[0], strict=True))
    for name, axis in panels.items():
        axis.set_title(name)
        axis.axhline(0.5, color="grey", linewidth=0.8)
        axis.set_ylim(LOWEST, 1.01)
    axes[0][0].set_ylabel("AUROC (mean over seeds, 95 % interval)")
    return figure, panels


def _panel(group: Group) -> str:
    return f"{group.cell.data}, {group.cell.base}"


def _by_strength(pyplot: Any, mains: list[Group]) -> Any:
    names = [_panel(group) for group in mains]
    swept = [group for group in mains if names.count(_panel(group)) > 1]  # one strength is no line
    figure, panels = _panels(pyplot, swept or mains)
    for name, axis in panels.items():
        own = sorted((g for g in mains if _panel(g) == name), key=lambda g: g.mean("loss", "auroc").value)
        for number, attack in enumerate(MAIN_ATTACKS):
            points = [(g.mean("loss", "auroc").value, g.mean(attack, "auroc")) for g in own if g.entries(attack)]
            if points:
                x = [strength for strength, _ in points]
                y = [mean.value for _, mean in points]
                reach = [[m.value - m.low for _, m in points], [m.high - m.value for _, m in points]]
                axis.errorbar(x, y, yerr=reach, marker="o", markersize=4, capsize=2, color=f"C{number}", label=attack)
        axis.set_xlabel("strength of the fine-tuning: AUROC of the loss attack")
    _legend(figure, panels)
    return figure


def _by_cost(pyplot: Any, mains: list[Group], summaries: Summaries) -> Any:
    """Medium strength where there is one; seconds of each attack alone."""
    figure, panels = _panels(pyplot, mains)
    for name, axis in panels.items():
        own = [group for group in mains if _panel(group) == name]
        group = next((g for g in own if g.cell.strength == "medium"), own[0])
        rates = rates_of(summaries, group.cell)
        points = {a: (group.seconds(a, rates), group.mean(a, "auroc")) for a in ATTACKS if a != BLIND}
        known = {a: p for a, p in points.items() if math.isfinite(p[0]) and math.isfinite(p[1].value)}
        for number, (seconds, mean) in enumerate(known.values()):
            reach = [[mean.value - mean.low], [mean.high - mean.value]]
            axis.errorbar([seconds], [mean.value], yerr=reach, marker="o", capsize=2, color=f"C{number % 10}")
        for attack, (x, y) in _label_places({a: (p[0], p[1].value) for a, p in known.items()}).items():
            axis.annotate(attack, (x * 1.06, y), fontsize=7, va="center")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(x=0.25)
        axis.set_xlabel(f"seconds of the attack alone, strength {group.cell.strength}")
    return figure


def _label_places(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Where labels stand so that those of one cost don't lie on each other: pushed upwards, in order."""
    placed: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1]):
        beside = [py for px, py in placed.values() if abs(math.log(px / x)) < 0.3]
        placed[name] = (x, max([y, *(py + LABEL_GAP for py in beside if py + LABEL_GAP > y)]))
    return placed


def _legend(figure: Any, panels: Mapping[str, Any]) -> None:
    labelled: dict[str, Any] = {}
    for axis in panels.values():
        handles, labels = axis.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.legend(labelled.values(), labelled.keys(), loc="center left", bbox_to_anchor=(0.91, 0.5), frameon=False)
