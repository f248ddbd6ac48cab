"""The sequences of records by view, the signals found for them, and what of them one model scores in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.auditing.roles import Player
from spvmia_plugin.auditing.sequences import SCORED, Counted, Inputs
from spvmia_plugin.protocols import Neighbours, ScoreInput
from spvmia_plugin.records import Record
from spvmia_plugin.signals import WRITTEN, Continued, RecordSignals, Role, TokenSignals, View

_APART = WRITTEN | {View.POPULATION}
"""Views that are no sequences of the record."""


class Sheet:
    """The sequences of one record by view, made when they are asked for, and the signals found for them.

    Args:
        record: whose sequences.
        inputs: makes them.
    """

    def __init__(self, record: Record, inputs: Inputs) -> None:
        self.record = record
        self._inputs = inputs
        self._sequences: dict[View, Counted | str] = {}  # of the views that are one a record, or why there is none
        self._paraphrases: list[Counted] = []
        self._no_paraphrases: str | None = None
        self._tokens: dict[tuple[Role, View], TokenSignals] = {}
        self._of_paraphrases: dict[Role, Sequence[TokenSignals]] = {}
        self._probed: list[Counted] | str | None = None  # None: not asked for yet
        self._of_probed: dict[Role, Sequence[TokenSignals]] = {}
        self._gradients: dict[Role, float] = {}
        self._continued: dict[Role, Continued] = {}
        self._similarities: dict[Role, Sequence[float]] = {}
        self._missing: dict[tuple[Role, View], str] = {}

    def paraphrase(self, found: Neighbours) -> None:
        """Take the record's paraphrases."""
        made = [self._inputs.neighbour(self.record, variant) for variant in found.variants]
        self._paraphrases = [each for each in made if isinstance(each, Counted)]
        self._no_paraphrases = next((each for each in made if isinstance(each, str)), found.reason)

    def sequences(self, views: Iterable[View]) -> list[ScoreInput]:
        """The record's own sequences of some views, as far as they exist."""
        found: list[ScoreInput] = []
        for view in views:
            if view is View.NEIGHBOURS:
                found += [each.item for each in self._paraphrases]
            elif view is View.PROBED:
                found += [each.item for each in self._probes()]
            elif view not in _APART and isinstance(of_view := self._sequence(view), Counted):
                found.append(of_view.item)
        return found

    def lacks(self, view: View) -> str | None:
        """Why there is no sequence of a view, as far as shows before any model is asked; None if there is one."""
        if view in _APART or view is View.NEIGHBOURS:
            return None
        if view is View.PROBED:
            return self._probed if not self._probes() and isinstance(self._probed, str) else None
        found = self._sequence(view)
        return found if isinstance(found, str) else None

    def fill(self, role: Role, views: Iterable[View], found: Mapping[ScoreInput, TokenSignals]) -> None:
        """Take from `found` what a role's views of this record are."""
        for view in views:
            if view is View.NEIGHBOURS:
                self._of_paraphrases[role] = [found[each.item] for each in self._paraphrases]
                if self._no_paraphrases:
                    self._missing[role, view] = self._no_paraphrases
            elif view is View.PROBED:
                self._of_probed[role] = [found[each.item] for each in self._probes()]
                if isinstance(self._probed, str):
                    self._missing[role, view] = self._probed
            elif view not in _APART:
                of_view = self._sequence(view)
                if isinstance(of_view, str):
                    self._missing[role, view] = of_view
                elif view is not View.GRADIENT:  # which is a number, and comes by itself
                    self._tokens[role, view] = found[of_view.item]

    def differentiated(self) -> Counted | None:
        """The sequence whose loss has a gradient, if there is one."""
        found = self._sequence(View.GRADIENT)
        return found if isinstance(found, Counted) else None

    def take_gradient(self, role: Role, norm: float) -> None:
        """Take the norm of that gradient under a role's model."""
        self._gradients[role] = norm

    def take_written(self, role: Role, continued: Continued, similarities: Sequence[float]) -> None:
        """Take what a role's model wrote in place of the second half, and how alike that is, where it was asked."""
        self._continued[role], self._similarities[role] = continued, similarities

    def refuse(self, role: Role, views: Iterable[View], reason: str) -> None:
        """Note why a role gives nothing."""
        self._missing |= {(role, view): reason for view in views}

    def signals(self, population: Mapping[Role, Sequence[TokenSignals]]) -> RecordSignals:
        """What attacks get to see of the record: the tokens that count."""
        return self._seen(population, other=False)

    def under_other_mask(self, population: Mapping[Role, Sequence[TokenSignals]]) -> RecordSignals | None:
        """What they would see under the other mask; None where that is not known.

        And where there is none: the loss of preferences stands on the two answers, whoever trains on them.
        """
        if self.record.rendered is not None and self.record.rendered.rejected is not None:
            return None
        known = [each for each in self._sequences.values() if isinstance(each, Counted)]
        known += [*self._paraphrases, *(self._probes() if self._of_probed else ())]
        return None if any(each.other is None for each in known) else self._seen(population, other=True)

    def _seen(self, population: Mapping[Role, Sequence[TokenSignals]], *, other: bool) -> RecordSignals:
        text = self._inputs.scored_text(self.record, other=other)
        if self._inputs.loss_on is None:
            return RecordSignals(
                text,
                self._tokens,
                self._of_paraphrases,
                population,
                self._missing,
                probed=self._of_probed,
                gradients=self._gradients,
                **self._written(),
            )
        of_views = {view: of_view for view, of_view in self._sequences.items() if isinstance(of_view, Counted)}
        tokens = {key: of_views[key[1]].seen(found, other=other) for key, found in self._tokens.items()}
        neighbours = {
            role: [each.seen(one, other=other) for each, one in zip(self._paraphrases, found, strict=True)]
            for role, found in self._of_paraphrases.items()
        }
        probed = {
            role: [each.seen(one, other=other) for each, one in zip(self._probes(), found, strict=True)]
            for role, found in self._of_probed.items()
        }
        # The gradient is that of the loss under this mask; the other's would be another pass.
        gradients = {} if other else self._gradients
        written = {} if other else self._written()
        known = tokens, neighbours, population, self._missing
        return RecordSignals(text, *known, probed=probed, gradients=gradients, **written)

    def _written(self) -> dict[str, Any]:
        return {"continued": self._continued, "similarities": self._similarities}

    def _probes(self) -> list[Counted]:
        if self._probed is None:
            self._probed = self._inputs.probed(self.record)
        return [] if isinstance(self._probed, str) else self._probed

    def _sequence(self, view: View) -> Counted | str:
        if view not in self._sequences:
            self._sequences[view] = self._inputs.of(self.record, view)
        return self._sequences[view]


