"""The Markdown of docs/results.md that is made from the summaries."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.paper.aggregate import (
    Group,
    Mean,
    difference,
    group_key,
    groups,
    mean,
    point,
    rates_of,
    total_seconds,
)
from benchmarks.paper.cells import MAIN, Cell, canonical, missing_attacks, not_run
from benchmarks.paper.settings import ABLATIONS, ATTACKS, PROTOCOLS
from benchmarks.paper.summary import DERIVED, WITHOUT_VARIATION, WITHOUT_VARIATION_LOG

Summaries = Mapping[Cell, Mapping[str, Any]]
SEEDS = (0, 1, 2)
WANTED_DATA = ("ag_news", "wikitext")
WANTED_PROTOCOL = "cpu"
"""Of the experiment on SmolLM2: what is missing of it is listed, other cells as far as there are any."""
TPR = "tpr_at_1pct_fpr"
BOTH = ("auroc", TPR)
_ABLATED = ("spv", "spv_ez", "spv_wbc", "neighbour", "detectgpt", "loss")
"""The attacks in the tables of ablations."""


def main_tables(summaries: Summaries) -> str:
    """A table for each data set and strength."""
    found = groups(summaries)
    parts = [_main_table(group, summaries) for group in found.values() if group.cell.ablation == MAIN]
    return "\n\n".join(parts) if parts else "No main cell has run yet."


def _main_table(group: Group, summaries: Summaries) -> str:
    cell = group.cell
    loss = group.mean("loss", "auroc")
    heading = f"### {cell.data}, {cell.strength} ({_finetuning(cell)}): the loss attack is at {_plain(loss)}"
    seeds = ", ".join(map(str, group.seeds))
    rates = rates_of(summaries, cell)
    rows = [
        (
            f"`{attack}`",
            shown(auroc := group.mean(attack, "auroc")),
            _each(auroc),
            shown(group.mean(attack, TPR)),
            shown(group.mean(attack, "tpr_at_0.1pct_fpr")),
            f"{len(auroc.values)} x {group.records(attack)}",
            _seconds(group.seconds(attack, rates)),
        )
        for attack in ATTACKS
        if group.entries(attack)
    ]
    absent = [attack for attack in ATTACKS if not group.entries(attack)]
    header = ("attack", "AUROC", "each seed", "TPR at 1 % FPR", "TPR at 0.1 % FPR", "n", "seconds alone")
    notes = [f"Base {cell.base}, protocol `{cell.protocol}`, {cell.method}; seeds {seeds}."]
    notes += [f"Not run yet: {', '.join(absent)}."] if absent else []
    return "\n\n".join([heading, " ".join(notes), table(header, rows)])


def _finetuning(cell: Cell) -> str:
    return f"{cell.finetune_options()['epochs']} epochs"


def ablation_tables(summaries: Summaries) -> str:
    """A table for each ablation and main cell it was made on."""
    found = groups(summaries)
    parts = [_variation(found)]
    for name, ablation in ABLATIONS.items():
        mains = {group_key(g.cell.main): g.cell.main for g in found.values() if g.cell.ablation == name}
        parts.append(f"### {ablation.question}")
        if not mains:
            parts.append(f"Not run yet: `--ablation {name}`.")
        parts += [_ablation_table(name, cell, found) for cell in mains.values()]
    return "\n\n".join(parts)


def _ablation_table(name: str, main: Cell, found: Mapping[tuple[str, ...], Group]) -> str:
    cells = [replace(main, ablation=name, setting=setting) for setting in ABLATIONS[name].settings]
    groups_ = {cell: found.get(group_key(canonical(cell))) for cell in cells}
    there = {cell: group for cell, group in groups_.items() if group is not None}
    scores = _columns(ABLATIONS[name].attacks, there.values())
    rows = [
        (
            f"{cell.setting} (the main cell)" if canonical(cell) == main else cell.setting,
            *(_both(group, score) + _change(group, found.get(group_key(main)), score) for score in scores),
            str(len(group.seeds)),
            _n(group, scores),
        )
        for cell, group in there.items()
    ]
    header = ("setting", *(score if score in DERIVED else f"`{score}`" for score in scores), "seeds", "n a seed")
    unable = [reason for cell in cells if (reason := not_run(cell))]
    missing = [cell.setting for cell, group in groups_.items() if group is None and not not_run(cell)]
    notes = [
        f"On {main.data}, {main.base}, {main.strength}: AUROC; TPR at 1 % FPR; Δ, the AUROC less the main cell's, seed "
        "by seed on the same records."
    ]
    notes += [f"Not run yet: {', '.join(missing)}."] if missing else []
    notes += [f"Never run: {'; '.join(unable)}."] if unable else []
    return f"{' '.join(notes)}\n\n{table(header, rows)}"


def _change(group: Group, main: Group | None, score: str) -> str:
    """What a setting changes, over the seeds that both have; without an interval if that is one."""
    if main is None or main is group:
        return ""
    own, theirs = (dict(zip(g.seeds, g.values(score, "auroc"), strict=True)) for g in (group, main))
    seeds = [seed for seed in own if math.isfinite(own[seed]) and math.isfinite(theirs.get(seed, math.nan))]
    if not seeds:
        return ""
    return f"; Δ {signed(difference([own[s] for s in seeds], [theirs[s] for s in seeds]))}"


def _columns(attacks: Sequence[str], found: Collection[Group]) -> list[str]:
    """The scores of an ablation's table: of `spv` without paraphrases too where the reference is what changes."""
    named = [attack for attack in attacks if attack in _ABLATED]
    if "spv" in attacks and "spv_wbc" in attacks:
        named[1:1] = [WITHOUT_VARIATION, WITHOUT_VARIATION_LOG]
    return [score for score in named if any(group.entries(score) for group in found)]


