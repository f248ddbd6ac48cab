"""The board as people read it: headings, cells and sentences, shared by terminal, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spvmia_plugin.leaderboard.board import Board, Column, Options, Row, Table
from spvmia_plugin.metrics.names import AUROC, METRICS, PRIVACY
from spvmia_plugin.results.comparable import common_recipe, recipe_words
from spvmia_plugin.results.estimate import STRONGEST, Estimate
from spvmia_plugin.results.model import Capability
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import MISSING, printed


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
    """One model: its number in the table, name, cells, and why it is not ranked."""

    number: int
    name: str
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
    caption: str
    headings: Sequence[Heading]
    rows: Sequence[RowView]
    conditions: Sequence[tuple[str, str]]

    @property
    def marked(self) -> list[RowView]:
        """Rows that are not ranked."""
        return [row for row in self.rows if row.marked]


def table_view(table: Table, options: Options) -> TableView:
    """Headings and cells of one table."""
    recipes = [row.recipe for row in table.rows]
    common = common_recipe(recipes)
    with_recipe = any(recipe != recipes[0] for recipe in recipes)
    headings = [
        Heading("rank", "", "rank"),
        Heading("model", "", "model"),
        *([Heading("fine-tuning", "", "words")] if with_recipe else []),
        Heading(number_title(options), "lower is more private", "number"),
        *(Heading(title, _direction(title), "number", _first(title)) for title in table.rows[0].further),
        *(_capability_heading(column) for column in table.columns),
    ]
    told = [shown(recipe_words(recipe, common)) if with_recipe else None for recipe in recipes]
    rows = [
        _row(number, row, table, words) for number, (row, words) in enumerate(zip(table.rows, told, strict=True), 1)
    ]
    conditions = [(shown(name), shown(value)) for name, value in {**table.conditions, **common}.items()]
    return TableView(shown(table.title), shown(table.differs), _caption(table), headings, rows, conditions)


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
    return f"Ranked by {METRICS[board.options.metric].label} of {attack}: lower is more private{chance}.{parts}"


def reading(board: Board) -> list[str]:
    """How to read the board, in sentences."""
    strongest = (
        "The strongest attack is the one with the largest AUROC; its interval allows for having been chosen among "
        "several, so it is wider than that of an attack fixed beforehand."
    )
    apart = (
        "Audits that differ in what matters are in tables of their own. --compare recipes puts different fine-tunings "
        "of one base model side by side, --attack NAME asks of one attack alone that it ran alike."
    )
    return [
        *([apart] if len(board.tables) > 1 else []),
        *([strongest] if board.options.attack == STRONGEST else []),
        "The second rank is the range that the intervals leave open: models whose intervals overlap may change places.",
        "TPR at 1 % FPR is the share of training records an outsider picks out while wrongly accusing at most 1 in 100 "
        "others.",
        "The blind baseline sees words and length but no model: it should not be above 0.5.",
        "A model is not ranked where a precondition of the audit failed: its numbers are shown, and not to be used.",
        f"Numbers have three decimals; {MISSING} stands for what the data cannot resolve.",
    ]


def models(board: Board) -> int:
    """Number of different models in all tables."""
    return len({id(row.entrant) for table in board.tables for row in table.rows})


def _caption(table: Table) -> str:
    ranked = sum(row.rank is not None for row in table.rows)
    n = table.rows[0].audit.mia_audit.n
    left = "" if ranked == len(table.rows) else f" {len(table.rows) - ranked} not ranked."
    return f"{ranked} ranked.{left} Audited: {n.members} members and {n.nonmembers} non-members."


def _row(number: int, row: Row, table: Table, recipe: str | None) -> RowView:
    name = shown(row.entrant.name)
    cells = [
        _rank(row),
        Cell(name, sort=name, kind="model"),
        *([] if recipe is None else [Cell(recipe, sort=recipe, kind="words")]),
        _number(row.number, _whose(row.number)),
        *(_number(estimate) for estimate in row.further.values()),
        *(_capability(row.capabilities.get(column.key)) for column in table.columns),
    ]
    return RowView(number, name, cells, _shown(row.why_not_ranked), _shown(row.remarks))


def _shown(sentences: Sequence[str]) -> list[str]:
    return [shown(sentence) for sentence in sentences]


def _rank(row: Row) -> Cell:
    if row.rank is None or row.rank_range is None:
        return Cell(MISSING, kind="rank")
    low, high = row.rank_range
    return Cell(str(row.rank), "" if low == high else f"{low} to {high}", str(row.rank), "rank")


def _number(estimate: Estimate, whose: str = "") -> Cell:
    if math.isnan(estimate.value):
        return Cell(MISSING)
    interval = (
        ""
        if math.isnan(estimate.low)
        else f"{printed(estimate.low)}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{printed(estimate.high)}"
    )
    note = ", ".join(part for part in (interval, whose) if part)
    return Cell(printed(estimate.value), note, repr(estimate.value))


def _whose(estimate: Estimate) -> str:
    if estimate.attack is None:
        return ""
    chosen = f" of {estimate.chosen_among}" if estimate.chosen_among > 1 else ""
    return f"{shown(estimate.attack)}{chosen}"


def _capability(score: Capability | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    return Cell(
        printed(score.value), "" if math.isnan(score.stderr) else f"± {printed(score.stderr)}", repr(score.value)
    )


def _capability_heading(column: Column) -> Heading:
    words = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
    return Heading(
        shown(column.title), words, "number", "ascending" if column.higher_is_better is False else "descending"
    )


def _direction(title: str) -> str:
    return "higher is more private" if title == PRIVACY.label else "" if "blind" in title else "lower is more private"


def _first(title: str) -> str:
    return "descending" if title == PRIVACY.label else "ascending"
