"""Draws figures with matplotlib, narrow enough that their text stays readable on a phone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.metrics.arrays import Floats, Interval
from spvmia_plugin.report.curves import Curve
from spvmia_plugin.report.palette import PALETTE, PAPER, TOP, settings

WIDTH, HEIGHT = 5.0, 3.7
"""Inches; a page shows them at 360 to 560 pixels."""
BINS = 36
_FULL = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg(draw: Callable[[bool], Any]) -> str:
    """A figure as SVG without a background, for the page."""
    import matplotlib

    with matplotlib.rc_context(settings()), io.StringIO() as buffer:
        draw(True).savefig(buffer, format="svg", transparent=True, metadata=_FULL)
        return buffer.getvalue()


def write(draw: Callable[[bool], Any], path: Path) -> None:
    """Write a figure to a PNG (200 dpi) or SVG file, on white.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(settings()):
        metadata = {"Software": None} if path.suffix == ".png" else _FULL
        draw(False).savefig(path, facecolor=PAPER, dpi=200, metadata=metadata)


def _axes(width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def ranking(rows: Sequence[tuple[str, float, float, float]], simultaneous: Interval | None) -> Any:
    """Dot and whisker of each attack's AUROC.

    Args:
        rows: title, AUROC and both ends of its interval, the strongest first.
        simultaneous: the wider interval of the first, which allows for its having been chosen.
    """
    figure, axes = _axes(height=0.9 + 0.27 * max(len(rows), 2))
    places = np.arange(len(rows))[::-1]
    axes.axvline(0.5, color=PALETTE["soft"], linestyle=(0, (4, 3)), linewidth=1)
    if simultaneous and rows and np.isfinite(simultaneous).all():
        axes.plot(simultaneous, [places[0]] * 2, color=PALETTE["first"], linewidth=7, alpha=0.25, solid_capstyle="butt")
    for place, (_, auroc, low, high) in zip(places, rows, strict=True):
        colour = PALETTE["first"] if place == places[0] else PALETTE["ink"]
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


def roc(labels: Sequence[str], curves: Sequence[Curve | None], *, log: bool, all_bands: bool) -> Any:
    """ROC curves of all attacks, the strongest first; those beyond the strongest three, and the blind one, in grey.

    Args:
        labels: titles; a curve beyond them is the blind baseline's.
        curves: None where a class has no score.
        log: both axes logarithmic, from half a record on.
        all_bands: draw every attack's band, for a page that shows one at a time; otherwise the strongest one's.
    """
    figure, axes = _axes(height=4.2)
    known = [found for found in curves if found is not None]
    floor = 0.5 / max(max(found.n_members, found.n_nonmembers) for found in known)
    grid = np.geomspace(floor, 1, 200) if log else np.linspace(0, 1, 200)
    axes.plot(grid, grid, color=PALETTE["soft"], linestyle=(0, (4, 3)), linewidth=1)
    for number, found in reversed(list(enumerate(curves))):
        if found is None:
            continue
        colour = PALETTE[TOP[number]] if number < min(len(TOP), len(labels)) else PALETTE["grey"]
        if number < (len(labels) if all_bands else 1) and len(found.band_fpr):
            band = axes.fill_between(
                found.band_fpr, np.maximum(found.low, floor if log else 0), found.high, color=colour, alpha=0.2, lw=0
            )
            band.set_gid(f"band-{number}")
        fpr, tpr = _steps(found, floor if log else 0.0)
        label = labels[number] if number < min(len(TOP), len(labels)) else None
        style = (0, (1, 1.5)) if number >= len(labels) else "-"
        (line,) = axes.plot(fpr, tpr, color=colour, linewidth=1.7 if label else 1.0, linestyle=style, label=label)
        line.set_gid(f"curve-{number}")
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_decades(axes)
    axes.set_xlim(floor if log else -0.01, 1)
    axes.set_ylim(floor if log else 0, 1.02)
    axes.grid()
    axes.set_xlabel("false-positive rate: others wrongly accused")
    axes.set_ylabel("true-positive rate: members picked out")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="lower right")
    return figure


MAX_STEPS = 400
"""Corners of a curve that are drawn, spread over both axes as they are seen: more fall on the same pixels."""


def _seen(values: Floats, floor: float) -> Floats:
    """Where values stand on an axis, from 0 to 1."""
    if not floor:
        return values
    placed: Floats = np.log(np.maximum(values, floor)) / -np.log(floor) + 1
    return placed


def _thinned(found: Curve, floor: float) -> tuple[Floats, Floats]:
    """The curve's points, at most one for each of `MAX_STEPS` places on either axis, and both ends."""
    if len(found.fpr) <= MAX_STEPS:
        return found.fpr, found.tpr
    cells = [np.floor(_seen(values, floor) * MAX_STEPS / 2) for values in (found.fpr, found.tpr)]
    keep = np.ones(len(found.fpr), dtype=bool)
    keep[1:-1] = (np.diff(cells[0]) != 0)[:-1] | (np.diff(cells[1]) != 0)[:-1]
    return found.fpr[keep], found.tpr[keep]


def _steps(found: Curve, floor: float) -> tuple[Floats, Floats]:
    """The curve as corners of steps, with nothing below `floor`, which logarithmic axes cannot show."""
    rates = _thinned(found, floor)
    fpr = np.repeat(rates[0], 2)[1:]
    tpr = np.repeat(rates[1], 2)[:-1]
    return np.maximum(fpr, floor), np.maximum(tpr, floor)


def _plain_decades(axes: Any) -> None:
    """Ticks at whole decades, in percent as people write them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axis.set_minor_formatter(NullFormatter())


def distribution(members: Floats, others: Floats, name: str) -> Any:
    """Outlines of both classes' scores; the outermost bins hold what lies beyond the central 99 %."""
    figure, axes = _axes(height=3.2)
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


def scatter(members: Floats, others: Floats) -> Any:
    """Mean log-probability of each record, target against reference.

    Args:
        members: (k, 2) reference and target.
        others: the same of the non-members.
    """
    figure, axes = _axes(height=4.0)
    everything = np.concatenate([members, others])
    low, high = everything.min(axis=None), everything.max(axis=None)
    margin = 0.03 * (high - low) or 0.1
    axes.plot([low, high], [low, high], color=PALETTE["soft"], linestyle=(0, (4, 3)), linewidth=1)
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


def cost(rows: Sequence[tuple[str, float, float, float, float]]) -> Any:
    """AUROC against seconds.

    Args:
        rows: title, seconds, AUROC and both ends of its interval, the strongest first.
    """
    figure, axes = _axes(height=3.7)
    axes.axhline(0.5, color=PALETTE["soft"], linestyle=(0, (4, 3)), linewidth=1)
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
