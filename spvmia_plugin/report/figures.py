"""The figures of an audit, each drawn once: as an inline picture for the page, and as files for papers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.metrics.arrays import Floats
from spvmia_plugin.report import draw
from spvmia_plugin.report.attacks import attack_classes, blind_task, ranked, stage_seconds, stages, title
from spvmia_plugin.report.curves import Curve, curve
from spvmia_plugin.report.numbers import STYLES
from spvmia_plugin.results import Audit, TaskResult

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")

MAX_POINTS = 700
"""Points drawn of each class in a scatter plot; more are a cloud that is slow to open."""


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

    ranking: Picture
    roc: Sequence[Picture]
    scores: Sequence[Picture]
    scatter: Sequence[Picture]
    cost: Picture | None

    def all(self) -> Iterator[Picture]:
        """Every figure."""
        yield from (self.ranking, *self.roc, *self.scores, *self.scatter)
        if self.cost:
            yield self.cost


def pictures(audit: Audit) -> Pictures:
    """Everything there is to draw of an audit; nothing is drawn yet."""
    tasks = ranked(audit)
    blind = blind_task(audit)
    curves = [curve(audit, task) for task in (*tasks, *([blind] if blind else []))] if audit.has_samples else []
    return Pictures(
        ranking=_ranking(audit, tasks, blind),
        roc=_roc(tasks, curves) if any(curves) else [],
        scores=[_scores(audit, number, task) for number, task in enumerate(tasks) if _both_scored(audit, task)],
        scatter=list(_scatters(audit, tasks)),
        cost=_cost(tasks),
    )


def save(pictures: Pictures, folder: Path, prefix: str) -> list[Path]:
    """Write every figure as PNG and SVG.

    Raises:
        OSError: the folder cannot be written.
    """
    paths = []
    for picture in pictures.all():
        for suffix in ("png", "svg"):
            paths.append(folder / f"{_NOT_IN_A_NAME.sub('_', f'{prefix}-{picture.name}')}.{suffix}")
            draw.write(picture.draw, paths[-1])
    return paths


def _ranking(audit: Audit, tasks: Sequence[TaskResult], blind: TaskResult | None) -> Picture:
    rows = [(title(task.attack), *_auroc(task)) for task in (*tasks, *([blind] if blind else []))]
    shown = [row for row in rows if np.isfinite(row[1])]
    found = audit.strongest
    simultaneous = found.interval if found and found.name else None
    return Picture(
        name="ranking",
        attacks=(),
        alt="Attacks ranked by AUROC, each with its interval. The table of all attacks holds the same numbers.",
        caption="AUROC of each attack with its 95 % interval. The dashed line is guessing. The pale bar at the "
        "strongest attack allows for having chosen it.",
        draw=lambda _: draw.ranking(shown, simultaneous),
    )


def _roc(tasks: Sequence[TaskResult], curves: Sequence[Curve | None]) -> list[Picture]:
    names = [task.attack for task in tasks]
    labels = [title(name) for name in names]
    common = "Share of members picked out against share of non-members wrongly accused, at every threshold. "
    return [
        Picture(
            f"roc-{kind}",
            (),
            f"ROC curves of {sum(found is not None for found in curves)} attacks on {kind} axes. "
            "The table of all attacks gives the areas below them and the values at 1 % and 0.1 %.",
            common + reading,
            partial(_draw_roc, labels, curves, log),
        )
        for kind, log, reading in (
            ("linear", False, "The diagonal is guessing. The band holds the true curve at each point with 95 %."),
            ("log", True, "Both axes logarithmic: what counts for a record is the left end, where few are accused."),
        )
    ]


def _scores(audit: Audit, number: int, task: TaskResult) -> Picture:
    values, labels = audit.scores(task), audit.labels()
    known = np.isfinite(values)
    members, others = values[known & labels], values[known & ~labels]
    of_members, of_others = (STYLES["score"](float(np.median(scores))) for scores in (members, others))
    medians = f"Half of the members score above {of_members}, half of the others above {of_others}."
    return Picture(
        name=f"scores-{task.attack}",
        attacks=(number,),
        alt=f"Distribution of the scores of {title(task.attack)}. {medians}",
        caption=f"Scores of {title(task.attack)}: the further apart the two outlines, the more the attack tells. "
        f"{medians} The outermost bins hold what lies beyond them.",
        draw=lambda _: draw.distribution(members, others, title(task.attack)),
    )


def _scatters(audit: Audit, tasks: Sequence[TaskResult]) -> Iterator[Picture]:
    """Target against reference, once for each reference model: attacks with the same one share a picture."""
    seen: dict[bytes, list[tuple[int, TaskResult]]] = {}
    for number, task in enumerate(tasks):
        points = _means(task)
        if len(points):
            seen.setdefault(points.tobytes(), []).append((number, task))
    for group in seen.values():
        points = _means(group[0][1])
        names = ", ".join(title(task.attack) for _, task in group)
        yield Picture(
            name=f"scatter-{group[0][1].attack}",
            attacks=tuple(number for number, _ in group),
            alt=f"Mean log-probability of each record under the target against the reference of {names}.",
            caption=f"Each dot is a record: mean log-probability of its tokens under the target and under the "
            f"reference of {names}. What lies far above the diagonal is known to the target alone."
            + (f" At most {MAX_POINTS} of each class are drawn." if len(points) > MAX_POINTS else ""),
            draw=partial(_draw_scatter, points, int(audit.record["seed"])),
        )


def _means(task: TaskResult) -> Floats:
    """(n, 3) reference, target and whether a member, for records that have both means."""
    if task.records is None:
        return np.zeros((0, 3))
    found = np.column_stack([task.records.reference, task.records.target, task.records.roster.is_member])
    return found[np.isfinite(found).all(axis=1)]


def _draw_roc(labels: Sequence[str], curves: Sequence[Curve | None], log: bool, interactive: bool) -> Any:
    return draw.roc(labels, curves, log=log, all_bands=interactive)


def _draw_scatter(points: Floats, seed: int, _: bool) -> Any:
    """Members' and others' points (k, 2), at most `MAX_POINTS` of each, drawn with the audit's seed."""
    rng = np.random.default_rng(seed)
    chosen = []
    for is_member in (1.0, 0.0):
        of_class = points[points[:, 2] == is_member, :2]
        keep = rng.permutation(len(of_class))[:MAX_POINTS]
        chosen.append(of_class[np.sort(keep)])
    return draw.scatter(*chosen)


def _cost(tasks: Sequence[TaskResult]) -> Picture | None:
    classes = attack_classes()
    rows = [
        (title(task.attack), seconds, *_auroc(task))
        for task in tasks
        if (seconds := stage_seconds(task, stages(task, classes))) and np.isfinite(_auroc(task)[0])
    ]
    if not rows:
        return None
    return Picture(
        name="cost",
        attacks=(),
        alt="AUROC of each attack against the seconds of the stages it rests on. The tables hold the same numbers.",
        caption="AUROC against the seconds of all stages an attack rests on. Attacks share stages, so together they "
        "cost far less than the sum; what came from the cache cost nothing in this run.",
        draw=lambda _: draw.cost(rows),
    )


def _both_scored(audit: Audit, task: TaskResult) -> bool:
    labels = audit.labels()
    known = np.isfinite(audit.scores(task)) if audit.has_samples else np.zeros(0, dtype=bool)
    return bool((known & labels).any() and (known & ~labels).any())


def _auroc(task: TaskResult) -> tuple[float, float, float]:
    """AUROC and both ends of its interval, NaN where not resolved."""
    low, high = (np.nan if end is None else float(end) for end in task.record["metrics"]["auroc_interval"])
    return task.metrics.get("auroc", np.nan), low, high
