"""What a run ends with on the terminal: every attack in one table, the strongest first."""

from __future__ import annotations

import math
import sys

from spvmia_plugin.metrics.leaders import Compared, Leader
from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL, Metric
from spvmia_plugin.util.console import above_bars, columns, show, shown

FOR_A_PAGE = "  one page of it: spvmia report RESULTS, the folder of --output_path (with --log_samples)"
_FOUND, _NOTHING, _TURNED = "ruled out", "not ruled out", "ruled out, but members score lower"
_STYLES = {_FOUND: "bold red", _TURNED: "bold red", _NOTHING: "dim"}


def show_closing(compared: Compared) -> None:
    """A line for each attack, in colour where it is a terminal that reads; the intervals hold for all of them at once.

    Args:
        compared: with the attacks' own names.
    """
    heads, *rows = _rows(compared)
    if not sys.stderr.isatty():
        show("\n".join(columns([heads, *rows], "<<<<")))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=True)
    for head in heads:
        table.add_column(head, overflow="fold")
    for place, row in enumerate(rows):
        cells = [Text(cell, style=_STYLES.get(cell, "")) for cell in row]
        table.add_row(*cells, style="bold" if place == 0 and row[-1] == _FOUND else None)
    with above_bars():
        Console(stderr=True).print(table)


def _rows(compared: Compared) -> list[tuple[str, str, str, str]]:
    """The heads, and a row for each attack."""
    low_end = METRICS_WITH_INTERVAL[compared.low_end]
    aurocs, tprs = (compared.leaders[metric.key] for metric in (AUROC, low_end))
    names = [leader.attack for leader in aurocs.values()]  # one may be run twice, with other settings
    rows = [("attack", AUROC.label, low_end.label, "a guess is")]
    for task, auroc in sorted(aurocs.items(), key=lambda item: -item[1].value):
        name = str(auroc.attack) if names.count(auroc.attack) == 1 else task
        ruled_out = auroc.excludes(AUROC.guess) or tprs[task].excludes(low_end.guess)
        told = _FOUND if ruled_out else _TURNED if auroc.is_turned_round() else _NOTHING
        numbers = (_number(auroc, AUROC), _number(tprs[task], low_end))
        rows.append((shown(name), *numbers, told))
    return rows


def _number(leader: Leader, metric: Metric) -> str:
    return "-" if math.isnan(leader.value) else leader.in_words(metric.guess)
