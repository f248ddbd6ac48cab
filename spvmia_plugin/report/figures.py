"""The figures of an audit, each drawn once: as an inline picture for the page, and as files for papers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.metrics.arrays import Floats, cluster_codes
from spvmia_plugin.metrics.names import AUROC, TPRS
from spvmia_plugin.metrics.roc import roc_curve
from spvmia_plugin.metrics.tpr import tpr_interval, unresolved
from spvmia_plugin.report.numbers import (
    attack_classes,
    blind_task,
    leading,
    ranked,
    stage_seconds,
    stages,
    strongest_task,
    title,
)
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.results.estimate import of_attack
from spvmia_plugin.web import drawing
from spvmia_plugin.web.drawing import PALETTE, TOP
from spvmia_plugin.web.text import STYLES, listed

BAND_POINTS = 28
"""False-positive rates at which a band is computed, on a geometric grid."""
BINS = 36
MAX_POINTS = 700
"""Points drawn of each class in a scatter plot; more are a cloud that is slow to open."""
MAX_STEPS = 400
"""Corners of a curve that are drawn, spread over both axes as they are seen: more fall on the same pixels."""
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_DASHED = (0, (4, 3))
_WORD = 8.5
"""Points of the word at the line of guessing."""


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: for its file, "roc-log", "scores-spv".
        attacks: numbers of the attacks in `ranked` that it is about, empty if it shows all.
        alt: what it shows, in words, for those who cannot see it.
        caption: what it shows and how to read it.
        draw: makes the matplotlib figure; given True, one in which the page can show or hide each attack's band.
    """

    name: str
    attacks: tuple[int, ...]
    alt: str
    caption: str
    draw: Callable[[bool], Any]


@dataclass(frozen=True)
class Pictures:
    """The figures of one audit by what they are for; empty where the run kept no samples."""

    ranking: Sequence[Picture]
    roc: Sequence[Picture]
    scores: Sequence[Picture]
    scatter: Sequence[Picture]
    cost: Sequence[Picture]

    def save(self, folder: Path, prefix: str) -> None:
        """Write every figure as PNG and SVG.

        Raises:
            OSError: the folder cannot be written.
        """
        for picture in (*self.ranking, *self.roc, *self.scores, *self.scatter, *self.cost):
            name = _NOT_IN_A_NAME.sub("_", f"{prefix}-{picture.name}")
            for suffix in ("png", "svg"):
                drawing.write(picture.draw, folder / f"{name}.{suffix}")


def pictures(audit: Audit) -> Pictures:
    """Everything there is to draw of an audit; nothing is drawn yet."""
    tasks, blind = ranked(audit), blind_task(audit)
    everyone = [*tasks, *([blind] if blind else [])]
    curves = [curve(audit, task) for task in everyone] if audit.has_samples else []
    scores = [_scores(audit, number, task) for number, task in enumerate(tasks)] if audit.has_samples else []
    return Pictures(
        ranking=[_ranking(audit, everyone)],
        roc=_roc([title(task.attack) for task in tasks], curves) if any(curves) else [],
        scores=[picture for picture in scores if picture],
        scatter=_scatters(audit, tasks),
        cost=[] if audit.from_store else _cost(tasks),
    )


def _auroc(task: TaskResult) -> tuple[float, float, float]:
    """AUROC and both ends of its interval, NaN where not resolved."""
    found = of_attack(task, AUROC.key)
    return found.value, found.low, found.high


def _ranking(audit: Audit, tasks: Sequence[TaskResult]) -> Picture:
    rows = [(title(task.attack), *_auroc(task)) for task in tasks]
    best, (_, low, high) = strongest_task(audit), leading(audit, AUROC.key, "share")
    strongest = (title(best.attack), low.value, high.value) if best and low.value and high.value else None
    return Picture(
        name="ranking",
        attacks=(),
        alt="Attacks ranked by AUROC, each with its interval. The table of all attacks holds the same numbers.",
        caption="AUROC of each attack with its 95 % interval. The dashed line is guessing. The pale bar at the "
        "strongest attack allows for all attacks and rates looked at.",
        draw=lambda _: _draw_ranking([row for row in rows if np.isfinite(row[1])], strongest),
    )


