"""One audit from start to end: check, plan, calibrate, paraphrase, score, attack; each stage once for all attacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from spvmia_plugin.attacks.base import Attack, AuditAttack, BlindAttack
from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.auditing.calibrate import Calibration, prompting
from spvmia_plugin.auditing.fitted_on import Barred, all_barred
from spvmia_plugin.auditing.makers import taking_part
from spvmia_plugin.auditing.masks import CHECKED, IN_WORDS, MaskCheck, Scored
from spvmia_plugin.auditing.neighbours import check_settings, with_changes
from spvmia_plugin.auditing.outcome import Outcome, Results, blind_scores, score_records
from spvmia_plugin.auditing.plan import Planner, Stage, added, reference_stages, render, shorter_by, shortfall
from spvmia_plugin.auditing.progress import Progress
from spvmia_plugin.auditing.roles import CALLED, build_order, cast, check_features, probes, shots
from spvmia_plugin.auditing.scorer import Scorer, is_known, unreadable
from spvmia_plugin.auditing.self_prompts import LEAST_DISTINCT
from spvmia_plugin.auditing.sequences import SCORED, Inputs
from spvmia_plugin.auditing.several import Several
from spvmia_plugin.auditing.shadowed import shadow_note, weights_mark
from spvmia_plugin.auditing.sheets import Request
from spvmia_plugin.auditing.stability import Stability
from spvmia_plugin.auditing.standing import Standing
from spvmia_plugin.auditing.stored import (
    FittingBatches,
    Tally,
    keep_bases,
    paraphrase,
    paraphrase_keys,
    stored_paraphrases,
)
from spvmia_plugin.auditing.tables import Collected
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.chat_templates import digests
from spvmia_plugin.data.conversations import PREFERENCE
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend, BackendFeatures, Neighbours, Perturbation, completed
from spvmia_plugin.records import AuditData, LossOn, Record
from spvmia_plugin.signals import WRITTEN, Role, Unscored, View
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.boundary import is_foreign
from spvmia_plugin.util.console import bars_of, following, show, shown
from spvmia_plugin.util.quotes import Quotes

_LEFT_OUT = (
    ("left_out", "text", "with tokens that the base does not have"),
    ("without_loss", "conversation", "in which no token carries loss"),
)
"""What a reference was not trained on, as its training counts it."""
RECORDS_AT_A_TIME = 2000
"""Records whose sequences and signals are held at once; batches are planned over so many."""


@dataclass(frozen=True)
class Job:
    """One audit that is asked for.

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

    def __init__(self, audit: Job, backend: Backend, registry: Registry, store: Store, *, quiet: bool = False) -> None:
        self.audit = audit
        self.backend = completed(backend, Backend)
        self.registry = registry
        self.store = store
        self.quiet = quiet
        self.outcome = Outcome()
        self.players = cast(audit.attacks.values(), audit.config, audit.data)
        self._standing = Standing(self.players, audit.config, self.backend)
        self._several = Several(self.players)
        self._shots = shots(audit.attacks.values())
        self._probes = probes(audit.attacks.values())
        self._progress = Progress(self.backend, self.players, self.outcome.stages)
        self._scorer = Scorer(
            audit.config, self.backend, store, self._standing, self._progress, self.outcome.asked, quiet=quiet
        )
        self._calibration = Calibration(
            audit.data,
            audit.config,
            self.backend,
            registry,
            store,
            on_done=self._progress.done_share,
            on_known=self._progress.correct,
        )
        self._perturbation: Perturbation | None = None
        self._maker = registry.registered_by("perturbations", audit.config.perturbation)
        self._barred: Mapping[str, Barred] = {}
        self._unmade = 0  # records that the plan found no paraphrases of
        self._lacking: dict[str, Counter[str]] = {}  # by attack, reasons and records that it will not score
        self._beyond = 0  # records longer than the model's context, counted with the plan
        self._batches = FittingBatches(self.backend, store)
        self._quotes = Quotes(lambda: [text for _, text in audit.data.texts()])

    def execute(self) -> Outcome:
        """Run every stage.

        Raises:
            SpvmiaError: something needed is missing; found before long work starts.
        """
        self.check()
        if not self.quiet and (slow := self.backend.slow) is not None:
            show(f"spvmia: warning: {slow}")
        self._compare_shadow()
        data, seed = self.audit.data, self.audit.config.seed
        inputs = Inputs(self.backend, data, self._shots, probes=self._probes, seed=seed)
        if self._shots:
            self.outcome.details["recall"] = {"shots": inputs.shots, "prefix_tokens": len(inputs.prefix)}
        if self.audit.data.renderer is not None:
            read = [record.conversation for record in self.audit.data.records if record.conversation is not None]
            like = next((each for each in read if each.has_parts), read[0] if read else None)
            if like is not None:
                self.outcome.notes += self.audit.data.renderer.notes(
                    like, known=self.audit.data.membership == "manifest"
                )
        if self.audit.data.format == PREFERENCE and self.players and not self._standing.is_viewed(View.REJECTED):
            self.outcome.notes.append(
                "the rows are preferences, and no attack looks at the rejected answers: premia_mia_custom does"
            )
        if inputs.shots < self._shots:
            self.outcome.notes.append(
                f"ReCaLL: {inputs.shots} of {self._shots} shots: no more fit the context or were held out"
            )
        if self.players:
            frame = self.backend.frame("")
            self.outcome.details["frame"] = {name: list(ids) for name, ids in asdict(frame).items()}
            self._build(self._calibration.ready(self._standing.calibrated))
            self.outcome.notes += self._other_templates()
        if self.players and not self.quiet:
            self._show_plan(inputs)
        with following(self._progress.forecast):
            self.calibrate()
            self._paraphrase(inputs)
            self._attack(inputs)
        self.outcome.models = {
            player.role.value: self.backend.identity(player.model)
            for player in self.players.values()
            if player.model is not None
        }
        self.outcome.plugins = taking_part(
            self.registry,
            [attack.name for attack in self.audit.attacks.values()],
            self.backend.name,
            data=self.audit.data.maker,
            perturbation=self._perturbation.name if self._perturbation is not None else None,
            is_calibrated=any(player.trained for player in self.players.values()),
        )
        self.outcome.notes += [*self._kept_texts(), *self._scorer.notes, *self._backend_notes()]
        if told := self.backend.told:
            self.outcome.details["backend"] = dict(told)
        self._batches.forget()
        return self.outcome

    def _compare_shadow(self) -> None:
        """Say, before long work, if weights of a shadow were fitted for another audit than this, or on its records."""
        for name, found in self._barred.items():
            attack = self.audit.attacks[name]
            notes = [found.note]
            if isinstance(attack, Learned) and len(found.records) < len(self.audit.data.records):
                base = weights_mark(self.backend.identity(Role.BASE))
                notes.append(shadow_note(attack.weights.card.settings, self.audit.config, self.audit.data, base))
            for note in notes:
                if note is not None and note not in self.outcome.notes:
                    self.outcome.notes.append(note)
                    if not self.quiet:
                        show(f"spvmia: warning: {note}")

    def check(self) -> None:
        """Everything that can be refused before long work."""
        audit, players = self.audit, self.players.values()
        self._barred = all_barred(audit.attacks, audit.data)
        names = audit.attacks, self.players, audit.config.perturbation
        check_features(*names, self.backend)
        check_features(*names, self.backend, features_of=self._shown_features, view=audit.config.api_view)
        if self._standing.is_viewed(View.NEIGHBOURS):
            self._perturbation = self.registry.perturbation(audit.config)
            self._scorer.view.check(self._perturbation)
            self._perturbation.check()
            check_settings(self._perturbation)
        self._scorer.check()
        keep_bases(self.backend, self.store)
        # A reference that the user names may do without the base.
        paraphrased = self._perturbation is not None and Role.BASE in self._perturbation.roles
        if paraphrased or any(player.trained or player.model is Role.BASE for player in players):
            self.backend.require({Role.BASE})
        self._scorer.check_gradients()
        if players:
            self._batches.recall()
        calibrated = self._standing.calibrated
        if any(player.trained for player in players) and not all(map(self._calibration.is_ready, calibrated)):
            self._calibration.check()

    def check_prompts(self) -> None:
        """What `check` leaves to the sampling: whether the held-out documents can be prompted with.

        Raises:
            SpvmiaError: they cannot.
        """
        if any(player.trained and player.role.kind is Role.REFERENCE for player in self.players.values()):
            self._calibration.check_prompts()

    def _shown_features(self, role: Role) -> BackendFeatures:
        """What attackers can do with a role's model, through the interface that they have of the target."""
        has = self.backend.features_of(role)
        return self._scorer.view.features(has) if role is Role.TARGET else has

    def calibrate(self) -> None:
        """Put models behind REFERENCE and CANDIDATE where they are needed."""
        self._build({player.role for player in self._standing.calibrated})

    def _build(self, roles: set[Role]) -> None:
        for role in sorted(roles - self._standing.built, key=build_order):
            player, name = self.players[role], CALLED[role]
            with self._progress.stage(name):
                made = self._calibration.build(player)
                if role is Role.REFERENCE and player.trained:
                    self.outcome.way = self._calibration.way
                self.outcome.details[role.value] = self._without_text(made, foreign=self._calibration.is_foreign)
                if (told := self._calibration.self_prompts_told) is not None:
                    if role is Role.REFERENCE:  # those of further ones are drawn from the same target
                        self.outcome.details["self_prompts"] = asdict(told)
                    if (asked := self.audit.config.self_prompts) != told.texts:
                        fewer = ": with fewer texts a reference calibrates less" if told.texts < asked else ""
                        self.outcome.notes.append(
                            f"a plugin gave {told.texts} self-prompts for the {name}, and mia_self_prompts asks for "
                            f"{asked}{fewer}"
                        )
                    if told.distinct < LEAST_DISTINCT:  # mia_allow_degenerate
                        self.outcome.notes.append(
                            f"{told.distinct:.0%} of {told.texts} self-prompts differ: a reference that has learnt a "
                            "few texts by heart calibrates little"
                        )
            self._standing.built.add(role)
            prompted = [prompting(role.nth)] if role.kind is Role.REFERENCE else []
            self._progress.finish(*prompted, f"training the {name}")
            # The base of a reference that is ready may be nowhere to be had.
            is_known = player.trained or any(each.model is Role.BASE for each in self.players.values())
            if is_known and self.backend.is_same(role, Role.BASE):
                why = "it learned nothing from its texts" if player.trained else "what it calibrates, the base does"
                self.outcome.notes.append(f"the {name} equals the base: {why}")
            for key, one, why in _LEFT_OUT:
                if count := made.get(key):
                    many = f"{count} {one}{'s' * (count != 1)}"
                    self.outcome.notes.append(f"the {name} was trained without {many} {why}")
            planned = self._progress.planned(f"training the {name}")
            if short := shortfall(name, planned, made, self._calibration.processes):
                self.outcome.notes.append(short)

    def _without_text(self, details: dict[str, object], *, foreign: bool) -> object:
        """What a plugin says of its work, without what quotes a record."""
        return self._quotes.without_any(details) if foreign and not self.audit.config.log_text else details

    def _other_templates(self) -> list[str]:
        """Models whose own chat template is another than the one that conversations are rendered by."""
        if self.audit.data.renderer is None:
            return []
        rendered_by = self.audit.data.renderer.identity().get("template")
        return [
            f"the {CALLED[role]} has another chat template than the one that renders the conversations: it reads the "
            "same tokens as the target"
            for role, template in self.backend.chat_templates.items()
            if template is not None and digests(template) != rendered_by
        ]

    def _kept_texts(self) -> list[str]:
        """Whether nothing of what a target of text alone wrote is of this run, in which nobody saw who answers."""
        is_written = self.outcome.way is not None or any(view in WRITTEN for _, view in self.outcome.asked)
        if not self.backend.is_asked_by_text or not is_written or self.backend.cost(Role.TARGET).batches:
            return []
        return [
            f"all that {self.backend.name} wrote comes from an earlier run, and it was asked for nothing in this one: "
            "other weights behind the same name are not noticed ('spvmia cache clear' has all written anew)"
        ]

    def _backend_notes(self) -> list[str]:
        """What the backend has to say about the models."""
        return [note for note in self.backend.notes if note not in self.outcome.notes]

    def _parts(self) -> Iterator[tuple[Sequence[Record], str]]:
        """The records of this process, some at a time, and which these are: what is known of the others is stored."""
        starts = range(0, len(self.audit.records), RECORDS_AT_A_TIME)
        for number, start in enumerate(starts, 1):
            which = f"part {number} of {len(starts)}" if len(starts) > 1 else ""
            yield self.audit.records[start : start + RECORDS_AT_A_TIME], which

    def _paraphrase(self, inputs: Inputs) -> None:
        """Make all paraphrases; they are kept in the store."""
        if self._perturbation is None:
            return
        tally = Tally(self._perturbation)
        for part, which in self._parts():
            with self._progress.stage("paraphrases"), bars_of(which):
                tally.add(self._paraphrases_of(part, inputs).values())
            inputs.forget()
        self._progress.finish(f"paraphrases ({self._perturbation.name})")
        self.outcome.details["paraphrases"] = self._without_text(
            tally.to_json(), foreign=is_foreign(self._perturbation)
        )

    def _paraphrases_of(self, records: Sequence[Record], inputs: Inputs) -> dict[str, Neighbours]:
        made = self._perturbation
        if made is None:
            return {}
        asked = [(role, self.backend.unknown_ids(role)) for role in made.roles]

        def lacking(record: Record) -> Role | None:
            ids = inputs.tokens_of(record)
            return next((role for role, unknown in asked if not unknown.isdisjoint(ids)), None)

        roles = {record.id: lacking(record) for record in records}
        found = {key: Neighbours((), reason=unreadable(role)) for key, role in roles.items() if role is not None}
        able = [record for record in records if record.id not in found]
        given = paraphrase(
            able,
            made,
            self.backend,
            self.store,
            self.audit.config,
            inputs.loss_on,
            maker=self._maker,
            quiet=self.quiet,
            on_made=lambda count: self._progress.done_share(
                f"paraphrases ({made.name})", count / self._unmade if self._unmade else 0.0
            ),
        )
        if is_foreign(made):  # our own decide that themselves: the released code's variant keeps unchanged ones
            given = {record.id: with_changes(given[record.id], record, inputs) for record in able}
        return found | given

    def _attack(self, inputs: Inputs) -> None:
        """Score the records' sequences and attack them, some records at a time."""
        audit = self.audit
        blind = {
            name: blind_scores(attack, audit.audited, audit.config.seed)
            for name, attack in audit.attacks.items()
            if isinstance(attack, BlindAttack)
        }
        at_once = {name: Collected(each) for name, each in audit.attacks.items() if isinstance(each, AuditAttack)}
        results = {name: Results() for name in audit.attacks}
        scored = Scored(audit.data.format, inputs.loss_on) if inputs.loss_on is not None else None
        # Of a list of which other processes have parts nothing is said.
        is_whole = self._several.count > 1 and len(audit.records) == len(audit.audited)
        stability = Stability(audit.attacks.values(), self._several) if is_whole else None
        long = 0
        for part, which in self._parts():
            with bars_of(which):
                paraphrases = self._paraphrases_of(part, inputs)
                scored_apart = self._scorer.score(part, inputs, paraphrases, last=part[-1] is audit.records[-1])
            signals = self._several.united(scored_apart)
            if stability is not None:
                stability.add(scored_apart, part)
            long += sum(each.is_long for each in signals.values())
            if scored is not None:
                scored.score(audit.attacks, self._several.united(self._scorer.under_other_mask()))
            for name, attack in audit.attacks.items():
                known = at_once[name].add(signals) if name in at_once else blind.get(name)
                of_part = score_records(attack, signals, known)
                if is_foreign(attack) and not audit.config.log_text:
                    of_part = {
                        key: replace(each, reason=self._quotes.without(each.reason)) for key, each in of_part.items()
                    }
                results[name].add(of_part)
            self._scorer.forget()
            inputs.forget()
        for name, collected in at_once.items():
            self._settle(name, collected, results[name])
        if self._several.count > 1:
            agreed = stability.to_json() if stability is not None else {}
            self.outcome.details["references"] = {"count": self._several.count, "agreement": agreed}
        first = next(iter(results.values()), Results())
        self.outcome.results |= {name: each.shares_ids_with(first) for name, each in results.items()}
        if scored is not None:
            self.outcome.details["scored"] = scored.to_json(audit.audited)
            self._check_mask(inputs, scored.loss_on)
            note = scored.note(self.outcome.results, audit.audited)
            self.outcome.notes += [note] if note else []
        if long:
            self.outcome.notes.append(
                f"{long} of {len(audit.records)} records exceed the model's context of {self.backend.max_length} "
                "tokens and were scored in the harness's rolling windows; their scores are less comparable"
            )

    def _settle(self, name: str, collected: Collected, results: Results) -> None:
        """Score the records with an attack that looks at those of all processes together."""
        attack = collected.attack
        features, scores = collected.settle(self.backend, len(self.audit.audited))
        if name in self._barred:
            scores |= {key: why for key, why in self._barred[name].records.items() if key in scores}
        if is_foreign(attack) and not self.audit.config.log_text:
            scores = {
                key: Unscored(str(self._quotes.without(each.reason))) if isinstance(each, Unscored) else each
                for key, each in scores.items()
            }
        known = collected.p_values(features)
        results.settle(
            scores, {key: known[key] for key, each in scores.items() if key in known and not isinstance(each, Unscored)}
        )
        self.outcome.features[name] = features
        self.outcome.told[attack.name] = self._without_text(collected.told(features), foreign=is_foreign(attack))
        self.outcome.notes += collected.notes

    def _check_mask(self, inputs: Inputs, loss_on: LossOn) -> None:
        """Let the held-out conversations say whether the target was trained under this mask; they have no labels.

        Preferences are trained on under one mask alone, and move what carries no loss as they like.
        """
        if self.audit.data.format == PREFERENCE:
            return
        both = [
            self.players[role]
            for role in (Role.TARGET, Role.BASE)
            if role in self.players and View.TEXT in self.players[role].views
        ]
        if len(both) < 2 or any(self._standing.refusal(player) is not None for player in both):
            return
        unknown = self.backend.unknown_ids(Role.BASE)
        sequences = [each for each in inputs.population() if is_known(each.item, unknown)][:CHECKED]
        with self._progress.stage("checking the loss mask"):
            gained = [self._scorer.of_sequences(role, sequences) for role in (Role.TARGET, Role.BASE)]
        check = MaskCheck.of(loss_on, sequences, *gained)
        if check is not None:
            self.outcome.details["loss_mask"] = check.to_json()
            known = self.audit.data.membership == "manifest"  # which says what was trained on
            told = None if known else check.contradiction(loss_on)
            self.outcome.notes += [told] if told else []

    def foresee(self) -> list[Stage]:
        """The stages of the plan, after `check`, without asking a model for anything."""
        seed = self.audit.config.seed
        inputs = Inputs(self.backend, self.audit.data, self._shots, probes=self._probes, seed=seed)
        return self._plan(inputs, counts_lacking=True)[0]

    def _plan(self, inputs: Inputs, *, counts_lacking: bool = False) -> tuple[list[Stage], list[Request]]:
        """The stages of the plan, and what is scored first; for `without_score` what attacks lack is counted."""
        audit, perturbation = self.audit, self._perturbation
        tokens, of_parts, self._beyond = 0, list[Stage](), 0
        self._lacking.clear()
        first: list[Request] = []
        for number, (part, _) in enumerate(self._parts()):
            lengths = {record.id: self._length(record, inputs) for record in part}
            tokens += sum(lengths.values())
            self._beyond += sum(length > self.backend.max_length for length in lengths.values())
            stored: dict[str, Neighbours] = {}
            if perturbation is not None:
                keys = paraphrase_keys(part, perturbation, self.backend, self.store, audit.config, maker=self._maker)
                stored = stored_paraphrases(keys, self.store)
            self._unmade += len(part) - len(stored)
            planner = Planner(lengths, [record.id for record in part if record.id not in stored], audit.config)
            if perturbation is not None:
                of_parts.append(planner.paraphrases(perturbation))
            stages, asked = self._scorer.foresee(planner, part, inputs, stored, first=not number)
            of_parts += stages
            for attack in audit.attacks.values() if counts_lacking else ():
                # One that sees all records at once may do without a part of what it asks for.
                if not isinstance(attack, (BlindAttack, AuditAttack)):
                    self._lacking.setdefault(attack.name, Counter()).update(self._scorer.lacking(attack.needs))
            first = first if number else asked
            inputs.forget()
        mean = tokens / max(len(audit.records), 1)
        references = reference_stages(self.players.values(), audit.config, audit.data, self._calibration, mean)
        return [*references, *added(of_parts)], first

    def _show_plan(self, inputs: Inputs) -> None:
        audit = self.audit
        stages, first = self._plan(inputs)
        rate = self._scorer.measure(first) if any(stage.tokens for stage in stages) else None
        if rate is not None:
            self._progress.follow(stages, rate)
        kind = "" if inputs.loss_on is None else f" ({audit.data.format}, {IN_WORDS[inputs.loss_on]} scored)"
        n = len(audit.attacks)
        attacks = "1 attack" if n == 1 else f"{n} attacks"
        count = f"{len(audit.records):,}"
        if len(audit.records) < len(audit.audited):  # other processes have the rest
            count = f"{count} of {len(audit.audited):,} records in this process,"
        else:
            count = f"{count} records"
        title = f"spvmia: {count} of {shown(audit.data.source)}{kind}, {attacks}"
        notes = [*self._backend_notes(), *self.beyond_context(), *self._to_pay(stages)]
        shorter = shorter_by(stages, audit.config)
        show("\n".join([render(title, stages, rate, shorter), *(f"  note: {note}" for note in notes)]))

    def beyond_context(self) -> list[str]:
        """What the plan knows of records that the model can't read at once, before any is scored."""
        long, most = self._beyond, self.backend.max_length
        if not long or not self._is_scored():
            return []
        cut = "mia_block_size" if self.audit.data.renderer is None else "mia_record_tokens"
        return [
            f"{long} of {len(self.audit.records)} records exceed the model's context of {most} tokens: their scores "
            f"will be less comparable than those of records cut there ({cut}={most})"
        ]

    def without_score(self) -> list[str]:
        """What `foresee` found of records that single attacks will not score."""
        total = len(self.audit.records)
        told = []
        for name, reasons in self._lacking.items():
            many = "none" if (lost := reasons.total()) == total else f"{total - lost:,}"
            why = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
            told += [f"{name} has something to score in {many} of {total:,} records ({why})"] if lost else []
        return told

    def _is_scored(self) -> bool:
        """Whether any model's log-probabilities are asked for."""
        return any(not player.views.keys().isdisjoint(SCORED) for player in self.players.values())

    def _length(self, record: Record, inputs: Inputs) -> int:
        """Tokens of a record; about, where no model reads it in this process and the tokenizer may not be known."""
        is_read = self._perturbation is not None or self._is_scored()
        return len(inputs.tokens_of(record)) if is_read or record.rendered else self.backend.count(record.text)

    def _to_pay(self, stages: Sequence[Stage]) -> list[str]:
        """What is asked of a target of which each text is a request, which somebody may have to pay for."""
        if not self.backend.is_asked_by_text:
            return []
        asked = [stage for stage in stages if stage.sent]
        return [
            f"{sum(stage.count - stage.kept for stage in asked):,} requests to {self.backend.name}: about "
            f"{sum(stage.sent for stage in asked):,} tokens sent, up to {sum(stage.tokens for stage in asked):,} "
            "written"
        ]
