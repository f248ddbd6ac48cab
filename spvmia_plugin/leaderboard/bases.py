"""Models before fine-tuning on the board: in one table with what was made of them, which they are the null of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from spvmia_plugin.leaderboard.entrants import Entrant
from spvmia_plugin.results.comparable import (
    Conditions,
    base_model,
    is_untrained,
    without_recipe,
)
from spvmia_plugin.results.model import Audit

Pair = tuple[Entrant, Audit]
Group = tuple[Conditions, list[Pair]]


def with_bases(groups: Sequence[Group]) -> list[Group]:
    """Put each base beside its fine-tunes, in every table that was audited as it was, apart from the recipe.

    A base that no table has fine-tunes of stays where it is. The largest table comes first again.
    """
    tuned = [(values, [pair for pair in pairs if not is_untrained(pair[1])]) for values, pairs in groups]
    settled: set[int] = set()
    for values, members in tuned:
        known, alike = {base_model(audit) for _, audit in members}, without_recipe(values)
        for theirs, pairs in groups:
            if theirs == values or without_recipe(theirs) != alike:
                continue
            joining = [pair for pair in pairs if is_untrained(pair[1]) and base_model(pair[1]) in known]
            members += joining
            settled |= {id(audit) for _, audit in joining}
    for (_, members), (_, pairs) in zip(tuned, groups, strict=True):
        members += [pair for pair in pairs if is_untrained(pair[1]) and id(pair[1]) not in settled]
    return sorted(((values, members) for values, members in tuned if members), key=lambda group: -len(group[1]))


def base_names(pairs: Sequence[Pair]) -> list[str | None]:
    """What to call the base of each model of a table; None of a base itself, and where nobody said.

    A base that stands in the table is called as its row is, others by their hub id or the end of their path.
    """
    there = {base_model(audit): entrant.name for entrant, audit in pairs if is_untrained(audit)}

    def name(audit: Audit) -> str | None:
        if is_untrained(audit):
            return None
        told = audit.mia_audit.data.base_model
        called = None if told is None else str(told)
        if called is not None and PurePath(called).is_absolute():
            called = PurePath(called).name
        return there.get(base_model(audit), called)

    return [name(audit) for _, audit in pairs]
