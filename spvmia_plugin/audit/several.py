"""Several references as attacks see them: one model that is their mean, and each by itself (`mia_references`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View, mean_signals

Population = Mapping[Role, Sequence[TokenSignals]]


@dataclass(frozen=True)
class _Populations:
    """A population by role as it was scored, and what attacks see of it."""

    scored: Population
    mean: Population
    each: Mapping[Role, Sequence[Sequence[TokenSignals]]]


class Several:
    """Which roles are one for attacks.

    Args:
        roles: those that are scored.
    """

    def __init__(self, roles: Iterable[Role]) -> None:
        siblings: dict[Role, tuple[Role, ...]] = {}
        for role in sorted(roles, key=lambda role: role.nth):
            siblings[role.kind] = (*siblings.get(role.kind, ()), role)
        self._kinds = {kind: found for kind, found in siblings.items() if len(found) > 1}
        self._populations: list[_Populations] = []

    @property
    def count(self) -> int:
        """How many references there are of the kind that has most."""
        return max(map(len, self._kinds.values()), default=1)

    def united(self, signals: Mapping[str, RecordSignals]) -> dict[str, RecordSignals]:
        """What attacks see of records, by id.

        Args:
            signals: by record id, with each role's own. All of a population that is asked for is there.

        Returns:
            REFERENCE is the mean of REFERENCE, REFERENCE_2, ... token by token, and so is CANDIDATE; where one of them
            is missing, they all are, for its reason. The very records given, where no role has siblings.
        """
        if not self._kinds:
            return dict(signals)
        return {record_id: self._united(record) for record_id, record in signals.items()}

    def alone(self, signals: Mapping[str, RecordSignals], nth: int) -> dict[str, RecordSignals]:
        """What attacks would see with the nth of several references, and the nth candidate, and no others."""
        chosen = {found[nth - 1]: kind for kind, found in self._kinds.items() if len(found) >= nth}
        others = {role for found in self._kinds.values() for role in found} - chosen.keys()
        called = {role: chosen.get(role, role) for role in Role if role not in others}
        populations: dict[int, Population] = {}
        found: dict[str, RecordSignals] = {}
        for record_id, record in signals.items():
            whole = record.population
            if id(whole) not in populations:  # one and the same for all records
                populations[id(whole)] = {called[role]: texts for role, texts in whole.items() if role in called}
            found[record_id] = RecordSignals(
                record.text,
                {(called[role], view): of for (role, view), of in record.tokens.items() if role in called},
                {called[role]: of for role, of in record.neighbours.items() if role in called},
                populations[id(whole)],
                {(called[role], view): why for (role, view), why in record.missing.items() if role in called},
            )
        return found

    def _united(self, record: RecordSignals) -> RecordSignals:
        tokens = {key: of for key, of in record.tokens.items() if key[0].kind not in self._kinds}
        neighbours = {role: of for role, of in record.neighbours.items() if role.kind not in self._kinds}
        missing = {key: why for key, why in record.missing.items() if key[0].kind not in self._kinds}
        each: dict[tuple[Role, View], tuple[TokenSignals, ...]] = {}
        for kind, siblings in self._kinds.items():
            for view in View:
                reasons = [record.missing[role, view] for role in siblings if (role, view) in record.missing]
                if reasons:
                    missing[kind, view] = reasons[0]
                found = [record.tokens[role, view] for role in siblings if (role, view) in record.tokens]
                if len(found) == len(siblings):
                    each[kind, view] = tuple(found)
                    tokens[kind, view] = mean_signals(found)
            paraphrases = [record.neighbours[role] for role in siblings if record.neighbours.get(role)]
            if len(paraphrases) == len(siblings):
                neighbours[kind] = [mean_signals(several) for several in zip(*paraphrases, strict=True)]
        populations = self._population(record.population)
        return replace(
            record,
            tokens=tokens,
            neighbours=neighbours,
            missing=missing,
            each=each,
            population=populations.mean,
            each_population=populations.each,
        )

    def _population(self, scored: Population) -> _Populations:
        """Of the one population of all records, worked out once."""
        known = next((each for each in self._populations if each.scored is scored), None)
        if known is not None:
            return known
        mean = {role: texts for role, texts in scored.items() if role.kind not in self._kinds}
        each: dict[Role, Sequence[Sequence[TokenSignals]]] = {}
        for kind, siblings in self._kinds.items():
            found = [scored[role] for role in siblings if role in scored]
            if len(found) == len(siblings):
                each[kind] = tuple(found)
                mean[kind] = [mean_signals(several) for several in zip(*found, strict=True)]
        made = _Populations(scored, mean, each)
        self._populations.append(made)
        return made