@dataclass(frozen=True)
class Request:
    """Distinct sequences that one model scores in one go: batches are planned over them.

    Attributes:
        role: whom the signals are for.
        model: the role whose model scores them.
        inputs: the sequences.
        moments: whether mean and standard deviation over the vocabulary are needed.
        is_there: whether the model can be asked; one that is to be trained cannot, when the plan is made.
        kth: K, where the log-probability of the K-th most probable token is needed; else 0.
    """

    role: Role
    model: Role
    inputs: Sequence[ScoreInput]
    moments: bool
    is_there: bool = True
    kth: int = 0


def requests(
    player: Player,
    model: Role,
    sheets: Sequence[Sheet],
    population: Sequence[ScoreInput],
    *,
    is_there: bool = True,
    kth: int = 0,
) -> list[Request]:
    """All sequences of one role's views, each once.

    Paraphrases go last and by themselves. They are not there yet when the first batch of the others is scored to
    measure the speed, and that batch has to be the one which the whole request has.
    """
    seen: dict[ScoreInput, bool] = {}
    found = []
    for paraphrases in (False, True):
        for moments in (True, False):
            wanted = [view for view, asked in player.views.items() if asked is moments and view in SCORED]
            wanted = [view for view in wanted if (view is View.NEIGHBOURS) is paraphrases]
            sequences = [item for sheet in sheets for item in sheet.sequences(wanted)]
            sequences += population if View.POPULATION in wanted else []
            new = [item for item in dict.fromkeys(sequences) if item not in seen or (moments and not seen[item])]
            seen |= dict.fromkeys(new, moments)
            found += [Request(player.role, model, new, moments, is_there, kth)] if new else []
    return found
