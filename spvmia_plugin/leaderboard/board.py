"""The leaderboard as data: tables of comparable audits, their rows ranked, or marked with the reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.leaderboard.bases import base_names, with_bases
from spvmia_plugin.leaderboard.entrants import Entrant, Source, entrants, read_sources
from spvmia_plugin.leaderboard.front import Place, Point, places
from spvmia_plugin.leaderboard.order import PRIVACY_CHANCE, Bounds, surely_below
from spvmia_plugin.leaderboard.standing import bounds, reasons_not_ranked, remarks
from spvmia_plugin.metrics.names import AUROC, BLIND, NORMAL_95, PRIVACY, TPR_5PCT, Metric, low_end
from spvmia_plugin.results.comparable import Compare, Conditions, SameData, conditions, differences, grouped, recipe
from spvmia_plugin.results.estimate import (
    STRONGEST,
    Estimate,
    counted,
    from_guessing,
    of_attack,
    of_blind,
    task_of,
)
from spvmia_plugin.results.model import Audit, Capability
from spvmia_plugin.util.console import shown

Key = tuple[object, ...]


@dataclass(frozen=True)
class Options:
    """What the board shows.

    Attributes:
        attack: which attack counts: a name, or "strongest".
        metric: key of the metric that models are ranked by, one that `has_error`.
        compare: what differs between the rows of a table: models under one recipe, or recipes of one base model.
        same_data: how data are recognised.
        capability: title of a column or name of a task for the picture; None for the one that most models have.
    """

    attack: str = STRONGEST
    metric: str = AUROC.key
    compare: Compare = "models"
    same_data: SameData = "fingerprint"
    capability: str | None = None


@dataclass(frozen=True, slots=True)
class Further:
    """A number that a row shows beside the one it is ranked by: its heading, which metric it is, and the number."""

    title: str
    metric: Metric
    number: Estimate


@dataclass(frozen=True)
class Row:
    """One model under one audit.

    Attributes:
        entrant: the model.
        audit: the audit.
        number: what it is ranked by.
        further: further numbers.
        capabilities: by column key.
        recipe: how it was fine-tuned, by setting.
        why_not_ranked: reasons in words; empty where it is ranked.
        remarks: what else limits its numbers.
        base: what the board calls the model before fine-tuning; None of such a model, and where nobody said.
        rank: 1 for the most private, by the upper limit of its number; None where it is not ranked.
        rank_range: ranks that the errors leave open, looking at all pairs of the board together; None likewise.
    """

    entrant: Entrant
    audit: Audit
    number: Estimate
    further: Sequence[Further]
    capabilities: Mapping[Key, Capability]
    recipe: Conditions
    why_not_ranked: Sequence[str]
    remarks: Sequence[str]
    base: str | None = None
    rank: int | None = None
    rank_range: tuple[int, int] | None = None


@dataclass(frozen=True)
class Column:
    """A capability score that may be compared across models.

    Attributes:
        key: task, metric, samples, version and few-shot examples; equal for all its scores.
        title: heading: the task and metric, with what tells it from a column of the same name.
        higher_is_better: None where the harness does not say.
    """

    key: Key
    title: str
    higher_is_better: bool | None

    def is_called(self, name: str) -> bool:
        """Whether `name` is the title, or the task alone."""
        return name in (self.title, self.key[0])


@dataclass(frozen=True)
class Table:
    """Audits that may be compared.

    Attributes:
        title: the data, with a number where there are several tables.
        conditions: what all rows have in common.
        differs: how it differs from the first table, empty for that one.
        columns: capability scores.
        rows: ranked ones first, in their order.
        picture: the capability of the Pareto picture; None where fewer than two ranked rows have one.
        points: of that picture.
        places: of the points.
    """

    title: str
    conditions: Conditions
    differs: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    picture: Column | None
    points: Sequence[Point]
    places: Sequence[Place]


@dataclass(frozen=True)
class Board:
    """All tables.

    Attributes:
        options: what was asked for.
        tables: the largest first.
        not_audited: models without a privacy audit.
        left_out: why some results files could not be read, a line for each.
    """

    options: Options
    tables: Sequence[Table]
    not_audited: Sequence[Entrant]
    left_out: Sequence[str] = ()


def build_board(sources: Sequence[Source], options: Options) -> Board:
    """Read results and set models side by side.

    Raises:
        SpvmiaError: results that cannot be read, contradict each other or hold no audit; an attack or a capability
            that nobody ran.
    """
    runs = read_sources(sources, strongest=options.attack == STRONGEST, ids=options.same_data == "ids")
    left_out = list(dict.fromkeys(shown(problem) for run, _ in runs for problem in run.left_out))
    found = entrants(runs)
    pairs = [(entrant, audit) for entrant in found for audit in entrant.audits if audit.model_attacks]
    if not pairs:
        places = ", ".join(str(source.place) for source in sources[:3])
        told = f" ({left_out[0].removeprefix('RESULTS: ')})" if left_out else ""
        raise SpvmiaError(
            f"RESULTS: expected lm_eval runs with a privacy task, got none in {places}{told}; run for example "
            "`spvmia run --tasks mia_custom ... --output_path results --log_samples`"
        )
    known = sorted({task.attack for _, audit in pairs for task in audit.model_attacks})
    if options.attack not in (STRONGEST, *known):
        raise SpvmiaError(
            f"--attack: expected {STRONGEST!r} or an attack that was run ({', '.join(known)}), got {options.attack!r}"
            f"{did_you_mean(options.attack, known)}; name one of them"
        )

    def of_pair(pair: tuple[Entrant, Audit]) -> Conditions:
        """With one attack named, only that one must have run alike; for the strongest, all must."""
        attacks = [task for task in pair[1].model_attacks if options.attack in (STRONGEST, task.attack)]
        attacks.sort(key=lambda task: task.attack)
        return conditions(pair[1], attacks, options.compare, options.same_data)

    groups = grouped(pairs, of_pair)
    if options.compare == "models":  # the recipe is no condition of the others
        groups = with_bases(groups)
    tables = [_table(values, members, options, len(groups)) for values, members in groups]
    columns = [column for table in tables for column in table.columns]
    if options.capability is not None and not any(column.is_called(options.capability) for column in columns):
        titles = "; ".join(sorted({column.title for column in columns})) or "the results hold none"
        raise SpvmiaError(
            f"--capability: expected a capability score of the results ({titles}), got {options.capability!r}"
        )
    if len(tables) > 1:
        first = tables[0].conditions
        tables = [
            replace(table, title=f"{number}. {table.title}", differs=differences(table.conditions, first))
            for number, table in enumerate(tables, 1)
        ]
    audited = {id(entrant) for entrant, _ in pairs}
    not_audited = [entrant for entrant in found if id(entrant) not in audited]
    return Board(options, tables, not_audited, left_out)


def few_of(audit: Audit) -> Metric:
    """The TPR by which an audit speaks of its most exposed few."""
    found = audit.strongest
    return found.low_end_metric if found is not None else low_end(audit.mia_audit.n.nonmembers)


def _table(values: Conditions, members: Sequence[tuple[Entrant, Audit]], options: Options, tables: int) -> Table:
    # One column for all: at 1 % where each audit speaks of its most exposed few there.
    few = {few_of(audit) for _, audit in members}
    low = few.pop() if len(few) == 1 else TPR_5PCT
    also = [metric for metric in (AUROC, low) if metric.key != options.metric]
    if options.attack != STRONGEST:
        also.append(PRIVACY)  # a number of one attack
    made = [
        _row(*member, base, options, also, len(members))
        for member, base in zip(members, base_names(members), strict=True)
    ]
    rows = _ranked(made, options.metric, tables)
    columns = _columns(row.capabilities for row in rows)
    picture = _picture(columns, rows, options.capability)
    points = [_point(row, picture, options.metric) for row in _drawn(rows, picture)] if picture else []
    source = rows[0].audit.mia_audit.data.source or values["data set"]
    return Table(
        title=source if values["data set"] == "custom" else f"{values['data set']} ({source})",
        conditions=values,
        differs="",
        columns=columns,
        rows=rows,
        picture=picture,
        points=points,
        places=places(points, sum(row.rank is not None for row in rows), tables),
    )


def _row(entrant: Entrant, audit: Audit, base: str | None, options: Options, also: Sequence[Metric], among: int) -> Row:
    number = counted(audit, options.attack, options.metric)
    further = [Further(metric.label, metric, counted(audit, options.attack, metric.key)) for metric in also]
    if (options.attack, options.metric) != ("spv", AUROC.key):
        further.append(Further("SPV-MIA, AUROC", AUROC, of_attack(task_of(audit, "spv"), AUROC.key)))
    further.append(Further("blind baseline, AUROC", BLIND, of_blind(audit)))
    return Row(
        entrant=entrant,
        audit=audit,
        number=number,
        further=further,
        capabilities={capability.key: capability for capability in entrant.capabilities},
        recipe=recipe(audit),
        why_not_ranked=reasons_not_ranked(audit, number, options.metric, among),
        remarks=remarks(audit, number, options.metric),
        base=base,
    )


def _ranked(rows: Sequence[Row], metric: str, tables: int) -> list[Row]:
    """Ranked rows by the upper limit of their number, then the others by name."""
    ranked = sorted((row for row in rows if not row.why_not_ranked), key=lambda row: loss(row.number, metric).high)
    losses = [loss(row.number, metric) for row in ranked]
    placed = [
        replace(row, rank=rank, rank_range=reach)
        for row, rank, reach in zip(ranked, ranks(losses), rank_ranges(losses, tables), strict=True)
    ]
    return [*placed, *sorted((row for row in rows if row.why_not_ranked), key=lambda row: row.entrant.name)]


def _picture(columns: Sequence[Column], rows: Sequence[Row], wanted: str | None) -> Column | None:
    usable = [column for column in columns if column.higher_is_better is not None and len(_drawn(rows, column)) > 1]
    asked = [column for column in usable if wanted is None or column.is_called(wanted)]
    return max(asked, key=lambda column: len(_drawn(rows, column)), default=None)


def _drawn(rows: Sequence[Row], column: Column) -> list[Row]:
    return [row for row in rows if row.rank is not None and column.key in row.capabilities]


def _point(row: Row, column: Column, metric: str) -> Point:
    score = row.capabilities[column.key]
    value, reach = score.value if column.higher_is_better else -score.value, NORMAL_95 * score.stderr
    lost = loss(row.number, metric)
    private = Bounds(-lost.value, -lost.high, -lost.low, lost.confidence)
    return Point(row.entrant.name, Bounds(value, value - reach, value + reach), private, row.rank, row.base)


def _columns(rows: Iterable[Mapping[Key, Capability]]) -> list[Column]:
    """The columns of some rows' scores: those that most rows have first."""
    found: dict[Key, list[Capability]] = {}
    for row in rows:
        for key, capability in row.items():
            found.setdefault(key, []).append(capability)
    columns = []
    for key in sorted(found, key=lambda key: -len(found[key])):
        score = found[key][0]
        title = f"{score.task}, {score.metric}"
        if sum(other[:2] == key[:2] for other in found) > 1:
            title += f" ({score.n} samples, {score.fewshot} examples, version {score.version})"
        columns.append(Column(key, title, score.higher_is_better))
    return columns