def _draw_ranking(rows: Sequence[tuple[str, float, float, float]], strongest: tuple[str, float, float] | None) -> Any:
    """Dot and whisker of each attack's AUROC.

    Args:
        rows: title, AUROC and both ends of its interval, the largest first.
        strongest: title, and both ends of the wider interval that allows for having been chosen.
    """
    figure, axes = drawing.axes(0.9 + 0.27 * max(len(rows), 2))
    places = np.arange(len(rows))[::-1]
    axes.axvline(0.5, color=PALETTE["soft"], linestyle=_DASHED, linewidth=1)
    axes.text(0.5, len(rows) - 0.45, " guessing", color=PALETTE["soft"], ha="left", va="center", fontsize=_WORD)
    for place, (name, auroc, low, high) in zip(places, rows, strict=True):
        chosen = strongest is not None and name == strongest[0]
        if strongest and chosen and np.isfinite(strongest[1:]).all():
            wide = {"linewidth": 7, "alpha": 0.25, "solid_capstyle": "butt"}
            axes.plot(strongest[1:], [place] * 2, color=PALETTE["first"], **wide)
        colour = PALETTE["first"] if chosen else PALETTE["ink"]
        axes.plot([low, high], [place] * 2, color=colour, linewidth=1.4)
        axes.plot([auroc], [place], "o", color=colour, markersize=5)
    axes.set_yticks(places, [row[0] for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    ends = [end for row in rows for end in row[1:] if np.isfinite(end)] or [0.5]
    axes.set_xlim(min(0.45, min(ends) - 0.02), max(0.75, min(1.005, max(ends) + 0.02)))
    axes.set_ylim(-0.6, max(len(rows), 2) - 0.4)
    axes.set_xlabel("AUROC")
    return figure


@dataclass(frozen=True, eq=False)
class Curve:
    """One attack's ROC curve, K points, and its band at M false-positive rates.

    Attributes:
        fpr: (K,) ascending, 0 to 1.
        tpr: (K,) ascending, 0 to 1.
        band_fpr: (M,) where the band is known, from 1/n non-members on; empty if that is too few.
        low: (M,) lower ends.
        high: (M,) upper ends.
        n_members: scored members.
        n_nonmembers: scored non-members.
    """

    fpr: Floats
    tpr: Floats
    band_fpr: Floats
    low: Floats
    high: Floats
    n_members: int
    n_nonmembers: int


def curve(audit: Audit, task: TaskResult, confidence: float = 0.95) -> Curve | None:
    """The ROC curve of one attack with its band; None if a class has no score.

    At each false-positive rate the band is the interval of `metrics.tpr.tpr_interval`: order statistics of the
    non-members bound the threshold, Clopper-Pearson the members' share above it, both with documents as the unit, and
    the two are combined by MOVER (docs/statistics.md). At 1 % it is therefore exactly the interval that the results
    file has. The band is pointwise: 95 % at each rate, less for the whole curve at once. Nothing in it is random.
    """
    scores, labels = audit.scores(task), audit.labels()
    scored = np.isfinite(scores)
    values, members = scores[scored], labels[scored]
    n_members, n_nonmembers = int(members.sum()), int((~members).sum())
    if not n_members or not n_nonmembers:
        return None
    codes = cluster_codes(
        [cluster for cluster, known in zip(audit.clusters(), scored, strict=True) if known], len(values)
    )
    roc = roc_curve(values, members)
    rates = [rate for rate in band_rates(n_nonmembers) if unresolved(n_members, n_nonmembers, rate) is None]
    ends = [tpr_interval(values, members, codes, rate, confidence) for rate in rates]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return Curve(roc.fpr, roc.tpr, np.array(rates), low, high, n_members, n_nonmembers)


def band_rates(n_nonmembers: int) -> list[float]:
    """Rates from 1/n to just below 1: attainable ones (k/n) on a geometric grid, and those the results name.

    None for one non-member: at an FPR of 1 everybody is accused.
    """
    if n_nonmembers < 2:
        return []
    counts = np.unique(np.round(np.geomspace(1, n_nonmembers - 1, BAND_POINTS)))
    named = [metric.fpr for metric in TPRS if metric.fpr * n_nonmembers >= 1]
    return sorted({*(counts / n_nonmembers).tolist(), *named})


def _roc(labels: Sequence[str], curves: Sequence[Curve | None]) -> list[Picture]:
    n = sum(found is not None for found in curves)
    common = "Share of members picked out against share of non-members wrongly accused, at every threshold. "
    return [
        Picture(
            name=f"roc-{kind}",
            attacks=(),
            alt=f"ROC {'curve' if n == 1 else 'curves'} of {n} {'attack' if n == 1 else 'attacks'} on {kind} axes. "
            "The table of all attacks gives the areas below them and the values at 1 % and 0.1 %.",
            caption=common + reading,
            draw=partial(_draw_roc, labels, curves, kind == "log"),
        )
        for kind, reading in (
            ("linear", "The diagonal is guessing. The band holds the true curve at each point with 95 %."),
            ("log", "Both axes logarithmic: what counts for a record is the left end, where few are accused."),
        )
    ]


def _draw_roc(labels: Sequence[str], curves: Sequence[Curve | None], log: bool, all_bands: bool) -> Any:
    """ROC curves of all attacks, the strongest first; those beyond the strongest three, and the blind one, in grey.

    Args:
        labels: titles; a curve beyond them is the blind baseline's.
        curves: None where a class has no score.
        log: both axes logarithmic, from half a record on.
        all_bands: draw every attack's band, for a page that shows one at a time; otherwise the strongest one's.
    """
    figure, axes = drawing.axes(4.2)
    known = [found for found in curves if found is not None]
    floor = 0.5 / max(max(found.n_members, found.n_nonmembers) for found in known)
    grid = np.geomspace(floor, 1, 200) if log else np.linspace(0, 1, 200)
    axes.plot(grid, grid, color=PALETTE["soft"], linestyle=_DASHED, linewidth=1)
    at = grid[len(grid) // 2]
    axes.text(at, at, "  guessing", color=PALETTE["soft"], ha="left", va="top", fontsize=_WORD)
    for number, found in reversed(list(enumerate(curves))):
        if found is None:
            continue
        colour = PALETTE[TOP[number]] if number < min(len(TOP), len(labels)) else PALETTE["grey"]
        if number < (len(labels) if all_bands else 1) and len(found.band_fpr):
            band = axes.fill_between(
                found.band_fpr, np.maximum(found.low, floor if log else 0), found.high, color=colour, alpha=0.2, lw=0
            )
            band.set_gid(f"band-{number}")
        fpr, tpr = steps(found, floor if log else 0.0)
        label = labels[number] if number < min(len(TOP), len(labels)) else None
        style = (0, (1, 1.5)) if number >= len(labels) else "-"
        (line,) = axes.plot(fpr, tpr, color=colour, linewidth=1.7 if label else 1.0, linestyle=style, label=label)
        line.set_gid(f"curve-{number}")
    if log:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):  # whole decades, in percent as people write them
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(floor if log else -0.01, 1)
    axes.set_ylim(floor if log else 0, 1.02)
    axes.grid()
    axes.set_xlabel("false-positive rate: others wrongly accused")
    axes.set_ylabel("true-positive rate: members picked out")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="lower right")
    return figure


def steps(found: Curve, floor: float) -> tuple[Floats, Floats]:
    """The curve as corners of steps, at most one point of it for each of `MAX_STEPS` places on either axis.

    Args:
        found: the curve.
        floor: nothing lies below it, which logarithmic axes cannot show; 0 for linear ones.
    """

    def seen(values: Floats) -> Floats:
        """Where values stand on an axis, from 0 to 1."""
        placed: Floats = np.log(np.maximum(values, floor)) / -np.log(floor) + 1 if floor else values
        return placed

    fpr, tpr = found.fpr, found.tpr  # (K,)
    if len(fpr) > MAX_STEPS:
        cells = [np.floor(seen(values) * MAX_STEPS / 2) for values in (fpr, tpr)]
        keep = np.ones(len(fpr), dtype=bool)
        keep[1:-1] = (np.diff(cells[0]) != 0)[:-1] | (np.diff(cells[1]) != 0)[:-1]
        fpr, tpr = fpr[keep], tpr[keep]
    return np.maximum(np.repeat(fpr, 2)[1:], floor), np.maximum(np.repeat(tpr, 2)[:-1], floor)


def _scores(audit: Audit, number: int, task: TaskResult) -> Picture | None:
    """Distribution of the scores of both classes; None if a class has none."""
    values, labels = audit.scores(task), audit.labels()
    known = np.isfinite(values)
    members, others = values[known & labels], values[known & ~labels]
    if not len(members) or not len(others):
        return None
    of_members, of_others = (STYLES["score"](float(np.median(scores))) for scores in (members, others))
    medians = f"Half of the members score above {of_members}, half of the others above {of_others}."
    return Picture(
        name=f"scores-{task.attack}",
        attacks=(number,),
        alt=f"Distribution of the scores of {title(task.attack)}. {medians}",
        caption=f"Scores of {title(task.attack)}: the further apart the two outlines, the more the attack tells. "
        f"{medians} The outermost bins hold what lies beyond them.",
        draw=lambda _: _draw_distribution(members, others, title(task.attack)),
    )


def _draw_distribution(members: Floats, others: Floats, name: str) -> Any:
    """Outlines of both classes' scores; the outermost bins hold what lies beyond the central 99 %."""
    figure, axes = drawing.axes(3.2)
    low, high = np.quantile(np.concatenate([members, others]), [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    for scores, colour, style, label in (
        (others, "other", (0, (4, 2)), f"{len(others):,} others"),
        (members, "member", "-", f"{len(members):,} members"),
    ):
        share = np.histogram(np.clip(scores, low, high), edges)[0] / len(scores)
        axes.stairs(share, edges, fill=True, color=PALETTE[colour], alpha=0.18, linewidth=0)
        axes.stairs(share, edges, color=PALETTE[colour], linestyle=style, linewidth=1.5, label=label)
    axes.set_xlabel(f"score of {name}")
    axes.set_ylabel("share of the class")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    return figure


def _scatters(audit: Audit, tasks: Sequence[TaskResult]) -> list[Picture]:
    """Target against reference, once for each reference model: attacks with the same one share a picture."""
    seen: dict[bytes, tuple[Floats, list[int]]] = {}
    for number, task in enumerate(tasks):
        if task.records is None:
            continue
        # (n, 3): reference, target and whether a member, for records that have both means.
        points = np.column_stack([task.records.reference, task.records.target, task.records.roster.is_member])
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            seen.setdefault(points.tobytes(), (points, []))[1].append(number)
    return [_scatter(points, numbers, tasks, audit.mia_audit.seed) for points, numbers in seen.values()]


def _scatter(points: Floats, numbers: Sequence[int], tasks: Sequence[TaskResult], seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    drawn = []  # (k, 2) of the members and of the others, at most `MAX_POINTS` of each
    for is_member in (1.0, 0.0):
        of_class = points[points[:, 2] == is_member, :2]
        drawn.append(of_class[np.sort(rng.permutation(len(of_class))[:MAX_POINTS])])
    names = listed(title(tasks[number].attack) for number in numbers)
    return Picture(
        name=f"scatter-{tasks[numbers[0]].attack}",
        attacks=tuple(numbers),
        alt=f"Mean log-probability of each record under the target against the reference of {names}.",
        caption=f"Each dot is a record: mean log-probability of its tokens under the target and under the "
        f"reference of {names}. What lies far above the diagonal is known to the target alone."
        + (f" At most {MAX_POINTS} of each class are drawn." if len(points) > MAX_POINTS else ""),
        draw=lambda _: _draw_scatter(*drawn),
    )


def _draw_scatter(members: Floats, others: Floats) -> Any:
    """Mean log-probability of each record, target against reference.

    Args:
        members: (k, 2) reference and target.
        others: the same of the non-members.
    """
    figure, axes = drawing.axes(4.0)
    everything = np.concatenate([members, others])
    low, high = everything.min(axis=None), everything.max(axis=None)
    margin = 0.03 * (high - low) or 0.1
    axes.plot([low, high], [low, high], color=PALETTE["soft"], linestyle=_DASHED, linewidth=1)
    for points, colour, marker, label in ((others, "other", "s", "others"), (members, "member", "o", "members")):
        axes.plot(
            points[:, 0], points[:, 1], marker, color=PALETTE[colour], alpha=0.45, markersize=3, mew=0, label=label
        )
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.grid()
    axes.set_xlabel("reference: mean log-probability a token (nats)")
    axes.set_ylabel("target: mean log-probability a token")
    axes.legend(loc="upper left")
    return figure


def _cost(tasks: Sequence[TaskResult]) -> list[Picture]:
    """AUROC against seconds; nothing where no attack has both."""
    classes = attack_classes()
    rows = [
        (title(task.attack), seconds, *_auroc(task))
        for task in tasks
        if (seconds := stage_seconds(task, stages(task, classes))) and np.isfinite(_auroc(task)[0])
    ]
    picture = Picture(
        name="cost",
        attacks=(),
        alt="AUROC of each attack against the seconds of the stages it rests on. The tables hold the same numbers.",
        caption="AUROC against the seconds of all stages an attack rests on. Attacks share stages, so together they "
        "cost far less than the sum; what came from the store cost nothing in this run.",
        draw=lambda _: _draw_cost(rows),
    )
    return [picture] if rows else []


def _draw_cost(rows: Sequence[tuple[str, float, float, float, float]]) -> Any:
    """AUROC against seconds.

    Args:
        rows: title, seconds, AUROC and both ends of its interval, the strongest first.
    """
    figure, axes = drawing.axes(3.7)
    axes.axhline(0.5, color=PALETTE["soft"], linestyle=_DASHED, linewidth=1)
    right = axes.get_yaxis_transform()
    axes.text(1, 0.5, "guessing", color=PALETTE["soft"], ha="right", va="bottom", fontsize=_WORD, transform=right)
    for number, (name, seconds, auroc, low, high) in enumerate(rows):
        colour = PALETTE[TOP[number]] if number < len(TOP) else PALETTE["grey"]
        axes.plot([seconds] * 2, [low, high], color=colour, linewidth=1.2)
        label = name if number < len(TOP) else None
        axes.plot([seconds], [auroc], "o", color=colour, markersize=5, label=label)
    axes.grid()
    axes.set_xlim(left=0)
    axes.margins(x=0.1)
    axes.set_xlabel("seconds of the stages it rests on")
    axes.set_ylabel("AUROC")
    axes.legend(loc="best")
    return figure