def _n(group: Group, attacks: Sequence[str]) -> str:
    return next((group.records(attack) for attack in attacks if group.entries(attack)), "")


def _variation(found: Mapping[tuple[str, ...], Group]) -> str:
    """What the probabilistic variation adds to the calibrated difference: from the samples of every cell."""
    names = ("spv", *DERIVED)
    rows = [
        (
            f"{g.cell.base}, {g.cell.data}, {g.cell.strength}",
            *(_both(g, name) for name in names),
            str(len(g.seeds)),
            g.records("spv"),
        )
        for g in found.values()
        if g.cell.ablation == MAIN and g.entries("spv")
    ]
    note = (
        "AUROC; TPR at 1 % FPR. The same records, target and reference, the paraphrases left out: the difference of "
        "the two probabilities, of their logarithms, and the ratio of the two losses."
    )
    header = ("cell", "`spv`", *(name.removeprefix("spv ") for name in DERIVED), "seeds", "n a seed")
    return f"### Without probabilistic variation\n\n{note}\n\n{table(header, rows)}"


def coverage(summaries: Summaries) -> str:
    """Which cells are there, and what is missing of the plan."""
    bases = sorted({(cell.base, cell.protocol, cell.method) for cell in summaries if cell.ablation == MAIN})
    rows = []
    for base, protocol, method in bases:
        mine = {(c.data, c.strength) for c in summaries if (c.base, c.protocol, c.ablation) == (base, protocol, MAIN)}
        if protocol == WANTED_PROTOCOL:
            mine |= {(name, strength) for name in WANTED_DATA for strength in PROTOCOLS[protocol].strengths}
        order = list(PROTOCOLS[protocol].strengths)
        for name, strength in sorted(mine, key=lambda pair: (pair[0], order.index(pair[1]))):
            cells = [Cell(name, base, protocol, method, strength, seed=seed) for seed in SEEDS]
            rows.append((f"{base}, {name}, {strength}", *(_state(cell, summaries) for cell in cells)))
    spent = total_seconds(summaries.values())
    machine_hours = f"Fine-tuning and audits of all cells together took {spent / 3600:.1f} hours (what came from the "
    machine_hours += "store is not counted twice)."
    return f"{table(('cell', *(f'seed {seed}' for seed in SEEDS)), rows)}\n\n{machine_hours}"


def _state(cell: Cell, summaries: Summaries) -> str:
    if cell not in summaries:
        return "missing"
    absent = missing_attacks(cell, summaries[cell])
    return f"{len(ATTACKS) - len(absent)} of {len(ATTACKS)} attacks" if absent else "complete"


