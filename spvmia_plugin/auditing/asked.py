"""What attacks ask of models: how many texts and tokens of each kind, and how much of it was known before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.signals import Role, View

SELF_PROMPTS = "self_prompts"
"""Beside the views, what the target is asked for where a reference is trained on texts that it writes."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What was asked of the models behind a role for one view of the records.

    Attributes:
        texts: sequences that were read, or texts that were written.
        tokens: of the sequences; of texts that were written, at most so many.
        new: those of `tokens` that the store did not have when the run began.
    """

    texts: int = 0
    tokens: int = 0
    new: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.texts + other.texts, self.tokens + other.tokens, self.new + other.new)


@dataclass(frozen=True, slots=True)
class AskedTold:
    """What an attack asked of the target, of one kind, as it stands in `mia_audit`.

    Attributes:
        kind: a `View`, or `SELF_PROMPTS`.
        texts: as in `Amount`.
        tokens: likewise.
    """

    kind: str
    texts: int
    tokens: int


Counts = Mapping[tuple[Role, View], Amount]
"""By the role that attacks name (of several references: the one kind) and the view."""


def together(one: Counts, other: Counts) -> dict[tuple[Role, View], Amount]:
    """What two processes asked, each of its own records: the population is one for all of them."""
    found = dict(one)
    for key, asked in other.items():
        mine = found.get(key, Amount())
        is_shared = key[1] is View.POPULATION
        found[key] = max(mine, asked, key=lambda each: each.tokens) if is_shared else mine + asked
    return found


def of_target(attack: Attack, counts: Counts, self_prompts: Amount) -> tuple[AskedTold, ...]:
    """What an attack asked of the target, each kind by itself.

    Args:
        attack: whose.
        counts: of the whole audit.
        self_prompts: texts that the target wrote for the reference; none of attacks that do without one.
    """
    asked = {
        need.view: counts[need.role, need.view]
        for need in attack.needs
        if need.role is Role.TARGET and (need.role, need.view) in counts
    }
    told = {view.value: asked[view] for view in View if view in asked}
    if self_prompts.texts and any(need.role.kind is Role.REFERENCE for need in attack.needs):
        told[SELF_PROMPTS] = self_prompts
    return tuple(AskedTold(kind, each.texts, each.tokens) for kind, each in told.items())


def known_share(attack: Attack, counts: Counts) -> float:
    """The share of the records' scores that the store told when the run began; NaN of an attack that asks nothing.

    A score rests on all that the attack asks, so that it was known as far as what was known least of that.
    """
    shares = [
        1 - asked.new / asked.tokens
        for need in attack.needs
        if (asked := counts.get((need.role, need.view), Amount())).tokens
    ]
    return min(shares, default=math.nan)
