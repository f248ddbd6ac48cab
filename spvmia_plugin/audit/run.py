"""One audit from start to end: check, plan, calibrate, paraphrase, score, attack; each stage once for all attacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.audit.calibrate import BASE_AS_REFERENCE, SELF_PROMPT, Calibration
from spvmia_plugin.audit.judge import blind_scores, judge
from spvmia_plugin.audit.outcome import Outcome, Results
from spvmia_plugin.audit.plan import Forecast, Planner, Scoring, Stage, added, render, show
from spvmia_plugin.audit.roles import check_features, union_of_needs
from spvmia_plugin.audit.sequences import Inputs, Sheet, sweeps
from spvmia_plugin.audit.stored import (
    FittingBatches,
    Scorer,
    Tally,
    keep_bases,
    paraphrase,
    paraphrase_keys,
    roles_of,
    stored_paraphrases,
)
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend, Cost, Neighbours, Perturbation, ScoreInput, frame_of, unknown_ids
from spvmia_plugin.records import AuditData, Record
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View
from spvmia_plugin.store import Store
from spvmia_plugin.util.boundary import Quotes, is_foreign
from spvmia_plugin.util.console import shown

RECORDS_AT_A_TIME = 2000
"""Records whose sequences and signals are held at once; batches are planned over so many."""

_CALLED = {
    Role.TARGET: "target",
    Role.BASE: "base",
    Role.REFERENCE: "reference",
    Role.CANDIDATE: "candidate reference",
}


@dataclass(frozen=True)
class Audit:
    """What is asked for.

    Attributes:
        data: all data of the audit.
        config: its settings.
        attacks: by key (the task's name).
        records: those this process scores, a subset of `data.records`.
        audited: those the whole run scores, over all processes: blind attacks are fitted on them.
    """

    data: AuditData
    config: AuditConfig
    attacks: Mapping[str, Attack]
    records: Sequence[Record]
    audited: Sequence[Record]


class Run:
    """Runs one audit on one backend.

    Args:
        audit: what is asked for.
        backend: the target and its relatives.
        registry: plugins.
        store: what was computed before, and what is computed now.
        quiet: show no plan (other ranks do).
    """

    def __init__(
        self, audit: Audit, backend: Backend, registry: Registry, store: Store, *, quiet: bool = False
    ) -> None:
        self.audit = audit
        self.backend = backend
        self.registry = registry
        self.store = store
        self.quiet = quiet
        self.outcome = Outcome()
        self._needs = union_of_needs(audit.attacks)
        self._forecast = Forecast((), 1.0, show)  # of nothing, until there is a plan
        self._scoring: dict[str, int] = {}  # tokens of a stage of the plan
        self._unmade = 0  # records that the plan found no paraphrases of
        self._scorer = Scorer(backend, store, quiet=quiet, on_scored=self._on_scored)
        self._calibration = Calibration(
            audit.data,
            audit.config,
            backend,
            registry,
            store,
            on_done=lambda name, share: self._forecast.done(name, share),
        )
        self._perturbation: Perturbation | None = None
        self._built: set[Role] = set()
        self._population_signals: dict[Role, Sequence[TokenSignals]] = {}
        self._batches = FittingBatches(backend, store)
        self._quotes = Quotes(lambda: [text for _, text in audit.data.texts()])

    @property
    def roles(self) -> set[Role]:
        """The models this audit scores with."""
        return {role for role, _ in self._needs}

    def execute(self) -> Outcome:
        """Run every stage.

        Raises:
            SpvmiaError: something needed is missing; found before long work starts.
        """
        self.check()
        inputs = Inputs(self.backend, self.audit.data, self._shots())
        self._note_shots(inputs)
        if self.roles:
            frame = frame_of(self.backend, "")
            self.outcome.details["frame"] = {name: list(ids) for name, ids in asdict(frame).items()}
            self._build(self._calibration.ready(self._calibrated()))
        if self.roles and not self.quiet:
            self._show_plan(inputs)
        self.calibrate()
        self._paraphrase(inputs)
        self._attack(inputs)
        self.outcome.models = self._identities()
        self.outcome.notes += self._backend_notes()
        self._batches.forget()
        return self.outcome

    def check(self) -> None:
        """Everything that can be refused before long work."""
        check_features(self.audit.attacks, self.audit.config, self.backend.features, self.backend.name)
        if any(view is View.NEIGHBOURS for _, view in self._needs):
            self._perturbation = self.registry.perturbation(self.audit.config)
            self._perturbation.check()
        keep_bases(self.backend, self.store)
        if self._base_needed():
            self.backend.require({Role.BASE})
        if self.roles:
            self._batches.recall()
        if self._trains() and not all(map(self._calibration.is_ready, self._calibrated())):
            self._calibration.check()

    def calibrate(self) -> None:
        """Put models behind REFERENCE and CANDIDATE where they are needed."""
        self._build(self._calibrated())

    def _calibrated(self) -> set[Role]:
        """The roles that need a model besides target and base."""
        found = {Role.REFERENCE} if self.audit.config.reference != BASE_AS_REFERENCE else set()
        return (found | ({Role.CANDIDATE} if self.audit.data.candidate else set())) & self.roles

    def _build(self, roles: set[Role]) -> None:
        for role in sorted(roles - self._built, reverse=True):  # the reference before the candidate
            name = "reference" if role is Role.REFERENCE else "candidate reference"
            with self._stage(
                name, *({Role.TARGET, Role.REFERENCE} if role is Role.REFERENCE else {role, Role.REFERENCE})
            ):
                made = self._calibration.build(role)
                self.outcome.details[role.value] = self._without_text(made, foreign=self._calibration.is_foreign)
            self._built.add(role)
            prompting = ["self-prompting the target"] if role is Role.REFERENCE else []
            self._forecast.finish(*prompting, f"training the {name}")
            if self._is_trained(role) and self._is_same(role, Role.BASE):
                self.outcome.notes.append(f"the {name} equals the base: it learned nothing from its texts")
            if left_out := made.get("left_out"):
                self.outcome.notes.append(
                    f"the {name} was trained without {left_out} texts that use tokens which the base does not have"
                )

    def _without_text(self, details: dict[str, object], *, foreign: bool) -> object:
        """What a plugin says of its work, without what quotes a record."""
        return self._quotes.without_any(details) if foreign and not self.audit.config.log_text else details

    def _base_needed(self) -> bool:
        """Whether something is scored, paraphrased or trained with the base. A named reference may do without."""
        config = self.audit.config
        calibrated = Role.REFERENCE in self.roles and config.reference in (SELF_PROMPT, BASE_AS_REFERENCE)
        paraphrased = self._perturbation is not None and Role.BASE in roles_of(self._perturbation)
        return Role.BASE in self.roles or calibrated or paraphrased or self._trains()

    def _trains(self) -> bool:
        return any(self._is_trained(role) for role in (Role.REFERENCE, Role.CANDIDATE))

    def _is_trained(self, role: Role) -> bool:
        """Whether the audit trains the model of REFERENCE or CANDIDATE, or did so before."""
        asked = (
            bool(self.audit.data.candidate) if role is Role.CANDIDATE else self.audit.config.reference == SELF_PROMPT
        )
        return role in self.roles and asked

    def _identities(self) -> dict[str, object]:
        """What stood behind each role that was scored."""
        models = {role.value: self._model_of(role) for role in sorted(self.roles)}
        return {name: self.backend.identity(model) for name, model in models.items() if model is not None}

    def _model_of(self, role: Role) -> Role | None:
        """The role whose model is scored: the base stands in for the reference where the user asked for that."""
        if role is Role.REFERENCE and self.audit.config.reference == BASE_AS_REFERENCE:
            return Role.BASE
        if role is Role.CANDIDATE and not self.audit.data.candidate:
            return None
        return role

    def _is_same(self, one: Role, other: Role) -> bool:
        """Whether two models compute one function; a backend that can't say is taken to hold different ones."""
        ask = getattr(self.backend, "is_same", None)
        return bool(ask is not None and ask(one, other))

    def _refusal(self, role: Role) -> str | None:
        """Why a role gives nothing for any record: what is not there, or can't be told from the target."""
        model = self._model_of(role)
        if model is None:
            return "mia_candidate is not given"
        if model is Role.TARGET or not self._is_same(Role.TARGET, model):
            return None
        return "the target is the base" if model is Role.BASE else f"the {_CALLED[model]} is the target"

    def _backend_notes(self) -> list[str]:
        """What the backend has to say about the models."""
        return [note for note in getattr(self.backend, "notes", ()) if note not in self.outcome.notes]

    def _shots(self) -> int:
        return max((getattr(attack, "shots", 0) for attack in self.audit.attacks.values()), default=0)

    def _parts(self) -> Iterator[Sequence[Record]]:
        """The records of this process, some at a time: what is known of the others lies in the store."""
        for start in range(0, len(self.audit.records), RECORDS_AT_A_TIME):
            yield self.audit.records[start : start + RECORDS_AT_A_TIME]

    def _paraphrase(self, inputs: Inputs) -> None:
        """Make all paraphrases; they are kept in the store."""
        if self._perturbation is None:
            return
        tally = Tally(self._perturbation)
        for part in self._parts():
            with self._stage("paraphrases", Role.BASE):
                tally.add(self._paraphrases_of(part, inputs).values())
            inputs.forget()
        self._forecast.finish(f"paraphrases ({self._perturbation.name})")
        self.outcome.details["paraphrases"] = self._without_text(
            tally.to_json(), foreign=is_foreign(self._perturbation)
        )

    def _paraphrases_of(self, records: Sequence[Record], inputs: Inputs) -> dict[str, Neighbours]:
        if self._perturbation is None:
            return {}
        asked = [(role, unknown_ids(self.backend, role)) for role in roles_of(self._perturbation)]

        def lacking(record: Record) -> Role | None:
            ids = inputs.tokens_of(record)
            return next((role for role, unknown in asked if not unknown.isdisjoint(ids)), None)

        roles = {record.id: lacking(record) for record in records}
        found = {key: Neighbours((), reason=_unreadable(role)) for key, role in roles.items() if role is not None}
        able = [record for record in records if record.id not in found]
        return found | paraphrase(
            able,
            self._perturbation,
            self.backend,
            self.store,
            self.audit.config,
            quiet=self.quiet,
            on_made=self._on_paraphrased,
        )

    def _attack(self, inputs: Inputs) -> None:
        """Score the records' sequences and attack them, some records at a time."""
        audit = self.audit
        blind = {
            name: blind_scores(attack, audit.audited, audit.config.seed)
            for name, attack in audit.attacks.items()
            if isinstance(attack, BlindAttack)
        }
        results = {name: Results() for name in audit.attacks}
        long = 0
        for part in self._parts():
            signals = self._score(part, inputs, last=part[-1] is audit.records[-1])
            long += sum(each.is_long for each in signals.values())
            for name, attack in audit.attacks.items():
                judged = judge(attack, signals, blind.get(name))
                if is_foreign(attack) and not audit.config.log_text:
                    judged = {
                        key: replace(each, reason=self._quotes.without(each.reason)) for key, each in judged.items()
                    }
                results[name].add(judged)
            self._scorer.forget()
            inputs.forget()
        first = next(iter(results.values()), Results())
        self.outcome.results |= {name: each.shares_ids_with(first) for name, each in results.items()}
        if long:
            self.outcome.notes.append(
                f"{long} of {len(audit.records)} records exceed the model's context of {self.backend.max_length} "
                "tokens and were scored in the harness's rolling windows; their scores are less comparable"
            )

    def _score(self, records: Sequence[Record], inputs: Inputs, *, last: bool) -> dict[str, RecordSignals]:
        neighbours = self._paraphrases_of(records, inputs)
        sheets = {record.id: Sheet(record, inputs, neighbours.get(record.id)) for record in records}
        for role in sorted(self.roles):
            model, views, refusal = self._model_of(role), self._views_of(role), self._refusal(role)
            if model is None or refusal is not None:
                for sheet in sheets.values():
                    sheet.refuse(role, views, str(refusal))
                continue
            scored = self._readable(sheets.values(), model, views)
            for sheet in set(sheets.values()) - set(scored):
                sheet.refuse(role, views, _unreadable(model))
            # The population is one for all records: scored with the first of them.
            population = [] if role in self._population_signals else self._population(inputs)
            found: dict[ScoreInput, TokenSignals] = {}
            with self._stage(f"scoring: {role.value}", model):
                for sweep in sweeps(views, scored, population):
                    found |= self._scorer.score(model, sweep.inputs, moments=sweep.moments, part_of=role)
            if last:
                self._forecast.finish(f"scoring: {role.value}")
            for sheet in scored:
                sheet.fill(role, views, found)
            if View.POPULATION in views and role not in self._population_signals:
                self._population_signals[role] = [found[item] for item in population]
        return {key: sheet.signals(self._population_signals) for key, sheet in sheets.items()}

    def _on_paraphrased(self, count: int) -> None:
        if self._perturbation is not None and self._unmade:
            self._forecast.done(f"paraphrases ({self._perturbation.name})", count / self._unmade)

    def _on_scored(self, role: Role, tokens: int) -> None:
        name = f"scoring: {role.value}"
        if self._scoring.get(name):
            self._forecast.done(name, tokens / self._scoring[name])

    def _views_of(self, role: Role) -> dict[View, bool]:
        return {view: moments for (r, view), moments in self._needs.items() if r is role}

    def _readable(self, sheets: Iterable[Sheet], model: Role, views: Mapping[View, bool]) -> list[Sheet]:
        """The records of which a model has all tokens."""
        unknown = unknown_ids(self.backend, model)
        return [sheet for sheet in sheets if all(_is_known(item, unknown) for item in sheet.inputs(list(views)))]

    def _population(self, inputs: Inputs) -> list[ScoreInput]:
        """Held-out documents that every model can read: those of one model are compared with those of another."""
        if not any(view is View.POPULATION for _, view in self._needs):
            return []
        models = {model for role in self.roles if (model := self._model_of(role)) is not None and self._is_there(model)}
        unknown = frozenset[int]().union(*(unknown_ids(self.backend, model) for model in models))
        return [item for item in inputs.population() if _is_known(item, unknown)]

    def _note_shots(self, inputs: Inputs) -> None:
        if self._shots():
            self.outcome.details["recall"] = {"shots": inputs.shots, "prefix_tokens": len(inputs.prefix)}
        if inputs.shots < self._shots():
            self.outcome.notes.append(
                f"ReCaLL: {inputs.shots} of {self._shots()} shots: no more fit the context or were held out"
            )

    def _show_plan(self, inputs: Inputs) -> None:
        audit = self.audit
        # Whether a reference equals the target shows once it is there.
        scored = [role for role in sorted(self.roles) if self._model_of(role) is not None]
        scored = [role for role in scored if not self._is_there(self._model_of(role)) or self._refusal(role) is None]
        tokens, of_parts = 0, list[Stage]()
        first: list[Scoring] = []
        for number, part in enumerate(self._parts()):
            neighbours = self._stored_neighbours(part)
            self._unmade += len(part) - len(neighbours)
            planner = Planner(part, inputs, neighbours, audit.config)
            if self._perturbation is not None:
                of_parts.append(planner.paraphrases(self._perturbation))
            works = [self._work(role, planner, [] if number else self._population(inputs)) for role in scored]
            of_parts += [planner.scoring(work, self._scorer) for work in works]
            tokens += planner.tokens
            first = first or works  # the first batch of all is that of the first records
            if number:
                self._scorer.forget()
            inputs.forget()
        mean = tokens / max(len(audit.records), 1)
        planner = Planner((), inputs, {}, audit.config)
        stages = [*planner.references(audit.data, self._calibration, self.roles, mean), *added(of_parts)]
        rate = self._measure(first) if any(stage.tokens for stage in stages) else None
        if rate is not None:
            self._forecast = Forecast(stages, rate, show)
            self._scoring = {stage.name: stage.tokens for stage in stages}
        title = f"spvmia: {len(audit.records):,} records of {shown(audit.data.source)}, {len(audit.attacks)} attacks"
        show("\n".join([render(title, stages, rate), *(f"  note: {note}" for note in self._backend_notes())]))

    def _stored_neighbours(self, records: Sequence[Record]) -> dict[str, Neighbours]:
        if self._perturbation is None:
            return {}
        keys = paraphrase_keys(records, self._perturbation, self.backend, self.store, self.audit.config)
        return stored_paraphrases(keys, self.store)

    def _work(self, role: Role, planner: Planner, population: Sequence[ScoreInput]) -> Scoring:
        model, views = self._model_of(role), self._views_of(role)
        if model is None or not self._is_there(model):
            return Scoring(role, None, views, sweeps(views, planner.sheets, population))
        readable = self._readable(planner.sheets, model, views)
        return Scoring(role, model, views, sweeps(views, readable, population))

    def _is_there(self, model: Role | None) -> bool:
        return model in (Role.TARGET, Role.BASE) or model in self._built

    def _measure(self, works: Sequence[Scoring]) -> float | None:
        """Scored tokens a second, from the first batch to do, the target's if possible; None if there is none."""
        for work in sorted(works, key=lambda work: work.role is not Role.TARGET):
            for sweep in work.sweeps if work.model is not None else ():
                with self._stage("measuring the speed", work.model or work.role) as spent:
                    tokens = self._scorer.first_batch(work.model or work.role, sweep.inputs, moments=sweep.moments)
                if tokens:
                    return tokens / spent.seconds
        return None

    @contextmanager
    def _stage(self, name: str, *roles: Role) -> Iterator[Cost]:
        """Count what a stage, or a part of it, costs: the models' own counts, and the wall clock."""
        before = [self.backend.cost(role) for role in roles]
        started = time.perf_counter()
        self._forecast.begin()
        spent = Cost()
        yield spent
        for role, earlier in zip(roles, before, strict=True):
            spent += _difference(self.backend.cost(role), earlier)
        spent.seconds = time.perf_counter() - started
        self.outcome.stages.setdefault(name, Cost()).__iadd__(spent)


def _is_known(item: ScoreInput, unknown: frozenset[int]) -> bool:
    return unknown.isdisjoint(item.token_ids) and unknown.isdisjoint(item.context_ids)


def _unreadable(model: Role) -> str:
    return f"the record uses tokens that the {_CALLED[model]} does not have"


def _difference(after: Cost, before: Cost) -> Cost:
    return Cost(**{name: getattr(after, name) - getattr(before, name) for name in Cost.__dataclass_fields__})