def loss(number: Estimate, metric: str) -> Bounds:
    """How much a model gives away, more is worse: an AUROC below 0.5 is as far from chance as one above."""
    value, low, high = number.value, number.low, number.high
    if metric != AUROC.key:
        return bounds(number)
    ends = from_guessing(number)
    nearest = 0.0 if low <= AUROC.guess <= high else min(ends)
    return Bounds(abs(value - AUROC.guess), nearest, max(ends), number.confidence)


def limit(number: Estimate, metric: str) -> float:
    """What the model gives away at most: the upper end of the interval.

    Of an AUROC the end that is further from chance; one below 0.5 as its mirror image, which an attack gets that says
    the opposite.
    """
    most = loss(number, metric).high
    if metric != AUROC.key or most == number.high - AUROC.guess:
        return number.high
    return AUROC.guess + most


def ranks(losses: Sequence[Bounds]) -> list[int]:
    """1 for the smallest upper limit; equal ones share a rank.

    A rank says what can be claimed: "at most so much". It lies within `rank_ranges`: who is surely ahead has a smaller
    limit, too.
    """
    return [1 + sum(other.high < ours.high for other in losses) for ours in losses]


def rank_ranges(losses: Sequence[Bounds], tables: int = 1) -> list[tuple[int, int]]:
    """Best and worst rank of each: behind all that are surely ahead of it, ahead of all that are surely behind.

    Args:
        losses: of the models of one table.
        tables: of the board, over which the chance of a wrong order is shared.
    """
    below = surely_below(losses, PRIVACY_CHANCE / tables)
    return [(1 + int(below[:, i].sum()), len(losses) - int(below[i].sum())) for i in range(len(losses))]
