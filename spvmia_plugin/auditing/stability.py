"""How far the list of the most exposed records depends on which reference was drawn (`mia_references`)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

from spvmia_plugin.attacks.base import Attack, AuditAttack, BlindAttack
from spvmia_plugin.auditing.several import Several
from spvmia_plugin.metrics.exposure import agreement
from spvmia_plugin.records import Record
from spvmia_plugin.signals import RecordSignals

TOP = 0.05
"""Of the members, the most exposed share whose lists are compared."""


class Stability:
    """Scores members with some of several references at a time, and compares the lists.

    Args:
        attacks: those that several references make no difference to are passed over, and those that score all
            records at once and look at the single references themselves.
        several: which models there are.
    """

    def __init__(self, attacks: Iterable[Attack], several: Several) -> None:
        self._several = several
        self._attacks = {
            attack.name: attack
            for attack in attacks
            if not isinstance(attack, (AuditAttack, BlindAttack))
            and several.kinds & {need.role for need in attack.needs}
        }
        numbers = range(1, several.count + 1)
        self._choices: dict[str, list[tuple[int, ...]]] = {"single": [(number,) for number in numbers]}
        if several.count >= 4:  # halves of two and more: below they are single ones
            self._choices["halves"] = [tuple(numbers[first::2]) for first in (0, 1)]
        self._scores: dict[tuple[str, tuple[int, ...]], dict[str, float]] = {}

    def add(self, signals: Mapping[str, RecordSignals], records: Sequence[Record]) -> None:
        """Score the members among some records; `signals` by record id, with each role's own."""
        members = {record.id: signals[record.id] for record in records if record.is_member}
        for choice in {choice for choices in self._choices.values() for choice in choices} if self._attacks else ():
            seen = self._several.united(members, choice)
            for name, attack in self._attacks.items():
                scores = zip(seen, attack.score_many(list(seen.values())), strict=True)
                known = {record_id: score for record_id, score in scores if isinstance(score, float)}
                self._scores.setdefault((name, choice), {}).update(known)

    def to_json(self) -> dict[str, dict[str, float]]:
        """By attack: the share in common of the most exposed `share` of the members, in the mean over pairs.

        `single` compares the lists under one reference each, `halves`, of four references and more, those under the
        means of one half of them and the other. Members without a score under one of them are left out.
        """
        told: dict[str, dict[str, float]] = {}
        for name in self._attacks:
            found: dict[str, float] = {}
            for kind, choices in self._choices.items():
                scores = [self._scores.get((name, choice), {}) for choice in choices]
                common = sorted(set.intersection(*map(set, scores)))
                if common:
                    lists = [[of[record_id] for record_id in common] for of in scores]
                    pairs = itertools.combinations(lists, 2)
                    found[kind] = statistics.fmean(agreement(one, other, TOP) for one, other in pairs)
            if found:
                told[name] = {"share": TOP, **found}
        return told
