"""Puts a model behind the reference roles: self-prompts, training, or what the user names; all through the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.auditing.counting import (
    NOT_IN_CONVERSATIONS,
    NOT_IN_REFERENCE,
    NOT_IN_SELF_PROMPTS,
    counting,
    is_ours,
)
from spvmia_plugin.auditing.makers import to_correct
from spvmia_plugin.auditing.roles import CALLED, Player
from spvmia_plugin.auditing.self_prompts import (
    Expected,
    SelfPrompts,
    TrainingTexts,
    Written,
    blank_of,
    check_batch,
    expected_of,
    length_of,
    written_texts,
)
from spvmia_plugin.config import AuditConfig, SelfPrompt
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend, takes
from spvmia_plugin.records import AuditData, Conversation, Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role
from spvmia_plugin.store.folders import Corpus
from spvmia_plugin.store.store import Store
from spvmia_plugin.training.self_prompt import beginnings, way_of
from spvmia_plugin.util.console import Bar, bars_called


def prompting(nth: int) -> str:
    """The plan's stage in which the nth reference's texts are written."""
    return "self-prompting the target" if nth == 1 else f"self-prompting the target ({nth})"


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
        self._candidates: dict[int, TrainingTexts] = {}
        self.self_prompts_told: SelfPrompts | None = None
        """What the self-prompts are like, if the reference that was built last was made of them."""
        self.processes = (backend.processes or 1) if config.reference_parallel else 1
        """How many train a reference together."""

    @property
    def is_foreign(self) -> bool:
        """Whether a plugin makes the self-prompts or the reference, and so what is said of them."""
        hooks = ("spvmia_self_prompt", "spvmia_train_reference")
        return not all(map(self._is_ours, hooks))

    def check(self) -> None:
        """Make sure that a reference could be trained, before anything is sampled for it.

        Raises:
            SpvmiaError: as `Backend.check_training`; the backend knows nothing of conversations, or of seeds where
                several references are asked for; or it cannot be trained by several processes, as was asked.
        """
        self._backend.check_training()
        ours = self._is_ours("spvmia_train_reference")
        if self._config.references > 1 and ours and not takes(self._backend.train_reference, "seed"):
            raise SpvmiaError(
                "mia_references: expected a backend that trains each reference by a seed of its own, got "
                f"{self._backend.name!r}, whose train_reference has no argument 'seed'; use '--model hf', a later "
                "version of the plugin, or leave the option out"
            )
        if self._data.renderer is not None:
            for method, argument in ((self._backend.generate, "complete"), (self._backend.train_reference, "rendered")):
                if not takes(method, argument):
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
        kind, role = self._config.reference, player.role
        self.self_prompts_told = None
        if not player.trained:
            self._backend.load_reference(role, kind)
            return {"kind": kind, "path": kind}
        if role.kind is Role.CANDIDATE:
            trained = self._of_candidate(role.nth)
            return {"documents": len(trained.texts), **self._train(role, trained)}
        trained = self._of_self_prompts(self.self_prompts(role.nth))
        self._tell(trained, role.nth)
        return {"kind": kind, "self_prompts": len(trained.texts), **self._train(role, trained)}

    def _settings(self, nth: int) -> AuditConfig:
        """What the nth reference of a kind is made with: the audit's settings, after the first with another seed."""
        if nth == 1:
            return self._config
        return replace(self._config, seed=stable_seed(self._config.seed, "reference", nth))

    def check_prompts(self) -> None:
        """Make sure that the target can be prompted with the held-out documents. All of them are read for it.

        Raises:
            SpvmiaError: as `training.self_prompt.self_prompt`.
        """
        if self.way == "prefix" and self._is_ours("spvmia_self_prompt"):
            beginnings(self._backend, self._prompts(1), self._config)

    def _prompts(self, nth: int) -> Sequence[Document]:
        """The held-out documents, of further references in an order of their own: fewer texts begin with others."""
        prompts = self._data.prompts
        if nth == 1:
            return prompts
        generator = np.random.default_rng(stable_seed(self._config.seed, "prompts", nth))
        return [prompts[i] for i in generator.permutation(len(prompts))]

    @cached_property
    def way(self) -> SelfPrompt:
        """What the target is given to write from.

        Raises:
            SpvmiaError: `mia_self_prompt` does not go with the data.
        """
        return way_of(self._config, self._data.renderer, self._data.prompts)

    def _of_candidate(self, nth: int) -> TrainingTexts:
        """What the nth candidate is trained on: a draw of its own where more is held out than one takes, else all."""
        if nth not in self._candidates:
            documents = self._data.of_candidate
            one = len(documents) if self._data.candidate else self._config.self_prompts
            if nth > 1 and len(documents) > one:
                generator = np.random.default_rng(stable_seed(self._config.seed, "held_out", nth))
                documents = tuple(documents[i] for i in generator.permutation(len(documents)))
            self._candidates[nth] = TrainingTexts.of_documents(documents[:one], self._data.renderer)
        return self._candidates[nth]

    def candidate_documents(self) -> int:
        """How many documents a candidate is trained on."""
        return len(self._of_candidate(1).texts)

    def _of_self_prompts(self, texts: Sequence[str]) -> TrainingTexts:
        return TrainingTexts(texts) if self.way == "prefix" else TrainingTexts.of_store(texts, self._data.renderer)

    def _tell(self, trained: TrainingTexts, nth: int) -> None:
        """Describe the self-prompts, and refuse those that are too alike: the corpus stays in the store."""
        known = self.way == "prefix" and self._is_ours("spvmia_self_prompt")
        heads = beginnings(self._backend, self._prompts(nth), self._config) if known else None
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
        if player.role.kind is Role.CANDIDATE:
            known = self._of_candidate(player.role.nth) if self._data.renderer is not None else None
            return None if known is None else sum(known.lengths(self._backend))
        key = self.corpus_key(player.role.nth)
        stored = self._store.corpus(key).load()
        if not stored or len(stored) != self._finished_count(key):
            return None
        return sum(self._of_self_prompts([stored[i] for i in sorted(stored)]).lengths(self._backend))

    def self_prompts(self, nth: int = 1) -> list[str]:
        """The target's own generations: from the store, continued where a killed run stopped.

        Args:
            nth: of which reference: each has a draw of its own.
        """
        key = self.corpus_key(nth)
        with self._store.lock(key):
            corpus = self._store.corpus(key)
            stored = corpus.load()
            if len(stored) != self._finished_count(key):
                stored = self._sample(corpus, stored, nth) | stored
                self._store.json.put({key: len(stored)})
            return [stored[i] for i in sorted(stored)]

    def stored_self_prompts(self, nth: int = 1) -> int:
        """How many the store holds of the nth reference's: what the plan counts."""
        return len(self._store.corpus(self.corpus_key(nth)).load())

    def _finished_count(self, key: str) -> int | None:
        """How many texts the finished corpus has; a plugin may give another number than `mia_self_prompts`."""
        return self._store.json.get([key]).get(key)

    def _sample(self, corpus: Corpus, stored: Mapping[int, str], nth: int) -> dict[int, str]:
        total = self._config.self_prompts
        kept, told = set(stored), dict[int, str]()
        makers = self._registry.implementers("spvmia_self_prompt")
        with Bar(desc=prompting(nth), total=total, unit="texts", initial=len(stored)) as bar:

            def keep(batch: Mapping[int, str]) -> None:
                check_batch(batch, makers)
                corpus.append(batch)
                self._on_done(prompting(nth), len(batch.keys() - kept) / max(total - len(stored), 1))
                bar.update(len(batch.keys() - kept))
                kept.update(batch)
                told.update({position: text for position, text in batch.items() if position not in told})

            texts = self._hook.spvmia_self_prompt(
                backend=self._backend,
                prompts=self._prompts(nth),
                config=self._settings(nth),
                on_done=keep,
                done=set(stored),
                renderer=self._data.renderer,
                blank=self._frame[0],
                length=self._frame[1],
            )
        made = written_texts(texts, kept, makers)
        corpus.append({i: text for i, text in made.items() if i not in kept})
        return made | told  # as the store keeps them: what was told first

    def ready(self, players: Iterable[Player]) -> set[Role]:
        """Those that only have to be loaded. Processes that train together load and train in one order."""
        return set(self._agree({player.role for player in players if self.is_ready(player)} if self._first else None))

    def is_ready(self, player: Player) -> bool:
        """Whether nothing has to be sampled or trained for REFERENCE or CANDIDATE: it only has to be loaded."""
        if not player.trained:
            return True
        nth = player.role.nth
        if player.role.kind is Role.CANDIDATE:
            return self._is_trained(self._of_candidate(nth), nth)
        key = self.corpus_key(nth)
        stored = self._store.corpus(key).load()
        if len(stored) != self._finished_count(key):
            return False
        return self._is_trained(self._of_self_prompts([stored[i] for i in sorted(stored)]), nth)

    def _is_trained(self, trained: TrainingTexts, nth: int) -> bool:
        return self._store.find_folder("references", self._key_of(trained, nth)) is not None

    def corpus_key(self, nth: int = 1) -> str:
        """Store key of the nth reference's self-prompts.

        It holds the target, the prompts and the settings, with the reference's own seed; of conversations how they are
        read.
        """
        makers = self._registry.implementers("spvmia_self_prompt")
        documents, left_out = self._prompts(nth), NOT_IN_SELF_PROMPTS
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
            settings=counting(self._settings(nth), left_out, makers),
            max_length=self._backend.max_length,
            plugins=makers,
            **conversations,
        )

    def _key_of(self, trained: TrainingTexts, nth: int) -> str:
        return self.reference_key(trained.texts, nth, rendered=trained.conversations is not None)

    def reference_key(self, texts: Sequence[str], nth: int = 1, *, rendered: bool = False) -> str:
        """Store key of the nth trained reference of a kind.

        It holds the base, the texts and the settings, with the reference's own seed; `rendered` texts are
        conversations.
        """
        makers = self._registry.implementers("spvmia_train_reference")
        return self._store.key(
            "references",
            base=self._backend.identity(Role.BASE),
            texts=[self._store.text_hash(text) for text in texts],
            settings=counting(self._settings(nth), NOT_IN_REFERENCE, makers),
            max_length=self._backend.max_length,
            plugins=makers,
            **({"processes": self.processes} if self.processes > 1 else {}),
            **({"renderer": self._data.renderer.identity()} if rendered else {}),
        )

    def _train(self, role: Role, trained: TrainingTexts) -> dict[str, object]:
        key, name = self._key_of(trained, role.nth), f"training the {CALLED[role]}"
        first = self._first  # it locks, looks and commits for all that train
        record: dict[str, object] = {"trained": False}
        with self._store.lock(key) if first else nullcontext():
            folder: Path = self._agree(self._store.find_folder("references", key) if first else None)
            if folder is None:
                work: Path = self._agree(self._store.work_folder("references", key) if first else None)
                tokens = sum(trained.lengths(self._backend))
                self._on_known(name, int(tokens * self._config.reference_epochs / self.processes))
                with bars_called(name):
                    told = self._hook.spvmia_train_reference(
                        backend=self._backend,
                        texts=trained.words(),
                        config=self._settings(role.nth),
                        output_dir=work,
                        rendered=trained.rendered,
                    )
                told = self._checked(told, work)
                folder = self._agree(self._store.commit_folder("references", key) if first else None)
                record = {"trained": True, **told}
                self._on_done(name, 1.0)
        self._load(role, key, folder)
        return {**record, "folder": folder.name}

    def _load(self, role: Role, key: str, folder: Path) -> None:
        """Put a reference that was trained behind its role. One of a plugin that is none is not kept.

        Raises:
            SpvmiaError: as `Backend.load_reference`, by the plugin's name where it may have written the reference.
        """
        try:
            self._backend.load_reference(role, str(folder))
        except SpvmiaError as error:
            if self._is_ours("spvmia_train_reference"):
                raise
            why = str(error).rpartition("; ")[0] or str(error)  # without what to do about an option
        else:
            return
        if self._first:
            with self._store.lock(key):
                self._store.drop_folder("references", key)
        raise self._not_trained(f"a reference in output_dir that can be loaded, got another ({why})")

    def _not_trained(self, wrong: str) -> SpvmiaError:
        makers = self._registry.implementers("spvmia_train_reference")
        return SpvmiaError(f"spvmia_train_reference: expected {wrong}; {to_correct(makers)}")

    def _is_ours(self, hook: str) -> bool:
        """Whether nobody but we implement a hook."""
        return all(map(is_ours, self._registry.implementers(hook)))

    def _checked(self, told: object, work: Path) -> dict[str, object]:
        """What is said of a reference by what trained it, which may be a plugin.

        Raises:
            SpvmiaError: that is nothing that a results file can hold, or there is no reference in `work`.
        """
        record: dict[str, object] = {}
        wrong = None
        if isinstance(told, Mapping):
            record = dict(told)
            try:
                json.dumps(record)
            except (TypeError, ValueError) as error:
                wrong = f"a mapping for mia_audit that JSON holds, got one that it does not ({type(error).__name__})"
        else:
            wrong = f"a mapping for mia_audit, got {type(told).__name__}"
        if self._first and not any(work.iterdir()):
            wrong = "a reference in output_dir, got nothing there"
        if wrong is not None:
            raise self._not_trained(wrong)
        return record

    @property
    def _first(self) -> bool:
        return self.processes == 1 or self._backend.first

    def _agree(self, value: Any) -> Any:
        """What the first of the processes that train together says; in any other run, what this one says."""
        return self._backend.agree(value) if self.processes > 1 else value
