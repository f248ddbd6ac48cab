"""The board as people read it: headings, cells and sentences. `page` and `plain` show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spvmia_plugin.leaderboard.board import Board, Further, Options, Row, Table, few_of, limit
from spvmia_plugin.leaderboard.order import CHANCE
from spvmia_plugin.metrics.names import AUROC, BLIND, LOW_END_NONMEMBERS, METRICS, TPR_5PCT
from spvmia_plugin.results.comparable import UNTRAINED_METHOD, Conditions, common_recipe, method, recipe_words
from spvmia_plugin.results.estimate import STRONGEST, Estimate
from spvmia_plugin.results.model import Audit, Capability
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import MISSING, day, interval, listed, printed, ran


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's heading.

    Attributes:
        title: what it is.
        note: direction or explanation, empty for none.
        kind: "rank", "model", "number" or "words".
        first: order that the first press of the heading gives: the better values first.
    """

    title: str
    note: str
    kind: str
    first: str = "ascending"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what is printed, what is printed small below it, and what it is sorted by (empty: last)."""

    text: str
    note: str = ""
    sort: str = ""
    kind: str = "number"


@dataclass(frozen=True, slots=True)
class RowView:
    """One model.

    Attributes:
        number: in the table.
        name: of the model.
        hub_id: of its card; None of one that lies on a disk.
        date: of its newest run.
        method: how it was fine-tuned, in a word.
        base: what it was made from; empty for a base and where nobody said.
        cells: by heading.
        reasons: why it is not ranked.
        remarks: what else limits its numbers.
    """

    number: int
    name: str
    hub_id: str | None
    date: str
    method: str
    base: str
    cells: Sequence[Cell]
    reasons: Sequence[str]
    remarks: Sequence[str]

    @property
    def marked(self) -> bool:
        """Whether it is not ranked."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class TableView:
    """One table for people."""

    title: str
    differs: str
    caption: Sequence[str]
    headings: Sequence[Heading]
    rows: Sequence[RowView]
    conditions: Sequence[tuple[str, str]]

    @property
    def limit_column(self) -> int:
        """The column that ranks: the first of the numbers."""
        return next(place for place, heading in enumerate(self.headings) if heading.kind == "number")

    @property
    def limits(self) -> list[tuple[str, str]]:
        """What limits numbers, each told once: whose they are, empty where all rows', and what."""
        whose: dict[str, list[str]] = {}
        for row in self.rows:
            for remark in row.remarks:
                whose.setdefault(remark, []).append(row.name)
        return [("" if len(names) == len(self.rows) else listed(names), remark) for remark, names in whose.items()]

    @property
    def marked(self) -> list[RowView]:
        """Rows that are not ranked."""
        return [row for row in self.rows if row.marked]

    @property
    def dates_differ(self) -> bool:
        """Whether the rows have to tell their dates."""
        return len({row.date for row in self.rows}) > 1


@dataclass(frozen=True)
class _Columns:
    """Which columns a table has: those that are empty in all rows, or the same, are told elsewhere or not at all."""

    recipe: bool
    base: bool
    further: Sequence[int]


def table_view(table: Table, options: Options) -> TableView:
    """Headings and cells of one table."""
    recipes = [row.recipe for row in table.rows]
    common = common_recipe(recipes)
    columns = _Columns(
        recipe=any(recipe != recipes[0] for recipe in recipes),
        base=len({row.base for row in table.rows} - {None}) > 1,
        further=[
            place
            for place in range(len(table.rows[0].further))
            if not (_all_missing(table, place) or _is_common_blind(table, place))
        ],
    )
    rows = [
        _row(number, row, table, options, columns, _recipe(row, common)) for number, row in enumerate(table.rows, 1)
    ]
    conditions = [(shown(name), shown(value)) for name, value in {**table.conditions, **common}.items()]
    return TableView(
        title=shown(table.title),
        differs=shown(table.differs),
        caption=_caption(table, options),
        headings=_headings(table, options, columns),
        rows=rows,
        conditions=conditions,
    )


def _recipe(row: Row, common: Conditions) -> str:
    is_base = method(row.recipe) == UNTRAINED_METHOD
    return "none, a base" if is_base else shown(recipe_words(row.recipe, common))


def _all_missing(table: Table, place: int) -> bool:
    return all(math.isnan(row.further[place].number.value) for row in table.rows)


def _is_common_blind(table: Table, place: int) -> bool:
    """Whether it is the blind baseline, which says how good the records are, of the same records in all rows."""
    numbers = {_ends(row.further[place].number) for row in table.rows}
    return table.rows[0].further[place].metric is BLIND and len(numbers) == 1


