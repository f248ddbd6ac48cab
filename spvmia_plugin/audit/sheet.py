"""One record's sequences and signals while an audit collects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spvmia_plugin.audit.inputs import Inputs
from spvmia_plugin.protocols import Neighbours, ScoreInput
from spvmia_plugin.records import Record
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

PER_RECORD = (View.TEXT, View.LOWERCASE, View.PREFIXED)
"""The views that are one sequence a record."""


class Sheet:
    """The sequences of one record by view, and the signals found for them, role by role."""

    def __init__(self, record: Record, inputs: Inputs, neighbours: Neighbours | None) -> None:
        self.record = record
        self._views = {view: inputs.of(record, view) for view in PER_RECORD}
        self._neighbours = [inputs.neighbour(record, variant) for variant in neighbours.variants] if neighbours else []
        self._no_neighbours = neighbours.reason if neighbours else None
        self._tokens: dict[tuple[Role, View], TokenSignals] = {}
        self._of_neighbours: dict[Role, Sequence[TokenSignals]] = {}
        self._missing: dict[tuple[Role, View], str] = {}

    def inputs(self, views: Sequence[View]) -> list[ScoreInput]:
        """The sequences of the given views that exist."""
        single = [item for view in views if isinstance(item := self._views.get(view), ScoreInput)]
        return single + (self._neighbours if View.NEIGHBOURS in views else [])

    def fill(self, role: Role, views: Mapping[View, bool], found: Mapping[ScoreInput, TokenSignals]) -> None:
        """Take from `found` what a role's views of this record are."""
        for view in views:
            item = self._views.get(view)
            if isinstance(item, ScoreInput):
                self._tokens[role, view] = found[item]
            elif isinstance(item, str):
                self._missing[role, view] = item
        if View.NEIGHBOURS in views:
            self._of_neighbours[role] = [found[item] for item in self._neighbours]
            if self._no_neighbours:
                self._missing[role, View.NEIGHBOURS] = self._no_neighbours

    def refuse(self, role: Role, views: Mapping[View, bool], reason: str) -> None:
        """Note why a role gives nothing."""
        self._missing |= {(role, view): reason for view in views}

    def signals(self, population: Mapping[Role, Sequence[TokenSignals]]) -> RecordSignals:
        """What attacks get to see of the record."""
        return RecordSignals(self.record.text, self._tokens, self._of_neighbours, population, self._missing)
