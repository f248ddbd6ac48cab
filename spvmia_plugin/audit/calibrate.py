"""Puts a model behind the reference roles: self-prompts, training, or what the user names; all through the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from spvmia_plugin.audit.counting import NOT_IN_CONVERSATIONS, NOT_IN_REFERENCE, NOT_IN_SELF_PROMPTS, counting, is_ours
from spvmia_plugin.audit.roles import CALLED, Player
from spvmia_plugin.audit.self_prompts import (
    Expected,
    SelfPrompts,
    TrainingTexts,
    Written,
    blank_of,
    expected_of,
    length_of,
)
from spvmia_plugin.config import AuditConfig, SelfPrompt
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import AuditData, Conversation
from spvmia_plugin.signals import Role
from spvmia_plugin.store.folders import Corpus
from spvmia_plugin.store.store import Store
from spvmia_plugin.training.self_prompt import beginnings, way_of
from spvmia_plugin.util.console import progress_bar


class Calibration:
    """Builds or finds the references of one audit.

    Args:
        data: of the audit.
        config: its settings.
        backend: the target and its relatives.
        registry: plugins, which may make self-prompts and references.
        store: where both are kept.
        on_done: is told a stage of the plan, and the share just done.
        on_known: is told a stage of the plan, and the tokens that it has, once the texts are there.
    """

    def __init__(
        self,
        data: AuditData,
        config: AuditConfig,
        backend: Backend,
        registry: Registry,
        store: Store,
        *,
        on_done: Callable[[str, float], None] = lambda name, share: None,
        on_known: Callable[[str, int], None] = lambda name, tokens: None,
    ) -> None:
        self._data = data
        self._config = config if data.renderer is None else replace(config, block_size=0)  # conversations are no blocks
        self._backend = backend
        self._hook = registry.manager.hook
        self._registry = registry
        self._store = store
        self._on_done = on_done
        self._on_known = on_known
        self.self_prompts_told: SelfPrompts | None = None
        """What the self-prompts are like, once a reference was made of them."""
        self.processes = (backend.processes or 1) if config.reference_parallel else 1
        """How many train a reference together."""

    @property
    def is_foreign(self) -> bool:
        """Whether a plugin makes the self-prompts or the reference, and so what is said of them."""
        hooks = ("spvmia_self_prompt", "spvmia_train_reference")
        return not all(is_ours(name) for hook in hooks for name in self._registry.implementers(hook))

    def check(self) -> None:
        """Make sure that a reference could be trained, before anything is sampled for it.

        Raises:
            SpvmiaError: as `Backend.check_training`; the backend knows nothing of conversations; or it cannot be
                trained by several processes, as was asked.
        """
        self._backend.check_training()
        if self._data.renderer is not None:
            for method, argument in ((self._backend.generate, "complete"), (self._backend.train_reference, "rendered")):
                taken = signature(method).parameters
                if argument not in taken and not any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
                    raise SpvmiaError(
                        f"--model: expected a backend that writes conversations and trains on them, got "
                        f"{self._backend.name!r}, whose {method.__name__} has no argument {argument!r}; use "
                        "'--model hf', or a later version of the plugin"
                    )
        if not self._config.reference_parallel:
            return
        if self._backend.processes is None:
            raise SpvmiaError(
                "mia_reference_parallel: expected a backend that trains in several processes, got "
                f"{self._backend.name!r}; leave the option out"
            )
        trainers = self._registry.implementers("spvmia_train_reference")
        if others := [name for name in trainers if not is_ours(name)]:
            raise SpvmiaError(
                f"mia_reference_parallel: expected our own training of the reference, got that of {others[0]!r}; "
                "leave the option out, or 'spvmia plugins' says how to be rid of the plugin"
            )
        if self._config.reference_batch % self.processes:
            raise SpvmiaError(
                f"mia_reference_batch: expected a multiple of the {self.processes} processes that share it, got "
                f"{self._config.reference_batch}; change it, or leave mia_reference_parallel out"
            )

    def build(self, player: Player) -> dict[str, object]:
        """Put a model behind REFERENCE or CANDIDATE: made, found in the store, or what the user names.

        Returns:
            Its record, JSON-ready.
        """
        kind = self._config.reference
        if not player.trained:
            self._backend.load_reference(player.role, kind)
            return {"kind": kind, "path": kind}
        if player.role is Role.CANDIDATE:
            trained = self._of_candidate
            return {"documents": len(trained.texts), **self._train(player.role, trained)}
        trained = self._of_self_prompts(self.self_prompts())
        self._tell(trained)
        return {"kind": kind, "self_prompts": len(trained.texts), **self._train(player.role, trained)}

    @cached_property
    def way(self) -> SelfPrompt:
        """What the target is given to write from.

        Raises:
            SpvmiaError: `mia_self_prompt` does not go with the data.
        """
        return way_of(self._config, self._data.renderer, self._data.prompts)

    @cached_property
    def _of_candidate(self) -> TrainingTexts:
        return TrainingTexts.of_documents(self._data.of_candidate, self._data.renderer)

    def _of_self_prompts(self, texts: Sequence[str]) -> TrainingTexts:
        return TrainingTexts(texts) if self.way == "prefix" else TrainingTexts.of_store(texts, self._data.renderer)

    def _tell(self, trained: TrainingTexts) -> None:
        """Describe the self-prompts, and refuse those that are too alike: the corpus stays in the store."""
        known = self.way == "prefix" and all(map(is_ours, self._registry.implementers("spvmia_self_prompt")))
        heads = beginnings(self._backend, self._data.prompts, self._config) if known else None
        written = Written.of(trained, self.way, heads)
        self.self_prompts_told = written.told(trained.lengths(self._backend))
        written.check(self.way, self._config, heads, chat=self._data.renderer is not None)

    @cached_property
    def _frame(self) -> tuple[Conversation | None, int | None]:
        return blank_of(self._data), length_of(self._data)

    def expected(self, length: float) -> Expected:
        """What a self-prompt is expected to have; `length` tokens of an audited record."""
        if self._data.renderer is None:
            return Expected(length - self._config.prompt_tokens, length)
        return expected_of(self.way, self._data, self._backend, self._config.prompt_tokens, length)

    def known_tokens(self, player: Player) -> int | None:
        """Tokens of one pass over what a reference is trained on; None where the plan has to estimate them.

        That is where the target has to write the texts first, and for a candidate's plain text.
        """
        if player.role is Role.CANDIDATE:
            return sum(self._of_candidate.lengths(self._backend)) if self._data.renderer is not None else None
        key = self.corpus_key()
        stored = self._store.corpus(key).load()
        if not stored or len(stored) != self._finished_count(key):
            return None
        return sum(self._of_self_prompts([stored[i] for i in sorted(stored)]).lengths(self._backend))

    def self_prompts(self) -> list[str]:
        """The target's own generations: from the store, continued where a killed run stopped."""
        key = self.corpus_key()
        with self._store.lock(key):
            corpus = self._store.corpus(key)
            stored = corpus.load()
            if len(stored) != self._finished_count(key):
                stored |= self._sample(corpus, stored)
                self._store.json.put({key: len(stored)})
            return [stored[i] for i in sorted(stored)]

    def stored_self_prompts(self) -> int:
        """How many the store holds: what the plan counts."""
        return len(self._store.corpus(self.corpus_key()).load())

    def _finished_count(self, key: str) -> int | None:
        """How many texts the finished corpus has; a plugin may give another number than `mia_self_prompts`."""
        return self._store.json.get([key]).get(key)

    def _sample(self, corpus: Corpus, stored: Mapping[int, str]) -> dict[int, str]:
        total = self._config.self_prompts
        kept = set(stored)
        with progress_bar(desc="self-prompting", total=total, unit=" texts", initial=len(stored)) as bar:

            def keep(batch: Mapping[int, str]) -> None:
                corpus.append(batch)
                bar.update(len(batch.keys() - kept))
                self._on_done("self-prompting the target", len(batch.keys() - kept) / max(total - len(stored), 1))
                kept.update(batch)

            texts = self._hook.spvmia_self_prompt(
                backend=self._backend,
                prompts=self._data.prompts,
                config=self._config,
                on_done=keep,
                done=set(stored),
                renderer=self._data.renderer,
                blank=self._frame[0],
                length=self._frame[1],
            )
        made = {i: text for i, text in enumerate(texts) if text is not None}
        corpus.append({i: text for i, text in made.items() if i not in kept})
        return made

    def ready(self, players: Iterable[Player]) -> set[Role]:
        """Those that only have to be loaded. Processes that train together load and train in one order."""
        return set(self._agree({player.role for player in players if self.is_ready(player)} if self._first else None))

    def is_ready(self, player: Player) -> bool:
        """Whether nothing has to be sampled or trained for REFERENCE or CANDIDATE: it only has to be loaded."""
        if not player.trained:
            return True
        if player.role is Role.CANDIDATE:
            return self._is_trained(self._of_candidate)
        key = self.corpus_key()
        stored = self._store.corpus(key).load()
        if len(stored) != self._finished_count(key):
            return False
        return self._is_trained(self._of_self_prompts([stored[i] for i in sorted(stored)]))

    def _is_trained(self, trained: TrainingTexts) -> bool:
        return self._store.find_folder("references", self._key_of(trained)) is not None

    def corpus_key(self) -> str:
        """Store key of the self-prompts: the target, the prompts, the settings; of conversations how they are read."""
        makers = self._registry.implementers("spvmia_self_prompt")
        documents, left_out = self._data.prompts, NOT_IN_SELF_PROMPTS
        conversations: dict[str, object] = {}
        if self.way != "prefix":
            ours, left_out = all(map(is_ours, makers)), NOT_IN_CONVERSATIONS
            conversations = {"way": self.way, "renderer": self._data.renderer.identity()}
            if self.way == "whole" or not ours:
                blank, length = self._frame
                conversations |= {"blank": blank.to_text() if blank is not None else None, "length": length}
            if self.way == "whole" and ours:
                documents = ()  # nothing of them is read
        renderer = self._data.renderer if conversations else None
        return self._store.key(
            "self_prompts",
            target=self._backend.identity(Role.TARGET),
            prompts=[self._store.text_hash(text) for text in TrainingTexts.of_documents(documents, renderer).texts],
            settings=counting(self._config, left_out, makers),
            max_length=self._backend.max_length,
            plugins=makers,
            **conversations,
        )

    def _key_of(self, trained: TrainingTexts) -> str:
        return self.reference_key(trained.texts, rendered=trained.conversations is not None)

    def reference_key(self, texts: Sequence[str], *, rendered: bool = False) -> str:
        """Store key of a trained reference: the base, the texts, the settings; `rendered` texts are conversations."""
        makers = self._registry.implementers("spvmia_train_reference")
        return self._store.key(
            "references",
            base=self._backend.identity(Role.BASE),
            texts=[self._store.text_hash(text) for text in texts],
            settings=counting(self._config, NOT_IN_REFERENCE, makers),
            max_length=self._backend.max_length,
            plugins=makers,
            **({"processes": self.processes} if self.processes > 1 else {}),
            **({"renderer": self._data.renderer.identity()} if rendered else {}),
        )

    def _train(self, role: Role, trained: TrainingTexts) -> dict[str, object]:
        key, name = self._key_of(trained), f"training the {CALLED[role]}"
        first = self._first  # it locks, looks and commits for all that train
        record: dict[str, object] = {"trained": False}
        with self._store.lock(key) if first else nullcontext():
            folder: Path = self._agree(self._store.find_folder("references", key) if first else None)
            if folder is None:
                work: Path = self._agree(self._store.work_folder("references", key) if first else None)
                tokens = sum(trained.lengths(self._backend))
                self._on_known(name, int(tokens * self._config.reference_epochs / self.processes))
                told = self._hook.spvmia_train_reference(
                    backend=self._backend,
                    texts=trained.words(),
                    config=self._config,
                    output_dir=work,
                    rendered=trained.rendered,
                )
                folder = self._agree(self._store.commit_folder("references", key) if first else None)
                record = {"trained": True, **told}
                self._on_done(name, 1.0)
        self._backend.load_reference(role, str(folder))
        return {**record, "folder": folder.name}

    @property
    def _first(self) -> bool:
        return self.processes == 1 or self._backend.first

    def _agree(self, value: Any) -> Any:
        """What the first of the processes that train together says; in any other run, what this one says."""
        return self._backend.agree(value) if self.processes > 1 else value