def _ends(number: Estimate) -> tuple[str, str, str]:
    return printed(number.value), printed(number.low), printed(number.high)


def _headings(table: Table, options: Options, columns: _Columns) -> list[Heading]:
    headings = [
        Heading("rank", "", "rank"),
        Heading("model", "", "model"),
        *([Heading("fine-tuning", "", "words")] if columns.recipe else []),
        *([Heading("base", "", "words")] if columns.base else []),
        Heading(f"{number_title(options)}, at most", "lower is more private", "number"),
        Heading(number_title(options), "measured", "number"),
    ]
    for place in columns.further:
        further = table.rows[0].further[place]
        higher = further.metric.higher_is_better
        note = "higher is more private" if higher else ""
        headings.append(Heading(further.title, note, "number", "descending" if higher else "ascending"))
    for column in table.columns:
        note = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
        first = "ascending" if column.higher_is_better is False else "descending"
        headings.append(Heading(shown(column.title), note, "number", first))
    return headings


def _caption(table: Table, options: Options) -> list[str]:
    """What the table says, before one reads it."""
    ranked = [row for row in table.rows if row.rank is not None]
    n, left = table.rows[0].audit.mia_audit.n, len(table.rows) - len(ranked)
    said = [
        f"{len(ranked)} ranked.{f' {left} not ranked.' if left else ''} "
        f"Audited: {n.members:,} members and {n.nonmembers:,} non-members."
    ]
    if len(ranked) > 1:
        label, (first, last) = METRICS[options.metric].label, (ranked[0], ranked[-1])
        ends = [printed(limit(row.number, options.metric)) for row in (first, last)]
        said.append(
            f"Least is given away by {shown(first.entrant.name)}, {label} at most {ends[0]}; "
            f"most by {shown(last.entrant.name)}, at most {ends[1]}."
        )
    said += _read_at_5(table)
    blind: Sequence[Further] = [further for further in table.rows[0].further if further.metric is BLIND]
    if blind and _is_common_blind(table, table.rows[0].further.index(blind[0])):
        number = blind[0].number
        told = "not resolved" if math.isnan(number.value) else _told(number)
        said.append(f"The {blind[0].title}, which sees no model, is {told} in all rows.")
    return said


def _read_at_5(table: Table) -> list[str]:
    """Why the TPRs of a table stand at 5 % FPR where some of its audits speak of 1 %; empty where all speak of one."""
    at_5 = [row for row in table.rows if few_of(row.audit) == TPR_5PCT]
    if not at_5 or len(at_5) == len(table.rows):
        return []
    names = listed(shown(row.entrant.name) for row in at_5)
    few = [row for row in at_5 if _scored_others(row.audit) < LOW_END_NONMEMBERS]
    why = f"{'all' if few == at_5 else 'some'} with fewer than {LOW_END_NONMEMBERS} others scored"
    if not few:
        why = "where alone a guess is ruled out"
    return [f"The TPR stands at 5 % FPR in all rows, as it is read there of {names}: {why}."]


def _scored_others(audit: Audit) -> int:
    """Non-members behind the attack that leads at 1 % FPR, by which an audit is read there or at 5 %."""
    found = audit.strongest
    leads = None if found is None else found.tpr_at_1pct_fpr.attack
    task = next((task for task in audit.model_attacks if task.attack == leads), audit.tasks[0])
    return task.mia_audit.metrics.n_nonmembers


def _told(number: Estimate) -> str:
    return f"{printed(number.value)} ({interval(number.low, number.high)})"


def number_title(options: Options) -> str:
    """Heading of what models are ranked by."""
    attack = "strongest attack" if options.attack == STRONGEST else shown(options.attack)
    return f"{attack}, {METRICS[options.metric].label}"


def lead(board: Board) -> str:
    """What the board says, in a sentence or two."""
    chance = f", {AUROC.guess} is what guessing reaches" if board.options.metric == AUROC.key else ""
    attack = (
        "the strongest attack" if board.options.attack == STRONGEST else f"the attack {shown(board.options.attack)}"
    )
    tables = len(board.tables)
    parts = "" if tables == 1 else f" {tables} tables: only audits that can be compared share one."
    return (
        f"Ranked by what {attack} reaches at most: the upper limit of the {_level(board)} interval of its "
        f"{METRICS[board.options.metric].label}. Lower is more private{chance}.{parts}"
    )


def _level(board: Board) -> str:
    """The confidence of the intervals, all of which have one in what this version writes."""
    rows = (row.number.confidence for table in board.tables for row in table.rows)
    found = sorted({confidence for confidence in rows if not math.isnan(confidence)})
    return " or ".join(f"{100 * confidence:g} %" for confidence in found) or "95 %"


