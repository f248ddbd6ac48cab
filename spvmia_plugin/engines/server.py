"""Models behind an OpenAI-style completions server: the harness's `local-completions` and `openai-completions`.

Token ids are sent, and the log-probabilities of these very tokens come back. Whether they do, and are right, is checked
before any work (`self_check`); which weights answer is known by what they answer, and looked at again and again while
the audit runs (`served`). Results are handed on when the weights have been found the same after them: what was computed
by others is never kept under the name of the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import Fault, Ids, Read, Way
from spvmia_plugin.engines.harness_lm import (
    BY_TEXT,
    OTHERWISE,
    connect,
    is_completions,
    is_openai,
    place_of,
    why_not_tokens,
)
from spvmia_plugin.engines.remote import RemoteTarget
from spvmia_plugin.engines.self_check import Checked, SelfCheck, is_text_of, served_models
from spvmia_plugin.engines.served import Known, ServedModels
from spvmia_plugin.engines.served_adapters import ServedAdapters
from spvmia_plugin.engines.served_relatives import PROBE, applied, check_names, difference, told, why_not_read
from spvmia_plugin.engines.writing import Writing
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.scoring import windows_of
from spvmia_plugin.models.tokens import unwrapped
from spvmia_plugin.protocols import BackendFeatures, OnDone, ScoreInput, TokenIds
from spvmia_plugin.signals import Role, TokenSignals

PROBED_EVERY = 20
"""Tokens scored or written between two looks at the weights, in tokens of a look: it costs a twentieth."""
T = TypeVar("T")


class ServerBackend(RemoteTarget):
    """A model behind a completions server. What it does for an audit is said in `Backend`.

    Only attributes of `lm` are used: `base_url`, `header`, `model`, `timeout`, `max_retries`, `_concurrent`,
    `verify_certificate`, `ca_cert_path`, `tokenizer`, `tokenizer_backend`, `tokenized_requests`, `max_length`,
    `prefix_token_id`, `tok_encode`.

    Args:
        lm: the harness's LM, or its caching wrapper.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it.
    """

    name = "server"

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        lm = unwrapped(lm)
        super().__init__(
            lm.tokenizer,
            lm.max_length - 1,  # the harness leaves room for the token that is written, not for the last one read
            config,
            base_model,
            prefix_token_id=lm.prefix_token_id,
            tok_encode=lm.tok_encode,
        )
        self.connection = connect(lm)
        self._place = partial(place_of, lm, config)
        self.at_once = 2 * self.connection.concurrent
        self._models = {Role.TARGET: str(lm.model)}
        if config.base_served is not None:
            if config.base_served == lm.model:
                raise SpvmiaError(
                    f"mia_base_served: expected the name of the model before fine-tuning, got {config.base_served!r}, "
                    "which is that of the target (model=... in --model_args); correct one of the two"
                )
            self._models[Role.BASE] = config.base_served
        self._weights = ServedModels(self.connection, self._tokens)
        self._checks: dict[str, Checked] = {}
        self._identities: dict[Role, dict[str, object]] = {}
        self._adapters = ServedAdapters(self.connection, self.note_once)
        self._served: frozenset[str] | None = None  # what the server says it has, once that was asked for
        self._asked = False  # for the server's own context
        self._writing = Writing(self.connection, self._tokens, config, self.note_once, is_told_all=not is_openai(lm))

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether `lm` is of the harness's completions classes, over the API that they have, and sends token ids."""
        return is_completions(lm) and why_not_tokens(lm) is None

    # -- what the server is

    def is_remote(self, role: Role) -> bool:
        return role in self._models

    def remote_features(self, role: Role) -> BackendFeatures:
        """What the self-check found: without right log-probabilities, a server that takes token ids can still write."""
        found = self.checked(self._models[role])
        return BackendFeatures(
            generate=found.takes_ids, logprobs=found.way is not None, moments=found.moments, embeddings=False
        )

    def lacks(self, role: Role) -> str | None:
        if not self.is_remote(role):
            return None
        found, place = self.checked(self._models[role]), self.connection.shown
        if found.fault is not None:
            return (
                f"base_url: expected a server that says of tokens which it reads what it said when it wrote them, got "
                f"one ({place}) that {found.fault}; {'' if found.takes_ids else BY_TEXT}{OTHERWISE}"
            )
        return f"the server at {place} gives no distributions: {found.no_moments}; use '--model vllm' or '--model hf'"

    def checked(self, model: str) -> Checked:
        """What the self-check says of a model, done once a run.

        Raises:
            SpvmiaError: the server can't be reached, doesn't let us in, or doesn't have the model.
        """
        if model not in self._checks:
            option = "model" if model == self._models[Role.TARGET] else "mia_base_served"
            if not self._asked:
                self._asked = True
                context = served_models(self.connection).get(model)
                if context is not None:
                    self.limit_context(context - 2, "the server")
            if option != "model":
                check_names(self.connection, self._tokens.natural(PROBE)[:8], model)
            self._checks[model] = SelfCheck(self.connection, model, self._tokens, option).run()
        return self._checks[model]

    def _way(self, role: Role) -> Way:
        """How log-probabilities are had.

        Raises:
            SpvmiaError: they can't be.
        """
        found = self.checked(self._models[role])
        if found.way is None:
            raise SpvmiaError(str(self.lacks(role)))
        return found.way

    def _called(self, model: str) -> str:
        """A model's name for all that outlives the run."""
        return self._adapters.called(model)

    @property
    def told(self) -> Mapping[str, object]:
        models: dict[str, object] = {}
        for role, model in self._models.items():
            found = self._checks.get(model)
            if found is None:
                continue
            known = self._weights.seen(model)
            models[role.value] = {
                "model": self._called(model),
                "logprobs_by": found.way.name if found.way is not None else None,
                "self_check": {
                    "largest_difference": found.largest,
                    "decimals": found.decimals,
                    "fault": found.fault,
                },
                "weights": None if known is None else {"spread": known.spread, "tolerance": known.tolerance},
            }
        here = [role.value for role in (Role.BASE, Role.REFERENCE, Role.CANDIDATE) if role not in self._models]
        return {"name": self.name, "server": self.connection.shown, "models": models, "not_served": here}

    @property
    def notes(self) -> Sequence[str]:
        found = [*super().notes, *self._weights.notes]
        target = self._checks.get(self._models[Role.TARGET])
        if target is not None and target.way is not None:
            found.append(
                f"log-probabilities of the target by the server's {target.way.name}; of tokens that it wrote and then "
                f"read they differ by {target.largest:.2g} at most"
            )
        found += self._other_models()
        for model, checked in self._checks.items():
            if checked.decimals is not None:
                found.append(
                    f"{self._called(model)!r} is seen by log-probabilities that the server rounds to "
                    f"{checked.decimals} decimal{'s' * (checked.decimals != 1)}: attacks may find less than its "
                    "weights would show"
                )
        return found

    def _other_models(self) -> list[str]:
        """Answers that say they are of another model than was asked for, if the server has that too.

        Most servers repeat the name, or give a version of it, or that of a file.
        """
        if not self.connection.renamed:
            return []
        if self._served is None:
            self._served = frozenset(served_models(self.connection))
        return [
            f"the server answered for {self._called(asked)!r} in the name of {answered!r}, which it has too: unless "
            "these are two names of one model, another one was audited"
            for asked, answered in sorted(self.connection.renamed)
            if answered in self._served and asked in self._models.values()
        ]

    def remember_base(
        self,
        recall: Callable[[Mapping[str, object]], str | None],
        keep: Callable[[Mapping[str, object], str], None],
    ) -> None:
        """Vectors of served models lie where answers of bases do."""
        self._weights.remember(recall, keep)

    def remote_identity(self, role: Role) -> dict[str, object]:
        """Which weights answer, by what they answer; and the name they are served by, so that two alike stay two.

        Of a server without right log-probabilities nothing tells the weights: then it is the address, hashed.
        """
        if role not in self._identities:
            model = self._models[role]
            way = self.checked(model).way
            called = self._called(model)
            told = (
                {"function": self._adapters.reaching(model, lambda: self._weights.name(model, way, called))}
                if way is not None
                else {"address": self._place()}
            )
            self._identities[role] = {
                "backend": self.name,
                "served": called,
                **told,
                "tokenizer": self.tokenizer_digest,
            }
        return self._identities[role]

    def is_same(self, one: Role, other: Role) -> bool:
        """Without log-probabilities nothing tells."""
        remote = [self._models[role] for role in (one, other) if self.is_remote(role)]
        return all(self.checked(model).way is not None for model in remote) and super().is_same(one, other)

    # -- scoring and writing

    def remote_score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[TokenSignals | None]:
        model = self._models[role]
        way, cost = self._way(role), self._spent[role]
        found: list[TokenSignals | None] = [None] * len(inputs)

        def work(i: int) -> TokenSignals:
            return self._signals(model, way, inputs[i], moments)

        todo = sorted(
            (i for i in range(len(inputs)) if i not in set(done)), key=lambda i: len(inputs[i].token_ids), reverse=True
        )
        sizes = {i: len(inputs[i].token_ids) + len(inputs[i].context_ids) for i in todo}
        each = PROBED_EVERY * self._weights.probe_tokens
        for answered in self._in_parts(role, way, work, todo, sizes, each):
            for i, signals in answered.items():
                found[i] = signals
                cost.forward_tokens += sizes[i]
                cost.batches += 1
            if on_done is not None:
                on_done(answered)
        return found

    def _signals(self, model: str, way: Way, item: ScoreInput, moments: bool) -> TokenSignals:
        """The signals of one sequence, a request a window.

        Raises:
            SpvmiaError: it is embeddings that were asked for, or an answer is no good.
        """
        if item.noise is not None:
            raise SpvmiaError(
                "mia_perturbation: expected a kind that a server can score, got 'embedding', which needs the model's "
                "input embeddings; choose mask_fill or causal"
            )
        sequence = [*item.context_ids, *item.token_ids]
        parts: list[tuple[Read, int]] = []
        for window in windows_of(item, self.max_length):
            ids = sequence[window.start : window.end]
            parts.append((self._ask(model, way, ids, moments), window.end - window.first))
        if not parts:
            nothing = np.zeros(0, np.float32)
            return TokenSignals(nothing, np.zeros(0, bool), *([nothing, nothing] if moments else [None, None]))
        logprob, top1 = (np.concatenate([getattr(r, name)[-n:] for r, n in parts]) for name in ("logprob", "top1"))
        mean, std = (
            np.concatenate([getattr(r, name)[-n:] for r, n in parts]) if moments else None for name in ("mean", "std")
        )
        return TokenSignals(logprob, top1, mean, std, len(parts))

    def _ask(self, model: str, way: Way, ids: Ids, moments: bool) -> Read:
        body = {"model": model, **way.body(ids, moments=moments)}

        def read(answer: Any) -> Read:
            found = way.read(answer, ids, moments=moments)
            if not way.names_ids and not is_text_of(self._tokens, way.text(answer, ids), ids[1:]):
                raise Fault("answers for another text than was sent, as a cache in front of a server may")
            return found

        try:
            return self._adapters.reaching(model, lambda: self.connection.post(body, read))
        except Fault as fault:
            raise SpvmiaError(
                f"base_url: expected a finite log-probability of each of {len(ids)} tokens, got a server "
                f"({self.connection.shown}) that {fault}; see its own log, and run the same command again, which "
                "continues"
            ) from None

    def generate(
        self,
        prompts: Sequence[TokenIds],
        lengths: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        ends: Collection[int] | None = None,
        complete: bool = False,
    ) -> list[list[int] | None]:
        """As `Backend.generate`; of a server that names no ids, a continuation is what its text is cut into."""
        model, cost = self._models[Role.TARGET], self._spent[Role.TARGET]
        found: list[list[int] | None] = [None] * len(prompts)
        lead = [] if complete else self._tokens.lead
        names_ids = self.checked(model).names_ids
        stops = sorted({self._tokens.tokenizer.eos_token_id, *(ends or ())} - {None})

        def work(i: int) -> list[int]:
            room = min(lengths[i] - len(prompts[i]), self.max_length + 1 - len(lead) - len(prompts[i]))
            new = (
                self._writing.continued(model, [*lead, *prompts[i]], room, seeds[i], stops, names_ids=names_ids)
                if room > 0
                else []
            )
            return [*prompts[i], *new]

        todo = [i for i in range(len(prompts)) if i not in set(done)]
        sizes = {i: lengths[i] for i in todo}
        way = self.checked(model).way
        # A look takes less time than one text, which is written token by token.
        for answered in self._in_parts(Role.TARGET, way, work, todo, sizes, 0):
            for i, ids in answered.items():
                found[i] = ids
                cost.generated_tokens += len(ids) - len(prompts[i])
                cost.batches += 1
            if on_done is not None:
                on_done(answered)
        return found

    def _in_parts(
        self,
        role: Role,
        way: Way | None,
        work: Callable[[int], T],
        todo: Sequence[int],
        sizes: Mapping[int, int],
        each: int,
    ) -> Iterator[dict[int, T]]:
        """Results, some at a time, of `each` tokens at least: as computed by the weights that the audit began with."""
        model = self._models[role]
        if way is not None:
            self._adapters.reaching(model, lambda: self._weights.known(model, way))
        while todo:
            started = time.perf_counter()
            count, total = 0, 0
            while count < len(todo) and (total < each or count < 4 * self.connection.concurrent):
                total += sizes[todo[count]]
                count += 1
            part, todo = todo[:count], todo[count:]
            answered: dict[int, T] = {}
            failure: SpvmiaError | None = None
            try:
                for i, result in self.connection.together(work, part):
                    answered[i] = result
            except SpvmiaError as error:
                failure = error
            if way is not None and answered:
                self._adapters.reaching(model, lambda: self._weights.check(model, way))
                self._spent[role].forward_tokens += self._weights.probe_tokens
            self._spent[role].seconds += time.perf_counter() - started
            yield answered
            if failure is not None:  # what came before it is kept
                raise failure

    # -- the base, and references

    def require(self, roles: Iterable[Role]) -> None:
        """As `Backend.require`; and a served base is compared with the one that is named, where that is soon read."""
        asked = set(roles)
        super().require(asked)
        if Role.BASE not in asked or not self.is_remote(Role.BASE):
            return
        why = why_not_read(self.models.base_name)
        if why is None:
            try:
                self.models.host()
            except SpvmiaError as error:  # it has no weights, or brings code
                why = str(error)
            else:
                self._compare_bases()
                self.local.rest()
        if why is not None:
            self.note_once(f"the served base was not compared with the model before fine-tuning: {why}")

    def check_training(self) -> None:
        """As `Backend.check_training`; and what references are trained on is the base that is served."""
        super().check_training()
        if self.is_remote(Role.BASE):
            self._compare_bases()

    def _compare_bases(self) -> None:
        """Make sure that the served base is the model that `mia_base_model` names.

        Raises:
            SpvmiaError: it is not.
        """
        ids = tuple(self._tokens.natural(PROBE))[: self.max_length]
        found = [
            score(Role.BASE, [ScoreInput(ids)], moments=False)[0] for score in (self.remote_score, self.local.score)
        ]
        if found[0] is not None and found[1] is not None:
            self.note_once(told(difference(self._models[Role.BASE], found[0].logprob, found[1].logprob)))

    def load_reference(self, role: Role, path: str) -> None:
        """Served beside a served base, where the server loads adapters and applies them; else read in this process."""
        for known in (self._models, self._identities):
            known.pop(role, None)
        served, why = self._adapters.load(path) if self.is_remote(Role.BASE) else (None, None)
        if served is not None:
            self._checks[served] = self.checked(self._models[Role.BASE])
            if (why := self._why_not_applied(role, served)) is not None:
                self._adapters.unload(served)
                served = None
        if why is not None:
            self.note_once(f"{role.value}: read in this process beside a copy of the base, not by the server: {why}")
        if served is None:
            super().load_reference(role, path)
            return
        self._probed.pop(role, None)
        self._models[role] = served
        self.local.rest()

    def _why_not_applied(self, role: Role, served: str) -> str | None:
        """That the server answers for an adapter as for its base, None if it does not."""
        known: dict[Role, Known] = {}
        for other, model in ((role, served), *((each, self._models[each]) for each in (Role.BASE, Role.TARGET))):
            if (way := self.checked(model).way) is not None:
                known[other] = self._adapters.reaching(model, partial(self._weights.known, model, way))
        why, note = applied(known, role)
        if note is not None:
            self.note_once(note)
        return why

    def close(self) -> None:
        """Take the adapters from the server that it loaded for this run."""
        self._adapters.close()
        self.connection.close()
        super().close()
