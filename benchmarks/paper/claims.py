"""What was claimed of the attacks, and whether the summaries bear it out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.paper.aggregate import Group, Mean, averaged, difference, groups, mean, point
from benchmarks.paper.cells import MAIN
from benchmarks.paper.settings import ATTACKS, BASELINES, BLIND
from benchmarks.paper.tables import TPR, WANTED_DATA, Summaries, shown, signed, table

NO_REFERENCE = ("loss", "neighbour", "detectgpt", "min_k", "min_k_pp", "lira_base")
"""What `spv` should beat: the baselines that see no reference data."""
OURS = tuple(name for name in ATTACKS if name not in BASELINES and name != BLIND)
_NOT_MEASURED = "not measured"


def claims(summaries: Summaries, strength: str = "medium", protocol: str = "cpu") -> str:
    """What was claimed, what was measured, and whether it holds."""
    found = [
        g
        for g in groups(summaries).values()
        if (g.cell.ablation, g.cell.strength, g.cell.protocol, g.cell.method) == (MAIN, strength, protocol, "lora")
    ]
    rows = [row for group in found for row in _beats(group)]
    rows += [
        _best_auroc(found),
        _best_tpr(found, "its TPR at 1 % FPR is at least twice the best paper baseline's", BASELINES),
        _best_tpr(found, "the same, of the baselines that are given no true records", NO_REFERENCE),
    ]
    absent = [name for name in WANTED_DATA if name not in {group.cell.data for group in found}]
    note = f"Strength `{strength}`. Intervals are of 95 % each; the best attack is chosen on these very numbers."
    note += f" No cells yet of {', '.join(absent)}." if absent else ""
    return f"{note}\n\n{table(('claim', 'measured', 'holds'), rows)}"


def _beats(group: Group) -> Iterable[tuple[str, str, str]]:
    """A row for each baseline; every seed in which both ran."""
    for baseline in NO_REFERENCE:
        claim = f"{group.cell.data}: `spv` above `{baseline}` in mean AUROC"
        pairs = zip(group.values("spv", "auroc"), group.values(baseline, "auroc"), strict=True)
        known = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if not known:
            yield claim, _NOT_MEASURED, ""
            continue
        gain = difference([ours for ours, _ in known], [theirs for _, theirs in known])
        yield claim, f"{signed(gain)}, {len(known)} seeds, n {group.records(baseline)}", _verdict(gain)


def _verdict(gain: Mean) -> str:
    if math.isnan(gain.low):
        return "one seed only"
    if gain.low > 0:
        return "yes"
    return "no" if gain.high < 0 else ("in the mean, the interval touches 0" if gain.value > 0 else "no")


def _best_auroc(found: Sequence[Group]) -> tuple[str, str, str]:
    """The attack with the largest mean over the data sets."""
    claim = "the mean AUROC over the data sets of the best attack that is no paper baseline is at least 0.92"
    best = _best(found, OURS, "auroc")
    if best is None:
        return claim, _NOT_MEASURED, ""
    attack, value = best
    return claim, f"`{attack}` {shown(value)}, {_size(found, attack)}", _reached(value, 0.92)


def _best_tpr(found: Sequence[Group], claim: str, baselines: Sequence[str]) -> tuple[str, str, str]:
    """The attack of `_best_auroc` against the baseline with the largest TPR."""
    ours, theirs = _best(found, OURS, "auroc"), _best(found, baselines, TPR)
    if ours is None or theirs is None:
        return claim, _NOT_MEASURED, ""
    value = _over_data(found, ours[0], TPR)
    if value is None:
        return claim, _NOT_MEASURED, ""
    absent = [name for name in baselines if any(not group.entries(name) for group in found)]
    note = f" (not run yet: {', '.join(absent)})" if absent else ""
    measured = f"`{ours[0]}` {shown(value)} against `{theirs[0]}` {shown(theirs[1])}, {_size(found, ours[0])}{note}"
    return claim, measured, _reached(value, 2 * theirs[1].value)


def _reached(value: Mean, bound: float) -> str:
    if value.value < bound:
        return "no"
    return "yes" if value.low >= bound else "in the mean, not the whole interval"


def _size(found: Sequence[Group], attack: str) -> str:
    return f"{len(found)} data sets, {len(found[0].seeds)} seeds, n {found[0].records(attack)}"


def _best(found: Sequence[Group], attacks: Iterable[str], metric: str) -> tuple[str, Mean] | None:
    """The attack with the largest unweighted mean over all groups, and that mean."""
    means = {attack: value for attack in attacks if (value := _over_data(found, attack, metric)) is not None}
    return max(means.items(), key=lambda item: item[1].value) if means else None


def _over_data(found: Sequence[Group], attack: str, metric: str) -> Mean | None:
    """Mean over the data sets of each seed, and over the seeds; None if a seed of a data set is missing."""
    points = [[point(entry, metric) for entry in group.entries(attack)] for group in found]
    if (
        not points
        or len({len(group.seeds) for group in found}) > 1
        or any(len(p) < len(found[0].seeds) for p in points)
    ):
        return None
    seeds = list(zip(*points, strict=True))
    if not all(math.isfinite(one.value) for seed in seeds for one in seed):
        return None
    return mean([averaged(seed) for seed in seeds])
