"""What an audit of the model before fine-tuning says beside that of the target on the same records."""

from __future__ import annotations

import math

from spvmia_plugin.metrics.leaders import Leader
from spvmia_plugin.metrics.names import AUROC
from spvmia_plugin.report.numbers import Number, Text, title
from spvmia_plugin.results import Audit


def told_by_base(base: Audit | None) -> Text:
    """The AUROC that counts for the base on a board: which, of whom, and of how many attacks; empty without one."""
    found = base.strongest if base is not None else None
    if found is None or math.isnan(found.auroc.value):
        return ()
    key, leader = found.furthest
    place = f"base/strongest/{key}"
    value, low, high = (Number(getattr(leader, end), "share", f"{place}/{end}") for end in ("value", "low", "high"))
    among = f", the furthest from guessing of {found.n_attacks} attacks" if found.n_attacks > 1 else ""
    text: Text = (f"{AUROC.label} ", value, " (", low, " to ", high, f") by {title(str(leader.attack))}{among}")
    if leader.reach == leader.high:
        return text
    turned = Number(1 - leader.value, "share", f"computed/{place}/turned_round")
    return (*text, "; turned round ", turned)


def base_tells(base: Audit | None) -> bool:
    """Whether the base tells members from others, either way round, before it was fine-tuned on any of them.

    They differ by themselves then, or the base has read members before: so much is not the fine-tuning's.
    """
    found = base.strongest if base is not None else None
    leader = found.furthest[1] if found is not None else Leader()
    return leader.excludes(AUROC.guess) or leader.is_turned_round()
