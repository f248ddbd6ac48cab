"""The table of the most exposed members, with its numbers as they are printed."""

from __future__ import annotations

import math
from typing import Any

from spvmia_plugin.metrics.exposure import Exposures
from spvmia_plugin.report.facts import PickedOut
from spvmia_plugin.report.numbers import Number, Text, counted, ranked, title
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.util.console import shown, shown_lines
from spvmia_plugin.web.text import STYLES

FIRST_ROWS = 25
"""Rows of the exposure table that stand in the page itself, for readers without scripts and for print."""
MAX_ROWS = 2000
"""Records in the table. The others are in the samples files, and in `spvmia report --json`."""
MAX_TEXT = 600
"""Characters of a record in the table."""
_ALL_TEXTS = 400_000
"""Characters of all records in the table together, so that the page stays one that opens."""
_LEAST_TEXT = 100
_HEAD, _HEAD_LINES = 160, 3
"""Characters and lines of a text that its row shows; it opens to all of `MAX_TEXT`."""


def exposure_table(audit: Audit, members: Exposures, picked: PickedOut | None) -> dict[str, Any]:
    """The table of the most exposed members by column, with numbers as they are printed.

    Args:
        audit: the audit.
        members: all of them, the most exposed first.
        picked: those of them that the verdict calls picked out. Ranks are shown under the attack that does so.
    """
    total, members = len(members), members[:MAX_ROWS]
    texts = audit.records.texts(members.ids) if audit.records else {}
    limit = max(_LEAST_TEXT, min(MAX_TEXT, _ALL_TEXTS // max(len(members), 1)))
    excerpts = [_excerpt(texts.get(record_id, ""), limit) for record_id in members.ids] if texts else None
    tasks = [task for task in ranked(audit) if (members.rank[members.names.index(task.attack)] > 0).any()]
    attacks = [_columns(task, members) for task in tasks]
    places = {task.attack: place for place, task in enumerate(tasks)}
    best = [places.get(member.lowest_share_attack or "") for member in members]
    lowest = [None if place is None else attacks[place]["higher"][row] for row, place in enumerate(best)]
    return {
        "total": total,
        "ids": [shown(record_id) for record_id in members.ids],
        "texts": excerpts,
        "heads": [_head(text) for text in excerpts] if excerpts else None,
        "lowest": lowest,
        "zero": [int(count == 0) for count in lowest],
        "best": best,
        "attacks": attacks,
        "chosen": places.get(picked.attack, 0) if picked else 0,
        **_p_values(members),
    }


def picked_in_words(found: PickedOut) -> Text:
    """Which of the table's records the verdict calls picked out."""
    records, rank, others = (
        Number(float(value), "count", f"computed/picked_out/{name}")
        for name, value in (("records", found.records), ("rank", found.rank), ("others", found.others))
    )
    wrongly = f"at most {found.wrongly:,}" if found.wrongly else "none"
    return (
        *(
            "Those that the verdict calls picked out stand first: ",
            *counted(records, "record"),
            " with a rank of at most ",
        ),
        *(rank, f" under {title(found.attack)}. Of the ", others, f" others {wrongly} score as high."),
    )


def _p_values(members: Exposures) -> dict[str, Any]:
    """The column of p-values as it is printed, of the attack that gives them; nothing where none does."""
    name = next(iter(members.p_value), None)
    if name is None:
        return {}
    values = [None if math.isnan(p) else STYLES["score"](p) for p in members.p_value[name].tolist()]
    return {"p": {"title": title(name), "values": values}}


def _excerpt(text: str, limit: int) -> str:
    """A text safe to show, and short enough for a cell."""
    limit = limit if text.isascii() else limit // 3  # the page's data are ASCII: six characters for any other one
    rest = len(text) - limit
    return shown_lines(text) if rest <= 0 else f"{shown_lines(text[:limit])} … ({rest:,} more characters)"


def _head(text: str) -> int:
    """How many characters of a text its row shows: all of them, or whole words of its first lines."""
    lines = "\n".join(text.split("\n", _HEAD_LINES)[:_HEAD_LINES])
    if len(lines) <= _HEAD:
        return len(text) if lines == text else len(lines.rstrip())
    last = lines.rfind(" ", _HEAD // 2, _HEAD)
    return _HEAD if last < 0 else last


def _columns(task: TaskResult, members: Exposures) -> dict[str, Any]:
    """One attack's columns: score as it is printed, rank among all scored, and how many others score as high."""
    number = members.names.index(task.attack)
    ranks, counts = members.rank[number].tolist(), members.at_least[number].tolist()
    scores = members.score[number].tolist()
    return {
        "name": task.attack,
        "title": title(task.attack),
        "scored": members.scored[number],
        "others": members.others[number],
        "score": [STYLES["score"](score) if rank else None for score, rank in zip(scores, ranks, strict=True)],
        "rank": [rank or None for rank in ranks],
        "higher": [None if count < 0 else count for count in counts],
    }
