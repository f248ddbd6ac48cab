"""The board as people read it: headings, cells and sentences, and the page, Markdown and terminal that show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spvmia_plugin.leaderboard.board import Board, Options, Row, Table
from spvmia_plugin.leaderboard.front import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw, in_words
from spvmia_plugin.leaderboard.order import CHANCE
from spvmia_plugin.metrics.names import AUROC, BLIND, LOW_END_NONMEMBERS, METRICS
from spvmia_plugin.results.comparable import common_recipe, recipe_words
from spvmia_plugin.results.estimate import STRONGEST, Estimate
from spvmia_plugin.results.model import Capability
from spvmia_plugin.util.console import shown
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import MISSING, markdown, printed

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = ("paper card ink soft line grey", "accent wash warn warn-wash warn-line")
"""Of `web.page.theme`."""


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
    ]
    for further in table.rows[0].further:
        higher = further.metric.higher_is_better
        # The baseline says how good the audit's data are, not how private a model is.
        note = "" if further.metric is BLIND else f"{'higher' if higher else 'lower'} is more private"
        headings.append(Heading(further.title, note, "number", "descending" if higher else "ascending"))
    for column in table.columns:
        note = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
        first = "ascending" if column.higher_is_better is False else "descending"
        headings.append(Heading(shown(column.title), note, "number", first))
    told = [shown(recipe_words(recipe, common)) if with_recipe else None for recipe in recipes]
    rows = [
        _row(number, row, table, words) for number, (row, words) in enumerate(zip(table.rows, told, strict=True), 1)
    ]
    conditions = [(shown(name), shown(value)) for name, value in {**table.conditions, **common}.items()]
    ranked, n = sum(row.rank is not None for row in table.rows), table.rows[0].audit.mia_audit.n
    left = "" if ranked == len(rows) else f" {len(rows) - ranked} not ranked."
    caption = f"{ranked} ranked.{left} Audited: {n.members} members and {n.nonmembers} non-members."
    return TableView(shown(table.title), shown(table.differs), caption, headings, rows, conditions)


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
        "The strongest attack is the one with most of a number, which may be another one for the TPR than for the "
        "AUROC; the intervals hold for all attacks and numbers at once, so they are wider than that of an attack fixed "
        "beforehand."
    )
    apart = (
        "Audits that differ in what matters are in tables of their own. --compare recipes puts different fine-tunings "
        "of one base model side by side, --attack NAME asks of one attack alone that it ran alike."
    )
    return [
        *([apart] if len(board.tables) > 1 else []),
        *([strongest] if board.options.attack == STRONGEST else []),
        "The second rank is the range that the errors leave open. All pairs are looked at together: where all models "
        f"are equal, at most {CHANCE:.0%} of boards call one surely ahead of another, here or in the picture.",
        "TPR at 1 % FPR is the share of training records an outsider picks out while wrongly accusing 1 in 100 others; "
        f"with fewer than {LOW_END_NONMEMBERS} others it is read at 5 %.",
        "The blind baseline sees words and length but no model: it should not be above 0.5.",
        "A model is not ranked where a precondition of the audit failed: its numbers are shown, and not to be used.",
        f"Numbers have three decimals; {MISSING} stands for what the data cannot resolve.",
    ]


def models(board: Board) -> int:
    """Number of different models in all tables."""
    return len({id(row.entrant) for table in board.tables for row in table.rows})


def _row(number: int, row: Row, table: Table, recipe: str | None) -> RowView:
    name = shown(row.entrant.name)
    cells = [
        _rank(row),
        Cell(name, sort=name, kind="model"),
        *([] if recipe is None else [Cell(recipe, sort=recipe, kind="words")]),
        _number(row.number, told=True),
        *(_number(further.number) for further in row.further),
        *(_capability(row.capabilities.get(column.key)) for column in table.columns),
    ]
    reasons, remarks = ([shown(sentence) for sentence in told] for told in (row.why_not_ranked, row.remarks))
    return RowView(number, name, cells, reasons, remarks)


def _rank(row: Row) -> Cell:
    if row.rank is None or row.rank_range is None:
        return Cell(MISSING, kind="rank")
    low, high = row.rank_range
    return Cell(str(row.rank), "" if low == high else f"{low} to {high}", str(row.rank), "rank")


def _number(estimate: Estimate, *, told: bool = False) -> Cell:
    """A number with its interval; if asked, with the attack whose it is."""
    if math.isnan(estimate.value):
        return Cell(MISSING)
    notes = []
    if not math.isnan(estimate.low):
        notes.append(f"{printed(estimate.low)}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{printed(estimate.high)}")
    if told and estimate.attack is not None:
        chosen = f" of {estimate.chosen_among}" if estimate.chosen_among > 1 else ""
        notes.append(f"{shown(estimate.attack)}{chosen}")
    return Cell(printed(estimate.value), ", ".join(notes), repr(estimate.value))


def _capability(score: Capability | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    return Cell(
        printed(score.value), "" if math.isnan(score.stderr) else f"± {printed(score.stderr)}", repr(score.value)
    )


def to_html(board: Board) -> str:
    """The board as one HTML file that loads nothing, and runs nothing but the script it was written with."""
    environment = web.templates("spvmia_plugin.leaderboard")
    return web.render(
        environment,
        "spvmia_plugin.leaderboard",
        "board",
        web.theme(COLOURS),
        models=models(board),
        lead=lead(board),
        tables=[
            (table_view(table, board.options), _picture(environment, f"picture-{number}", table, board.options))
            for number, table in enumerate(board.tables, 1)
        ],
        not_audited=[shown(entrant.name) for entrant in board.not_audited],
        left_out=board.left_out,
        reading=reading(board),
    )


def _picture(environment: Any, name: str, table: Table, options: Options) -> dict[str, object]:
    if table.picture is None:
        return {
            "svg": None,
            "no_picture": "No picture: fewer than two ranked models have a capability score in common.",
        }
    points = [replace(point, name=shown(point.name)) for point in table.points]
    sign = 1 if table.picture.higher_is_better else -1
    words = in_words(points, table.places)
    svg = environment.get_template("front.svg").render(
        id=name,
        figure=draw(points, table.places, sign, AUROC.guess if options.metric == AUROC.key else 0.0),
        words=words,
        x_title=shown(table.picture.title),
        y_title=METRICS[options.metric].label,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )
    confidence = max((row.number.confidence for row in table.rows if row.rank is not None), default=0.95)
    bars = (
        f"Bars are {confidence:.0%} intervals, filled circles are on the front, a number in place of a name is a rank."
    )
    return {"svg": web.trusted(svg), "words": words, "bars": bars}


def to_markdown(board: Board) -> str:
    """The whole board; names show as they are, whatever markup they hold."""
    lines = [f"# Capability and privacy of {models(board)} models", "", markdown(lead(board)), ""]
    for table in board.tables:
        lines += _markdown_table(table_view(table, board.options))
        if table.picture is not None:
            words = in_words(table.points, table.places)
            lines += [f"Capability: {markdown(table.picture.title)}. {markdown(words)}", ""]
    if board.not_audited:
        lines += ["## Without a privacy audit", "", *_items(entrant.name for entrant in board.not_audited), ""]
    if board.left_out:
        lines += ["## Left out", "", *_items(board.left_out), ""]
    return "\n".join([*lines, "## How to read this", "", *_items(reading(board)), ""])


def _markdown_table(view: TableView) -> list[str]:
    lines = [f"## {markdown(view.title)}", ""]
    if view.differs:
        lines += [f"Not comparable with the first table. What differs: {markdown(view.differs)}.", ""]
    titles = [
        markdown(f"{heading.title} ({heading.note})" if heading.note else heading.title) for heading in view.headings
    ]
    aligned = [":--" if heading.kind in ("model", "words") else "--:" for heading in view.headings]
    lines += [markdown(view.caption), "", _line(titles), _line(aligned)]
    for row in view.rows:
        cells = [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row.cells]
        marked = [
            f"{text} (not ranked)" if cell.kind == "model" and row.marked else text
            for text, cell in zip(cells, row.cells, strict=True)
        ]
        lines.append(_line(markdown(text) for text in marked))
    for title, rows in (("Not ranked, and why", view.marked), ("What else limits these numbers", view.rows)):
        told = [(row.name, row.remarks if rows is view.rows else row.reasons) for row in rows]
        sentences = [f"{name}: {'; '.join(words)}." for name, words in told if words]
        if sentences:
            lines += ["", f"### {title}", "", *_items(sentences)]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"* {markdown(sentence)}" for sentence in sentences]


def show_board(board: Board, console: Console) -> None:
    """Print the tables, the front in words, and why rows are not ranked. Names are text, never rich's markup."""
    from rich.table import Table as Grid
    from rich.text import Text

    console.print(Text(lead(board)))
    for table in board.tables:
        view = table_view(table, board.options)
        console.print()
        if view.differs:
            console.print(Text(f"Not comparable with the first table. What differs: {view.differs}.", style="yellow"))
        grid = Grid(title=Text(view.title), caption=Text(view.caption), title_justify="left", caption_justify="left")
        for heading in view.headings:
            left = heading.kind in ("model", "words")
            grid.add_column(Text(heading.title), justify="left" if left else "right", overflow="fold")
        for row in view.rows:
            cells = [Text(f"{cell.text}\n{cell.note}" if cell.note else cell.text) for cell in row.cells]
            grid.add_row(*cells, style="dim" if row.marked else None, end_section=True)
        console.print(grid)
        if table.picture is not None:
            words = in_words(table.points, table.places)
            console.print(Text(f"Capability: {shown(table.picture.title)}. {shown(words)}"))
        for row in view.marked:
            console.print(Text(f"Not ranked: {row.name}: {'; '.join(row.reasons)}.", style="yellow"))
    for problem in board.left_out:
        console.print(Text(f"Left out: {problem}", style="yellow"))
    if board.not_audited:
        names = ", ".join(shown(entrant.name) for entrant in board.not_audited)
        console.print(Text(f"Without a privacy audit: {names}."))