def runs(board: Board) -> str:
    """When the models were run, and with which versions."""
    rows = [row for table in board.tables for row in table.rows]
    return ran(
        (date for row in rows for date in row.entrant.dates),
        (str(row.audit.mia_audit.versions["spvmia-plugin"]) for row in rows),
        (version for row in rows for version in row.entrant.harness),
    )


def reading(board: Board) -> list[str]:
    """How to read the board, in sentences."""
    strongest = (
        "The strongest attack is the one with most of a number, which may be another one for the TPR than for the "
        "AUROC; of AUROCs one below 0.5 counts in its place where its interval reaches further from 0.5. The intervals "
        "hold for all attacks and numbers at once, so they are wider than that of an attack fixed beforehand."
    )
    apart = (
        "Audits that differ in what matters are in tables of their own. --compare recipes puts different fine-tunings "
        "of one base model side by side, --attack NAME asks of one attack alone that it ran alike."
    )
    return [
        *([apart] if len(board.tables) > 1 else []),
        *([strongest] if board.options.attack == STRONGEST else []),
        "A rank is that of the upper limit: what can be claimed is that the attack reaches at most so much. An AUROC "
        "below 0.5 counts by its distance from it.",
        "Below a rank stands the range that the errors leave open. All pairs are looked at together: where all models "
        f"are equal, at most {CHANCE:.0%} of boards call one surely ahead of another, here or in the picture.",
        "TPR at 1 % FPR is the share of training records an outsider picks out while wrongly accusing 1 in 100 others; "
        f"where fewer than {LOW_END_NONMEMBERS} others stand behind it, it is read at 5 % as a rule.",
        "The blind baseline sees words and length but no model: it should not be above 0.5.",
        "A model is not ranked where a precondition of the audit failed: its numbers are shown, and not to be used.",
        f"All intervals of privacy numbers are of {_level(board)}; ± is one standard error of a capability score.",
        f"Numbers have three decimals; {MISSING} stands for what the data cannot resolve.",
    ]


def models(board: Board) -> int:
    """Number of different models in all tables."""
    return len({id(row.entrant) for table in board.tables for row in table.rows})


def _row(number: int, row: Row, table: Table, options: Options, columns: _Columns, recipe: str) -> RowView:
    name, base = shown(row.entrant.name), shown(row.base or "")
    cells = [
        _rank(row),
        Cell(name, sort=name, kind="model"),
        *([Cell(recipe, sort=recipe, kind="words")] if columns.recipe else []),
        *([Cell(base or MISSING, sort=base, kind="words")] if columns.base else []),
        _limit(row.number, options.metric),
        _number(row.number, of=options.metric),
        *(_number(row.further[place].number) for place in columns.further),
        *(_capability(row.capabilities.get(column.key)) for column in table.columns),
    ]
    reasons, remarks = ([shown(sentence) for sentence in told] for told in (row.why_not_ranked, row.remarks))
    date = day(row.entrant.dates[-1]) if row.entrant.dates else ""
    return RowView(number, name, row.entrant.hub_id, date, shown(method(row.recipe)), base, cells, reasons, remarks)


def _rank(row: Row) -> Cell:
    if row.rank is None or row.rank_range is None:
        return Cell(MISSING, kind="rank")
    low, high = row.rank_range
    return Cell(str(row.rank), "" if low == high else f"{low} to {high}", str(row.rank), "rank")


def _limit(estimate: Estimate, metric: str) -> Cell:
    """The upper limit. One below chance counts by its distance from it, and says so."""
    most = limit(estimate, metric)
    if math.isnan(most):
        return Cell(MISSING)
    note = "" if most == estimate.high else f"mirrored: 1 \N{MINUS SIGN} {printed(estimate.low)}"
    return Cell(printed(most), note, repr(most))


def _number(estimate: Estimate, *, of: str | None = None) -> Cell:
    """A number with its interval; of the metric that ranks with the attack whose it is."""
    if math.isnan(estimate.value):
        return Cell(MISSING)
    notes = []
    if not math.isnan(estimate.low):
        notes.append(interval(estimate.low, estimate.high))
    if of is not None and estimate.attack is not None:
        which = "strongest" if limit(estimate, of) == estimate.high else f"furthest from {AUROC.guess}"
        chosen = f", {which} of {estimate.chosen_among}" if estimate.chosen_among > 1 else ""
        notes.append(f"by {shown(estimate.attack)}{chosen}")
    return Cell(printed(estimate.value), ", ".join(notes), repr(estimate.value))


def _capability(score: Capability | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    return Cell(
        printed(score.value), "" if math.isnan(score.stderr) else f"± {printed(score.stderr)}", repr(score.value)
    )
