"""The table of exposed records, by column and as it is printed: the page holds it as data and draws a page of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spvmia_plugin.metrics.exposure import MemberExposure
from spvmia_plugin.report.attacks import ranked, title
from spvmia_plugin.report.numbers import STYLES
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.shown import shown

MAX_TEXT = 600
"""Characters of a record in the table."""


def exposure_table(audit: Audit, members: Sequence[MemberExposure]) -> dict[str, Any]:
    """The exposure table by column, with numbers as they are printed."""
    texts = {record.id: record.text for record in audit.records if record.text is not None}
    tasks = [task for task in ranked(audit) if any(task.attack in member.attacks for member in members)]
    places = {task.attack: place for place, task in enumerate(tasks)}
    attacks = [_columns(audit, task, members) for task in tasks]
    best = [places.get(member.lowest_share_attack or "") for member in members]
    lowest = [None if place is None else attacks[place]["higher"][row] for row, place in enumerate(best)]
    return {
        "ids": [shown(member.id) for member in members],
        "texts": [_excerpt(texts.get(member.id) or "") for member in members] if texts else None,
        "lowest": lowest,
        "zero": [int(count == 0) for count in lowest],
        "best": best,
        "attacks": attacks,
    }


def _excerpt(text: str) -> str:
    """A text safe to show, and short enough for a cell."""
    rest = len(text) - MAX_TEXT
    return shown(text) if rest <= 0 else f"{shown(text[:MAX_TEXT])} … ({rest:,} more characters)"


def _columns(audit: Audit, task: TaskResult, members: Sequence[MemberExposure]) -> dict[str, Any]:
    """One attack's columns: score as it is printed, rank among all scored, and how many others score as high."""
    found = [member.attacks.get(task.attack) for member in members]
    scored = ~np.isnan(audit.scores(task))
    others = int((scored & ~audit.labels()).sum())
    higher = [None if one is None or one.nonmember_share is None else one.nonmember_share * others for one in found]
    return {
        "name": task.attack,
        "title": title(task.attack),
        "scored": int(scored.sum()),
        "others": others,
        "score": [None if one is None else STYLES["score"](one.score) for one in found],
        "rank": [None if one is None else one.rank for one in found],
        "higher": [None if count is None else round(count) for count in higher],
    }
