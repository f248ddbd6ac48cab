"""What the models say of an audit's records: each sequence once for all attacks, some records at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import partial

from spvmia_plugin.auditing.api_view import ApiView
from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.continuations import COMPARING, STAGE, Continuations
from spvmia_plugin.auditing.gradients import StoredGradients
from spvmia_plugin.auditing.plan import Planner, Stage
from spvmia_plugin.auditing.progress import Progress
from spvmia_plugin.auditing.roles import CALLED, Player
from spvmia_plugin.auditing.sequences import SCORED, Counted, Inputs
from spvmia_plugin.auditing.sheets import Request, Sheet, requests
from spvmia_plugin.auditing.similarity import Similarities
from spvmia_plugin.auditing.standing import Standing
from spvmia_plugin.auditing.stored import StoredSignals
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend, Neighbours, ScoreInput
from spvmia_plugin.records import Record
from spvmia_plugin.signals import WRITTEN, Need, RecordSignals, Role, TokenSignals, View
from spvmia_plugin.store.store import Store


class Scorer:
    """Scores the parts of an audit's records, one after the other.

    Args:
        config: settings.
        backend: the target and its relatives.
        store: what was computed before, and what is computed now.
        standing: which models play, and which of them are there.
        progress: is told how far the work is.
        asked: is told how much was asked of each kind of model for each view.
        quiet: show no progress (another process does).
    """

    def __init__(
        self,
        config: AuditConfig,
        backend: Backend,
        store: Store,
        standing: Standing,
        progress: Progress,
        asked: MutableMapping[tuple[Role, View], Amount],
        *,
        quiet: bool = False,
    ) -> None:
        self.view = ApiView.of(config)
        self._backend = backend
        self._standing = standing
        self._progress = progress
        self._asked = asked
        self._signals = StoredSignals(
            backend, store, quiet=quiet, on_scored=lambda role, n: progress.done(f"scoring: {role.value}", n)
        )
        self._gradients = StoredGradients(
            backend, store, quiet=quiet, on_done=lambda role, n: progress.done(f"gradients: {role.value}", n)
        )
        self._continuations = Continuations(config, backend, store, quiet=quiet, on_done=partial(progress.done, STAGE))
        self._similarities = Similarities(config, store)
        self._sheets: dict[str, Sheet] = {}  # by record id, of the part of the records that was looked at last
        self._population_signals: dict[Role, Sequence[TokenSignals]] = {}
        self._under_other: dict[Role, Sequence[TokenSignals]] = {}  # the same under the other mask

    @property
    def notes(self) -> Sequence[str]:
        """What a reader should know of what the target wrote where records go on."""
        return self._continuations.variety.notes()

    def check(self) -> None:
        """What can be refused before any model is asked for.

        Raises:
            SpvmiaError: no embedding model.
        """
        if self._standing.is_viewed(View.SIMILARITY):
            self._similarities.check()

    def check_gradients(self) -> None:
        """What can be refused of the target and a base that is there.

        Raises:
            SpvmiaError: a model whose gradients cannot be had.
        """
        for player in self._standing.players.values():  # of a model that is to be trained, it shows when it is there
            if View.GRADIENT in player.views and player.model in (Role.TARGET, Role.BASE):
                self._gradients.check(player.model)

    def foresee(
        self,
        planner: Planner,
        records: Sequence[Record],
        inputs: Inputs,
        paraphrases: Mapping[str, Neighbours],
        *,
        first: bool,
    ) -> tuple[list[Stage], list[Request]]:
        """What is to do for a part of the records, and what is scored of it.

        Args:
            planner: counts it.
            records: the part.
            inputs: what models read of them.
            paraphrases: those that are made already.
            first: whether it is the first part, with which the population is scored.
        """
        sheets = self._sheets_of(records, inputs, paraphrases)
        population = [each.item for each in self._population(inputs)] if first else []
        stages, scored = list[Stage](), list[Request]()
        for player in self._standing.players.values():
            model, is_there = player.model, self._standing.is_there(player)
            # Whether a reference equals the target shows once it is there.
            if model is None or (is_there and self._standing.refusal(player) is not None):
                continue
            if not player.views.keys().isdisjoint(WRITTEN):
                stages.append(planner.continuing(self._continuations.missing(records, inputs)))
            if player.views.keys().isdisjoint(SCORED):
                continue
            readable = self._readable(sheets, model, player.views) if is_there else sheets
            asked = requests(player, model, readable, population, is_there=is_there, kth=self._kth(player.role))
            stages.append(planner.scoring(player, asked, self._signals))
            if View.GRADIENT in player.views:
                stages.append(planner.gradients(player, model, readable, self._gradients, is_there=is_there))
            scored += asked
        if not first:
            self._signals.forget()
        return stages, scored

    def lacking(self, needs: Iterable[Need]) -> Counter[str]:
        """Why an attack will not score records of the part that was foreseen last, and how many of them.

        Records that no attack scores, for they are not read at all, are left out.
        """
        needs = sorted(needs, key=lambda need: (need.role.value, need.view.value))
        players = [self._standing.players[need.role] for need in needs if need.role in self._standing.players]
        if absent := next((player for player in players if player.model is None), None):
            return Counter({str(self._standing.refusal(absent)): len(self._sheets)})
        views = list(dict.fromkeys(need.view for need in needs if need.view not in WRITTEN))
        read = [sheet for sheet in self._sheets.values() if views and sheet.lacks(View.TEXT) is None]
        reasons = (next(filter(None, map(sheet.lacks, views)), None) for sheet in read)
        return Counter(reason for reason in reasons if reason is not None)

    def measure(self, asked: Iterable[Request]) -> float | None:
        """Scored tokens a second, from the first batch to do, the target's if possible; None if nothing is scored.

        Where the store has all that models can be asked for by now, as of a second run with another attack, the
        training and the scoring of a reference may be left: then a batch is computed again.
        """
        there = sorted((each for each in asked if each.is_there), key=lambda each: each.role is not Role.TARGET)
        for batch in (self._signals.first_batch, self._signals.batch_again):
            for request in there:
                with self._progress.stage("measuring the speed") as spent:
                    tokens = batch(request)
                if tokens:
                    return tokens / spent.seconds
        return None

    def score(
        self, records: Sequence[Record], inputs: Inputs, paraphrases: Mapping[str, Neighbours], *, last: bool
    ) -> dict[str, RecordSignals]:
        """What attacks see of a part of the records, by record id.

        Args:
            records: the part.
            inputs: what models read of them.
            paraphrases: of each record.
            last: whether no part comes after it.
        """
        sheets = self._sheets_of(records, inputs, paraphrases)
        for role, player in self._standing.players.items():
            model, refusal = player.model, self._standing.refusal(player)
            if model is None or refusal is not None:
                for sheet in sheets:
                    sheet.refuse(role, player.views, str(refusal))
                continue
            if not player.views.keys().isdisjoint(WRITTEN):
                self._continue(player, sheets, inputs)
                if last:
                    self._progress.finish(STAGE)
            if player.views.keys().isdisjoint(SCORED):
                continue
            scored = self._readable(sheets, model, player.views)
            for sheet in set(sheets) - set(scored):
                sheet.refuse(role, player.views, unreadable(model))
            # The population is one for all records: scored with the first of them.
            of_population = [] if role in self._population_signals else self._population(inputs)
            population = [each.item for each in of_population]
            with self._progress.stage(f"scoring: {role.value}"):
                found = self._signals.of(requests(player, model, scored, population, kth=self._kth(role)))
            self._count_asked(player, model, scored, population)
            if role is Role.TARGET:
                found = {item: self.view.seen(item, of_item) for item, of_item in found.items()}
            if last:
                self._progress.finish(f"scoring: {role.value}")
            for sheet in scored:
                sheet.fill(role, player.views, found)
            if View.GRADIENT in player.views:
                self._differentiate(role, model, scored)
            if last:
                self._progress.finish(f"gradients: {role.value}")
            if View.POPULATION in player.views and role not in self._population_signals:
                self._population_signals[role] = [each.seen(found[each.item], other=False) for each in of_population]
                self._under_other[role] = [each.seen(found[each.item], other=True) for each in of_population]
        return {sheet.record.id: sheet.signals(self._population_signals) for sheet in sheets}

    def under_other_mask(self) -> dict[str, RecordSignals]:
        """Signals of the part of the records that was scored last, as the other mask would have attacks see them."""
        found = {id_: sheet.under_other_mask(self._under_other) for id_, sheet in self._sheets.items()}
        return {record_id: each for record_id, each in found.items() if each is not None}

    def of_sequences(self, role: Role, sequences: Sequence[Counted]) -> list[TokenSignals]:
        """What a role's own model says of sequences that are no records'."""
        items = [each.item for each in sequences]
        found = self._signals.of([Request(role, role, list(dict.fromkeys(items)), False)])
        return [found[item] for item in items]

    def forget(self) -> None:
        """Let go of what was read of a part of the records; the store has it."""
        self._signals.forget()
        self._continuations.forget()
        self._sheets = {}

    def _sheets_of(
        self, records: Sequence[Record], inputs: Inputs, paraphrases: Mapping[str, Neighbours]
    ) -> list[Sheet]:
        """Sheets of a part of the records, with such paraphrases as there are; the plan's, if there is one part."""
        if self._sheets.keys() != {record.id for record in records}:
            self._sheets = {record.id: Sheet(record, inputs) for record in records}
        for record_id, found in paraphrases.items():
            self._sheets[record_id].paraphrase(found)
        return list(self._sheets.values())

    def _readable(self, sheets: Sequence[Sheet], model: Role, views: Iterable[View]) -> list[Sheet]:
        """The records of which a model has all tokens."""
        unknown = self._backend.unknown_ids(model)
        if not unknown:
            return list(sheets)
        return [sheet for sheet in sheets if all(is_known(item, unknown) for item in sheet.sequences(views))]

    def _population(self, inputs: Inputs) -> list[Counted]:
        """Held-out documents that every model can read: those of one model are compared with those of another."""
        standing = self._standing
        if not standing.is_viewed(View.POPULATION):
            return []
        models = {player.model for player in standing.players.values() if player.model and standing.is_there(player)}
        unknown = frozenset[int]().union(*map(self._backend.unknown_ids, models))
        return [each for each in inputs.population() if is_known(each.item, unknown)]

    def _kth(self, role: Role) -> int:
        """K, where an interface of K log-probabilities stands before a role's model."""
        return self.view.kth if role is Role.TARGET else 0

    def _count_asked(
        self, player: Player, model: Role, sheets: Sequence[Sheet], population: Sequence[ScoreInput]
    ) -> None:
        """Count what of the part of the records that was just scored each view is, for `mia_audit`."""
        for view in player.views.keys() & SCORED:
            items = population if view is View.POPULATION else [each for s in sheets for each in s.sequences([view])]
            request = Request(player.role, model, list(dict.fromkeys(items)), False, kth=self._kth(player.role))
            self._ask(player, view, self._signals.asked(request))

    def _ask(self, player: Player, view: View, asked: Amount) -> None:
        key = player.role.kind, view
        self._asked[key] = self._asked.get(key, Amount()) + asked

    def _continue(self, player: Player, sheets: Sequence[Sheet], inputs: Inputs) -> None:
        """Have the target write where the records go on, and compare that where it is asked."""
        with self._progress.stage(STAGE):
            written = self._continuations.of([sheet.record for sheet in sheets], inputs)
        for view in WRITTEN & player.views.keys():
            self._asked[player.role.kind, view] = self._continuations.asked
        similarities: Mapping[str, Sequence[float]] = {}
        if View.SIMILARITY in player.views:
            with self._progress.stage(COMPARING):
                similarities = self._similarities.of(written)
        for sheet in sheets:
            found = written[sheet.record.id]
            if isinstance(found, str):
                sheet.refuse(player.role, WRITTEN & player.views.keys(), found)
            else:
                sheet.take_written(player.role, found, similarities.get(sheet.record.id, ()))

    def _differentiate(self, role: Role, model: Role, sheets: Sequence[Sheet]) -> None:
        """Take the gradient of the loss of every record that has one."""
        able = [(sheet, sequence) for sheet in sheets if (sequence := sheet.differentiated()) is not None]
        sequences = [sequence for _, sequence in able]
        with self._progress.stage(f"gradients: {role.value}"):
            norms = self._gradients.of(role, model, sequences)
        self._ask(self._standing.players[role], View.GRADIENT, self._gradients.asked(model, sequences))
        for (sheet, _), norm in zip(able, norms, strict=True):
            sheet.take_gradient(role, norm)


def is_known(item: ScoreInput, unknown: frozenset[int]) -> bool:
    """Whether a model has all tokens of a sequence.

    Args:
        item: the sequence.
        unknown: the tokens that the model does not have.
    """
    return unknown.isdisjoint(item.token_ids) and unknown.isdisjoint(item.context_ids)


def unreadable(model: Role) -> str:
    """Why a record is not scored of which a model lacks tokens."""
    return f"the record uses tokens that the {CALLED[model]} does not have"