def commands(summaries: Summaries) -> str:
    """The exact commands of one cell of each kind, and the versions they ran with."""
    shown_cells: dict[tuple[str, str, str], Cell] = {}
    for cell in sorted(summaries):
        shown_cells.setdefault((cell.protocol, cell.base, cell.ablation), cell)
    parts = []
    for cell in shown_cells.values():
        summary = summaries[cell]
        lines = [(summary.get("finetune") or {}).get("command", ""), *(a["command"] for a in summary["audits"])]
        body = "\n".join(line for line in lines if line)
        parts.append(f"`{cell.name}`:\n\n<!-- not run: the folders are those of one machine -->\n```bash\n{body}\n```")
    versions = sorted({_versions(audit["versions"]) for s in summaries.values() for audit in s["audits"]})
    return "\n\n".join([*parts, "Versions: " + "; ".join(versions) + "."]) if parts else "None yet."


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def combination_table(found: Sequence[Mapping[str, Any]], summaries: Summaries) -> str:
    """What a combination fitted on a shadow adds, over the seeds of each cell and kind of shadow."""
    if not found:
        return "Not run yet: `benchmarks/paper/combine.py`."
    by_cell: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in found:
        by_cell.setdefault((replace(Cell(**one["cell"]), seed=0), one["shadow"], _normalised(one)), []).append(one)
    header = (
        *("cell, shadow", "combination: AUROC; TPR at 1 %", "best single", "gain in AUROC", "gain in TPR"),
        *("`lira_candidate`", "seeds", "n"),
    )
    rows = (_combination_row(cell, shadow, how, ones, summaries) for (cell, shadow, how), ones in by_cell.items())
    return f"{table(header, rows)}\n\n{_over_targets(found)}"


def _over_targets(found: Sequence[Mapping[str, Any]]) -> str:
    """The gains over all targets of a kind of shadow, whatever base and data, with Student's t over the targets."""
    lines = []
    for shadow in dict.fromkeys(one["shadow"] for one in found):
        parts = []
        for metric, title in zip(BOTH, ("AUROC", "TPR at 1 % FPR"), strict=True):
            values = [v for one in found if one["shadow"] == shadow and (v := one["gain"][metric]["value"]) is not None]
            gain = difference(values, [0.0] * len(values))
            above = sum(value > 0 for value in values)
            parts.append(f"{title} {signed(gain)}, above the best single attack in {above} of {len(values)}")
        lines.append(f"Over all targets with the shadow {shadow}: {'; '.join(parts)}.")
    return "\n".join(lines)


def _normalised(one: Mapping[str, Any]) -> str:
    return str(one["combination"]["normalisation"])


def _combination_row(
    cell: Cell, shadow: str, normalisation: str, ones: Sequence[Mapping[str, Any]], summaries: Summaries
) -> tuple[str, ...]:
    scale = "" if normalisation == "z" else f", {normalisation}s"
    combined = [one["combination"]["metrics"] for one in ones]
    names = sorted({name for one in ones for name in one["best_single"].values()})
    best = {metric: [one["singles"][one["best_single"][metric]] for one in ones] for metric in BOTH}
    mains = (summaries.get(Cell(**one["cell"]), {}) for one in ones)
    given = [entry for main in mains if (entry := main.get("attacks", {}).get("lira_candidate"))]
    return (
        f"{cell.base}, {cell.data}, {cell.strength}, {shadow}{scale}",
        _over_seeds(dict.fromkeys(BOTH, combined)),
        f"{_over_seeds(best)} ({', '.join(f'`{name}`' for name in names)})",
        *(_gain(combined, best[metric], metric) for metric in BOTH),
        _over_seeds(dict.fromkeys(BOTH, given)) if given else "",
        str(len(ones)),
        ", ".join(sorted({f"{entry['n_members']}+{entry['n_nonmembers']}" for entry in combined})),
    )


def _over_seeds(entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    return "; ".join(shown(mean([point(entry, metric) for entry in found])) for metric, found in entries.items())


def _gain(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Over the seeds, of both on the same records."""
    values = ([point(entry, metric).value for entry in entries] for entries in (ours, theirs))
    found = difference(*values)
    return "not resolved" if math.isnan(found.value) else signed(found)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def shown(value: Mean) -> str:
    """`0.825 [0.785, 0.858]`."""
    if math.isnan(value.value):
        return "not resolved"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def signed(value: Mean) -> str:
    """`+0.251 [+0.193, +0.308]`, without the interval where there is one seed."""
    interval = "" if math.isnan(value.low) else f" [{value.low:+.3f}, {value.high:+.3f}]"
    return f"{value.value:+.3f}{interval}"


def _plain(value: Mean) -> str:
    return "an AUROC not measured yet" if math.isnan(value.value) else f"AUROC {value.value:.3f}"


def _each(value: Mean) -> str:
    return ", ".join(f"{v:.3f}" for v in value.values)


def _both(group: Group, attack: str) -> str:
    auroc, tpr = group.mean(attack, "auroc"), group.mean(attack, TPR)
    return f"{shown(auroc)}; {shown(tpr)}" if group.entries(attack) else ""


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0f}"
