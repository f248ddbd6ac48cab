"""Means over seeds, with an interval that allows for the seeds and for the records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scipy.special import stdtrit
from scipy.stats import false_discovery_control, ttest_1samp

from benchmarks.paper.cells import Cell
from benchmarks.paper.estimate import Rates, measured_rates
from benchmarks.paper.summary import seconds_alone

CONFIDENCE = 0.95
FALSE_DISCOVERIES = 0.05
"""Of the differences that are marked, the share that may be none, on average (Benjamini and Hochberg 1995)."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Point:
    """One number of one cell.

    Attributes:
        value: NaN where it is not resolved.
        stderr: over the records of the cell, by document.
        low: of the cell's own interval.
        high: likewise.
    """

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean; NaN where no seed has a number.
        low: of the interval.
        high: likewise.
        values: of each seed.
    """

    value: float
    low: float
    high: float
    values: tuple[float, ...]


def point(metrics: Mapping[str, Any], metric: str) -> Point:
    """A metric of an attack's entry in a summary: `auroc`, `tpr_at_1pct_fpr` or `tpr_at_0.1pct_fpr`."""
    if metric == "auroc":
        value, stderr, interval = (metrics[key] for key in ("auroc", "auroc_stderr", "auroc_interval"))
    else:
        value, stderr, interval = (metrics[metric][key] for key in ("value", "stderr", "interval"))
    return Point(_number(value), _number(stderr), _number(interval[0]), _number(interval[1]))


def averaged(points: Sequence[Point]) -> Point:
    """The unweighted mean of independent cells, such as the data sets of one seed."""
    n = len(points)
    value = statistics.fmean(p.value for p in points)
    stderr = math.sqrt(sum(p.stderr**2 for p in points)) / n
    reach = math.sqrt(sum((p.high - p.low) ** 2 for p in points)) / (2 * n)
    return Point(value, stderr, max(0.0, value - reach), min(1.0, value + reach))


def mean(points: Sequence[Point]) -> Mean:
    """Mean of the cells of several seeds, each with its own split, target and audit.

    One seed: its own interval, over records. Several: a random effect of the seed on top of the records' own error
    (DerSimonian and Laird 1986). Where the seeds differ by more than the records explain, the variance is theirs and
    the quantile Student's t with seeds - 1 degrees of freedom; where they don't, it is the mean squared standard error
    over records, which hundreds of records give, and the quantile the normal one. Luckily equal seeds so give no
    narrower interval than the records allow. Coverage: tests/benchmarks/test_paper.py.
    """
    known = [p for p in points if math.isfinite(p.value)]
    if not known:
        return Mean(math.nan, math.nan, math.nan, ())
    values = tuple(p.value for p in known)
    if len(known) == 1:
        return Mean(values[0], known[0].low, known[0].high, values)
    between = statistics.variance(values)
    within = statistics.fmean([p.stderr**2 for p in known if math.isfinite(p.stderr)] or [0.0])
    df = len(known) - 1 if between > within else math.inf
    reach = float(stdtrit(df, 0.5 + CONFIDENCE / 2)) * math.sqrt(max(between, within) / len(known))
    centre = statistics.fmean(values)
    return Mean(centre, max(0.0, centre - reach), min(1.0, centre + reach), values)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Mean of the differences of two attacks seed by seed, with Student's t over the seeds; no interval for one."""
    values = tuple(a - b for a, b in zip(ours, theirs, strict=True))
    if len(values) < 2:
        return Mean(values[0] if values else math.nan, math.nan, math.nan, values)
    reach = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    centre = statistics.fmean(values)
    return Mean(centre, centre - reach, centre + reach, values)


def surviving(differences: Mapping[Name, Mean]) -> set[Name]:
    """Those that differ from 0 when all of them are looked at together, by Benjamini and Hochberg's procedure.

    The p values are of Student's t over the values. A difference of one value has none, and is not looked at.
    """
    asked = {name: found.values for name, found in differences.items() if not math.isnan(found.low)}
    if not asked:
        return set()
    # Values that are all equal have no spread to test with: equal to 0 they show nothing, else there is no chance left.
    p = [
        float(ttest_1samp(values, 0.0).pvalue) if len(set(values)) > 1 else float(values[0] == 0)
        for values in asked.values()
    ]
    return {name for name, each in zip(asked, false_discovery_control(p), strict=True) if each <= FALSE_DISCOVERIES}


@dataclass(frozen=True)
class Group:
    """The cells that differ in their seed alone.

    Attributes:
        cell: one of them.
        seeds: their seeds.
        summaries: in the same order.
    """

    cell: Cell
    seeds: tuple[int, ...]
    summaries: tuple[Mapping[str, Any], ...]

    def entries(self, attack: str) -> list[Mapping[str, Any]]:
        """The numbers of an attack, or of a derived score, of the seeds that have it."""
        found = [s["attacks"].get(attack) or s.get("derived", {}).get(attack) for s in self.summaries]
        return [entry for entry in found if entry]

    def mean(self, attack: str, metric: str) -> Mean:
        """Its mean over seeds."""
        return mean([point(entry, metric) for entry in self.entries(attack)])

    def values(self, attack: str, metric: str) -> list[float]:
        """Of every seed, NaN where it has none."""
        entries = [s["attacks"].get(attack) or s.get("derived", {}).get(attack) for s in self.summaries]
        return [point(entry, metric).value if entry else math.nan for entry in entries]

    def records(self, attack: str) -> str:
        """Members and non-members of each seed that were scored."""
        numbers = sorted({(entry["n_members"], entry["n_nonmembers"]) for entry in self.entries(attack)})
        return ", ".join(f"{a}+{b}" for a, b in numbers)

    def seconds(self, attack: str, rates: Rates) -> float:
        """Seconds of the attack run alone, at common rates."""
        found = [seconds_alone(e["tokens_alone"], vars(rates)) for e in self.entries(attack) if "tokens_alone" in e]
        known = [value for value in found if value is not None]
        return statistics.fmean(known) if known else math.nan


def groups(summaries: Mapping[Cell, Mapping[str, Any]]) -> dict[tuple[str, ...], Group]:
    """Groups by (data, base, protocol, method, strength, ablation, setting)."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sorted(summaries):
        found.setdefault(group_key(cell), []).append(cell)
    return {
        key: Group(cells[0], tuple(cell.seed for cell in cells), tuple(summaries[cell] for cell in cells))
        for key, cells in found.items()
    }


def group_key(cell: Cell) -> tuple[str, ...]:
    """Everything but the seed."""
    return (cell.data, cell.base, cell.protocol, cell.method, cell.strength, cell.ablation, cell.setting)


def rates_of(summaries: Mapping[Cell, Mapping[str, Any]], cell: Cell) -> Rates:
    """Seconds a token over all cells of the same base and protocol."""
    return measured_rates(summaries, cell.base, cell.protocol)


def total_seconds(summaries: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of fine-tuning (each target once) and of all audits' stages."""
    tuned: dict[str, float] = {}
    audited = 0.0
    for summary in summaries:
        tuned[summary["target"]] = (summary.get("finetune") or {}).get("seconds") or 0.0
        audited += sum(stage["seconds"] for audit in summary["audits"] for stage in audit["cost"].values())
    return sum(tuned.values()) + audited


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
