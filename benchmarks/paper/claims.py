"""What was claimed of the attacks, and whether the summaries bear it out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.paper.aggregate import Group, Mean, averaged, difference, groups, mean, point, surviving
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
    gains = {key: gain for group in found for key, gain in _gains(group).items()}
    kept = surviving({key: gain for key, (gain, _) in gains.items() if gain is not None})
    rows = [
        (f"{data}: `spv` above `{baseline}` in mean AUROC", *_told(gain, said, (data, baseline) in kept))
        for (data, baseline), (gain, said) in gains.items()
    ]
    rows += [
        _best_auroc(found),
        _best_tpr(found, "its TPR at 1 % FPR is at least twice the best paper baseline's", BASELINES),
        _best_tpr(found, "the same, of the baselines that are given no true records", NO_REFERENCE),
    ]
    absent = [name for name in WANTED_DATA if name not in {group.cell.data for group in found}]
    note = (
        f"Strength `{strength}`. Intervals are of 95 % each, over the seeds; `yes` beside a difference means that it "
        f"survives Benjamini and Hochberg's procedure over all {len(gains)} of its kind. The best attack and the best "
        "baseline are chosen on these very numbers; the best attack is held against twice the baseline seed by seed."
    )
    note += f" No cells yet of {', '.join(absent)}." if absent else ""
    return f"{note}\n\n{table(('claim', 'measured', 'holds'), rows)}"


def _gains(group: Group) -> dict[tuple[str, str], tuple[Mean | None, str]]:
    """By data and baseline: what `spv` has before it over the seeds in which both ran, and over how many."""
    found: dict[tuple[str, str], tuple[Mean | None, str]] = {}
    for baseline in NO_REFERENCE:
        pairs = zip(group.values("spv", "auroc"), group.values(baseline, "auroc"), strict=True)
        known = [pair for pair in pairs if all(map(math.isfinite, pair))]
        gain = difference([ours for ours, _ in known], [theirs for _, theirs in known]) if known else None
        found[group.cell.data, baseline] = gain, f"{len(known)} seeds, n {group.records(baseline)}"
    return found


def _told(gain: Mean | None, said: str, kept: bool) -> tuple[str, str]:
    """What was measured, and whether it holds."""
    if gain is None:
        return _NOT_MEASURED, ""
    measured = f"{signed(gain)}, {said}"
    if math.isnan(gain.low):
        return measured, "one seed only"
    if kept:
        return measured, "yes" if gain.value > 0 else "no"
    return measured, "in the mean, the interval touches 0" if gain.value > 0 else "no"


def _best_auroc(found: Sequence[Group]) -> tuple[str, str, str]:
    """The attack with the largest mean over the data sets."""
    claim = "the mean AUROC over the data sets of the best attack that is no paper baseline is at least 0.92"
    best = _best(found, OURS, "auroc")
    if best is None:
        return claim, _NOT_MEASURED, ""
    attack, value = best
    return claim, f"`{attack}` {shown(value)}, {_size(found, attack)}", _reached(value, 0.92)


def _best_tpr(found: Sequence[Group], claim: str, baselines: Sequence[str]) -> tuple[str, str, str]:
    """The attack of `_best_auroc` less twice the baseline with the largest TPR, on the same records of each seed."""
    ours, theirs = _best(found, OURS, "auroc"), _best(found, baselines, TPR)
    if ours is None or theirs is None:
        return claim, _NOT_MEASURED, ""
    value = _over_data(found, ours[0], TPR)
    if value is None:
        return claim, _NOT_MEASURED, ""
    absent = [name for name in baselines if any(not group.entries(name) for group in found)]
    note = f" (not run yet: {', '.join(absent)})" if absent else ""
    more = difference(value.values, [2 * each for each in theirs[1].values])
    measured = (
        f"`{ours[0]}` {shown(value)} against `{theirs[0]}` {shown(theirs[1])}: less twice of it {signed(more)}, "
        f"{_size(found, ours[0])}{note}"
    )
    return claim, measured, _reached(more, 0.0)


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
