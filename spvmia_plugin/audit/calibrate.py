"""Puts a model behind the reference roles: self-prompts, training, or what the user names; all through the store.

Keys of what is kept hold all settings but those that cannot change it, with the reason beside each. A list of what
counts would miss the next option silently, and the store would answer for another setting. Whoever adds an option
decides here where it cannot count; until then a changed value is a new key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from spvmia_plugin.audit.roles import CALLED, Player
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import AuditData
from spvmia_plugin.signals import Role
from spvmia_plugin.store.folders import Corpus
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.console import progress_bar


class Calibration:
    """Builds or finds the references of one audit; `on_done` is told a stage of the plan, and the share just done."""

    def __init__(
        self,
        data: AuditData,
        config: AuditConfig,
        backend: Backend,
        registry: Registry,
        store: Store,
        *,
        on_done: Callable[[str, float], None] = lambda name, share: None,
    ) -> None:
        self._data = data
        self._config = config
        self._backend = backend
        self._hook = registry.manager.hook
        self._registry = registry
        self._store = store
        self._on_done = on_done
        self.processes = (backend.processes or 1) if config.reference_parallel else 1
        """How many train a reference together."""

    @property
    def is_foreign(self) -> bool:
        """Whether a plugin makes the self-prompts or the reference, and so what is said of them."""
        hooks = ("spvmia_self_prompt", "spvmia_train_reference")
        return any(
            not name.startswith("spvmia-plugin ") for hook in hooks for name in self._registry.implementers(hook)
        )

    def check(self) -> None:
        """Make sure that a reference could be trained, before anything is sampled for it.

        Raises:
            SpvmiaError: as `Backend.check_training`; or it cannot be trained by several processes, as was asked.
        """
        self._backend.check_training()
        if not self._config.reference_parallel:
            return
        if self._backend.processes is None:
            raise SpvmiaError(
                "mia_reference_parallel: expected a backend that trains in several processes, got "
                f"{self._backend.name!r}; leave the option out"
            )
        trainers = self._registry.implementers("spvmia_train_reference")
        if others := [name for name in trainers if not name.startswith(OURS)]:
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
            texts = self._candidate_texts
            return {"documents": len(texts), **self._train(player.role, texts)}
        texts = self.self_prompts()
        return {"kind": kind, "self_prompts": len(texts), **self._train(player.role, texts)}

    @property
    def _candidate_texts(self) -> list[str]:
        return [document.text for document in self._data.candidate]

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
                backend=self._backend, prompts=self._data.prompts, config=self._config, on_done=keep, done=set(stored)
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
            return self._is_trained(self._candidate_texts)
        key = self.corpus_key()
        stored = self._store.corpus(key).load()
        return len(stored) == self._finished_count(key) and self._is_trained([stored[i] for i in sorted(stored)])

    def _is_trained(self, texts: Sequence[str]) -> bool:
        return self._store.find_folder("references", self.reference_key(texts)) is not None

    def corpus_key(self) -> str:
        """Store key of the self-prompts: the target, the prompts, the settings."""
        makers = self._registry.implementers("spvmia_self_prompt")
        return self._store.key(
            "self_prompts",
            target=self._backend.identity(Role.TARGET),
            prompts=[self._store.text_hash(document.text) for document in self._data.prompts],
            settings=counting(self._config, NOT_IN_SELF_PROMPTS, makers),
            max_length=self._backend.max_length,
            plugins=makers,
        )

    def reference_key(self, texts: Sequence[str]) -> str:
        """Store key of a trained reference: the base, the texts, the settings."""
        makers = self._registry.implementers("spvmia_train_reference")
        return self._store.key(
            "references",
            base=self._backend.identity(Role.BASE),
            texts=[self._store.text_hash(text) for text in texts],
            settings=counting(self._config, NOT_IN_REFERENCE, makers),
            max_length=self._backend.max_length,
            plugins=makers,
            **({"processes": self.processes} if self.processes > 1 else {}),
        )

    def _train(self, role: Role, texts: Sequence[str]) -> dict[str, object]:
        key = self.reference_key(texts)
        first = self._first  # it locks, looks and commits for all that train
        record: dict[str, object] = {"trained": False}
        with self._store.lock(key) if first else nullcontext():
            folder: Path = self._agree(self._store.find_folder("references", key) if first else None)
            if folder is None:
                work: Path = self._agree(self._store.work_folder("references", key) if first else None)
                trained = self._hook.spvmia_train_reference(
                    backend=self._backend, texts=texts, config=self._config, output_dir=work
                )
                folder = self._agree(self._store.commit_folder("references", key) if first else None)
                record = {"trained": True, **trained}
                self._on_done(f"training the {CALLED[role]}", 1.0)
        self._backend.load_reference(role, str(folder))
        return {**record, "folder": folder.name}

    @property
    def _first(self) -> bool:
        return self.processes == 1 or self._backend.first

    def _agree(self, value: Any) -> Any:
        """What the first of the processes that train together says; in any other run, what this one says."""
        return self._backend.agree(value) if self.processes > 1 else value


OURS = "spvmia-plugin "
"""What the names of our own implementations of a hook begin with."""

_NEVER = {
    "cache_dir",  # where results are kept
    "log_text",  # what is shown
    "preset",  # values of other options, which are read already
    "given",  # which options were typed: with a default typed out, nothing is computed otherwise
    "max_length",  # keys hold the context that follows from it
}

_DATA = {"members", "nonmembers", "prompts", "candidate", "text_column", "manifest", "dataset_path", "split"}
"""Where texts come from: keys hold the texts themselves."""

_PARAPHRASES = {"perturbation", "perturbations", "mask_rate", "mask_model", "noise"}
"""How records are varied, which neither the target's writing nor a reference ever sees."""

_SCORES = {
    "attack_options",  # what attacks make of signals
    "canary_attack",  # which of them guesses coins
    "max_samples",  # how many records are audited
    "prefix",  # what is read before a record when it is scored; sampling and training go by the tokenizer alone
}

_MODELS = {
    "base_model",  # keys hold the identities of the models that are asked
    "reference",  # says whether there is a self-prompted reference at all, not how it is made
    "trust_remote_code",  # without it a model with code of its own is refused, not loaded otherwise
}

_SAMPLING = {"self_prompts", "prompt_tokens", "temperature", "top_k", "top_p"}
_LORA = {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}
_TRAINING = {"reference_epochs", "reference_lr", "reference_batch", *_LORA}

NOT_IN_SELF_PROMPTS = frozenset(
    _NEVER
    | _DATA
    | _PARAPHRASES
    | _SCORES
    | _MODELS
    | _TRAINING  # comes after the sampling
    | {"reference_parallel"}  # likewise
)
"""What cannot change the texts that our own sampling draws from a given target after given prompts."""

NOT_IN_REFERENCE = frozenset(
    _NEVER
    | _DATA
    | _PARAPHRASES
    | _SCORES
    | _MODELS
    | _SAMPLING  # the key holds the texts that came of it
    | {"block_size"}  # how long these were made; they are trained on as they are
    | {"reference_parallel"}  # the key holds the number of processes
)
"""What cannot change the adapter that our own training makes of a given base and given texts."""


def counting(config: AuditConfig, left_out: frozenset[str], makers: Iterable[str]) -> dict[str, object]:
    """The settings that a result depends on, JSON-ready.

    Args:
        config: of the audit.
        left_out: those that cannot change what our own code makes.
        makers: the distributions that may have made it; another's gets the whole config and may read all of it.
    """
    ours = all(maker.startswith(OURS) for maker in makers)
    skipped = left_out if ours else _NEVER
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in skipped}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
