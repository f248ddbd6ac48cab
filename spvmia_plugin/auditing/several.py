"""Several references as attacks see them: one model that is their mean, and each by itself (`mia_references`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View, mean_signals

Population = Mapping[Role, Sequence[TokenSignals]]
Kinds = Mapping[Role, tuple[Role, ...]]
"""Of a role that several models play, the roles of these."""


@dataclass(frozen=True)
class _Populations:
    """A population by role as it was scored, and what attacks see of it."""

    scored: Population
    kinds: Kinds
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
        """How many references there are, of the kind that has most."""
        return max(map(len, self._kinds.values()), default=1)

    @property
    def kinds(self) -> frozenset[Role]:
        """The roles that several models play."""
        return frozenset(self._kinds)

    def united(
        self, signals: Mapping[str, RecordSignals], numbers: Collection[int] | None = None
    ) -> dict[str, RecordSignals]:
        """What attacks see of records, by id.

        Args:
            signals: by record id, with each role's own. All of a population that is asked for is there.
            numbers: of the models of each kind, those that count; None for all.

        Returns:
            REFERENCE is the mean of REFERENCE, REFERENCE_2, ... token by token, and so is CANDIDATE; where one of them
            is missing, they all are, for its reason. The very records given, where no role has siblings.
        """
        if not self._kinds:
            return dict(signals)
        chosen = {
            kind: tuple(role for role in found if numbers is None or role.nth in numbers)
            for kind, found in self._kinds.items()
        }
        return {record_id: self._united(record, chosen) for record_id, record in signals.items()}

    def _united(self, record: RecordSignals, kinds: Kinds) -> RecordSignals:
        tokens = {key: of for key, of in record.tokens.items() if key[0].kind not in kinds}
        neighbours = {role: of for role, of in record.neighbours.items() if role.kind not in kinds}
        probed = {role: of for role, of in record.probed.items() if role.kind not in kinds}
        missing = {key: why for key, why in record.missing.items() if key[0].kind not in kinds}
        each: dict[tuple[Role, View], tuple[TokenSignals, ...]] = {}
        for kind, siblings in kinds.items():
            for view in View:
                reasons = [record.missing[role, view] for role in siblings if (role, view) in record.missing]
                if reasons:
                    missing[kind, view] = reasons[0]
                found = [record.tokens[role, view] for role in siblings if (role, view) in record.tokens]
                if len(found) == len(siblings):
                    each[kind, view] = tuple(found)
                    tokens[kind, view] = mean_signals(found)
            for given, made in ((record.neighbours, neighbours), (record.probed, probed)):
                of_all = [given[role] for role in siblings if given.get(role)]
                if len(of_all) == len(siblings):
                    made[kind] = [mean_signals(several) for several in zip(*of_all, strict=True)]
        population = self._population(record.population, kinds)
        return replace(
            record,
            tokens=tokens,
            neighbours=neighbours,
            probed=probed,
            population=population.mean,
            missing=missing,
            each=each,
            each_population=population.each,
        )

    def _population(self, scored: Population, kinds: Kinds) -> _Populations:
        """Of the one population of all records, worked out once for each choice of models."""
        for known in self._populations:
            if known.scored is scored and known.kinds == kinds:
                return known
        mean = {role: texts for role, texts in scored.items() if role.kind not in kinds}
        each: dict[Role, Sequence[Sequence[TokenSignals]]] = {}
        for kind, siblings in kinds.items():
            found = [scored[role] for role in siblings if role in scored]
            if len(found) == len(siblings):
                each[kind] = tuple(found)
                mean[kind] = [mean_signals(several) for several in zip(*found, strict=True)]
        self._populations.append(_Populations(scored, kinds, mean, each))
        return self._populations[-1]
