"""The Markdown of docs/results.md that is made from the summaries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    surviving,
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
    parts, made = [_variation(found)], []
    for name, ablation in ABLATIONS.items():
        mains = {group_key(g.cell.main): g.cell.main for g in found.values() if g.cell.ablation == name}
        parts.append(f"### {ablation.question}")
        if not mains:
            parts.append(f"Not run yet: `--ablation {name}`.")
        for main in mains.values():
            made.append(_Ablation.of(name, main, found))
            parts.append(made[-1])
    changes = {key: change for one in made for key, change in one.changes.items()}
    kept = surviving(changes)
    known = sum(not math.isnan(change.low) for change in changes.values())
    alone = sum(change.low > 0 or change.high < 0 for change in changes.values())
    parts[1:1] = [
        "Δ is the AUROC less the main cell's, seed by seed on the same records, with an interval of 95 % for it alone. "
        f"Below stand {known} with an interval, and {alone} of these do not hold 0; of true zeros one in twenty would "
        f"not. `*` marks the {len(kept)} that survive Benjamini and Hochberg's procedure over all {known}: of such "
        "marks at most one in twenty is expected to stand at a zero. The others are hints."
    ]
    return "\n\n".join(part if isinstance(part, str) else part.table(kept) for part in parts)


@dataclass(frozen=True)
class _Ablation:
    """One table: what its settings change.

    Attributes:
        name: of the ablation.
        main: the cell that is changed.
        there: the settings that have run.
        scores: the columns.
        changes: AUROC less the main cell's by setting and score, once a difference however many tables show it.
        missing: settings that have not.
        unable: why others never will.
    """

    name: str
    main: Cell
    there: Mapping[Cell, Group]
    scores: Sequence[str]
    changes: Mapping[tuple[tuple[str, ...], str], Mean]
    missing: Sequence[str]
    unable: Sequence[str]

    @classmethod
    def of(cls, name: str, main: Cell, found: Mapping[tuple[str, ...], Group]) -> _Ablation:
        """Look its settings up."""
        cells = [replace(main, ablation=name, setting=setting) for setting in ABLATIONS[name].settings]
        groups_ = {cell: found.get(group_key(canonical(cell))) for cell in cells}
        there = {cell: group for cell, group in groups_.items() if group is not None}
        scores = _columns(ABLATIONS[name].attacks, there.values())
        changes = {
            (group_key(group.cell), score): change
            for group in there.values()
            for score in scores
            if (change := _change(group, found.get(group_key(main)), score)) is not None
        }
        missing = [cell.setting for cell, group in groups_.items() if group is None and not not_run(cell)]
        return cls(name, main, there, scores, changes, missing, [reason for cell in cells if (reason := not_run(cell))])

    def table(self, kept: Collection[tuple[tuple[str, ...], str]]) -> str:
        """As Markdown, with a mark at the changes that are `kept`."""
        main = self.main

        def cell_of(group: Group, score: str) -> str:
            key = (group_key(group.cell), score)
            change = self.changes.get(key)
            told = "" if change is None else f"; Δ {signed(change)}{'*' if key in kept else ''}"
            return _both(group, score) + told

        rows = [
            (
                f"{cell.setting} (the main cell)" if canonical(cell) == main else cell.setting,
                *(cell_of(group, score) for score in self.scores),
                str(len(group.seeds)),
                _n(group, self.scores),
            )
            for cell, group in self.there.items()
        ]
        names = (score if score in DERIVED else f"`{score}`" for score in self.scores)
        notes = [f"On {main.data}, {main.base}, {main.strength}: AUROC; TPR at 1 % FPR; Δ."]
        notes += [f"Not run yet: {', '.join(self.missing)}."] if self.missing else []
        notes += [f"Never run: {'; '.join(self.unable)}."] if self.unable else []
        return f"{' '.join(notes)}\n\n{table(('setting', *names, 'seeds', 'n a seed'), rows)}"


def _change(group: Group, main: Group | None, score: str) -> Mean | None:
    """What a setting changes, over the seeds that both have; without an interval if that is one."""
    if main is None or main is group:
        return None
    return _paired(group, score, main, score)


def _paired(ours: Group, score: str, theirs: Group, other: str) -> Mean | None:
    """The AUROC of `score` in one group less that of `other` in another, over the seeds that have both."""
    one = dict(zip(ours.seeds, ours.values(score, "auroc"), strict=True))
    two = dict(zip(theirs.seeds, theirs.values(other, "auroc"), strict=True))
    seeds = [seed for seed in one if math.isfinite(one[seed]) and math.isfinite(two.get(seed, math.nan))]
    return difference([one[s] for s in seeds], [two[s] for s in seeds]) if seeds else None


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


_GAINS = (
    ("spv_ez", "ez"),
    ("spv_wbc", "wbc"),
    (WITHOUT_VARIATION_LOG, "lira_base"),
    (WITHOUT_VARIATION_LOG, WITHOUT_VARIATION),
    ("spv", WITHOUT_VARIATION),
    ("spv_wbc", "lira_candidate"),
)
"""Pairs of scores whose difference the prose speaks of: the self-prompted reference for the base, logarithms for
probabilities, paraphrases for none, and what sees no true records for what does."""


def gain_table(summaries: Summaries) -> str:
    """What one score has before another in every main cell, on the same records."""
    mains = [g for g in groups(summaries).values() if g.cell.ablation == MAIN]
    gains = {
        (group_key(g.cell), pair): gain
        for g in mains
        for pair in _GAINS
        if (gain := _paired(g, pair[0], g, pair[1])) is not None
    }
    kept = surviving(gains)

    def cell_of(key: tuple[tuple[str, ...], tuple[str, str]]) -> str:
        return f"{signed(gains[key])}{'*' if key in kept else ''}" if key in gains else ""

    rows = [
        (
            f"{g.cell.base}, {g.cell.data}, {g.cell.strength}",
            *(cell_of((group_key(g.cell), pair)) for pair in _GAINS),
            str(len(g.seeds)),
        )
        for g in sorted(mains, key=lambda g: (g.cell.base, g.cell.data, g.mean("loss", "auroc").value))
    ]
    note = (
        "Differences in AUROC seed by seed on the same records, with an interval of 95 % each; `*` marks the "
        f"{len(kept)} of {len(gains)} that survive Benjamini and Hochberg's procedure over all of them."
    )
    names = {name: name if name in DERIVED else f"`{name}`" for pair in _GAINS for name in pair}
    header = ("cell", *(f"{names[one]} less {names[other]}" for one, other in _GAINS), "seeds")
    return f"{note}\n\n{table(header, rows)}"


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
    """The gains over all cells of a kind of shadow, whatever base and data, with Student's t over the cells.

    The seeds of a cell share base, data and recipe, and their gains are alike: a cell is one observation, its mean.
    """
    lines = []
    for shadow in dict.fromkeys(one["shadow"] for one in found):
        parts, seeds, cells = [], [], 0
        for metric, title in zip(BOTH, ("AUROC", "TPR at 1 % FPR"), strict=True):
            by_cell: dict[tuple[str, ...], list[float]] = {}
            for one in found:
                if one["shadow"] == shadow and (value := one["gain"][metric]["value"]) is not None:
                    by_cell.setdefault(group_key(Cell(**one["cell"])), []).append(value)
            values = [value for of_cell in by_cell.values() for value in of_cell]
            gain = difference([statistics.fmean(of_cell) for of_cell in by_cell.values()], [0.0] * len(by_cell))
            above, cells = sum(value > 0 for value in values), len(by_cell)
            seeds.append(len(values))
            parts.append(f"{title} {signed(gain)}, above the best single attack in {above} of {len(values)} targets")
        over = f"the {cells} cells" if cells > 1 else "the one cell, so without an interval over cells,"
        lines.append(f"Over {over} with the shadow {shadow} ({max(seeds)} targets): {'; '.join(parts)}.")
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
