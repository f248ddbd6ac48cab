"""Models in this process, run by torch, as a backend: scoring, gradients, replacements, and reference training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import trained_weights
from spvmia_plugin.models.batching import BatchRunner
from spvmia_plugin.models.forward import HeadlessModel, answers_nan, inner_model, looks_back_only
from spvmia_plugin.models.gradients import GradientNorms
from spvmia_plugin.models.identity import EQUAL, NEARLY_EQUAL
from spvmia_plugin.models.local import LocalModels
from spvmia_plugin.models.replacements import Replacer
from spvmia_plugin.models.scoring import Scorer
from spvmia_plugin.models.tokens import TokenisedBackend, Tokens
from spvmia_plugin.protocols import BackendFeatures, Cost, OnDone, ScoreInput, TokenIds
from spvmia_plugin.records import Rendered
from spvmia_plugin.signals import Role, TokenSignals
from spvmia_plugin.training.lora import lora_config, train_lora


class TorchBackend(TokenisedBackend):
    """The models of `roles` as a backend. By itself it has no target: that of a run lies elsewhere.

    Args:
        roles: the models.
        tokens: the target's tokenizer.
        config: settings of the audit.
        device: where the models lie.
        autocast: dtype of the harness's mixed precision, or None.
    """

    name = "hf"
    processes: int = 1
    features = BackendFeatures(generate=False, gradients=True, kth=True)

    def __init__(
        self, roles: LocalModels, tokens: Tokens, config: AuditConfig, device: Any, autocast: Any = None
    ) -> None:
        self._roles = roles
        self._tokens = tokens
        self._config = config
        self._autocast = autocast
        self._costs = {role: Cost() for role in Role}
        self._runners = {name: BatchRunner() for name in ("score", "sample", "generate", "gradients")}
        self._headless: dict[Role, HeadlessModel] = {}
        self._identities: dict[Role, dict[str, object]] = {}
        self._unknown: dict[Role, frozenset[int]] = {}
        self.max_length = tokens.max_length
        self.device = device
        self.paths: dict[str, str] = {}
        """How each role is scored, where that is not the fast path: for provenance."""

    def identity(self, role: Role) -> dict[str, object]:
        """Holds no path: the same weights elsewhere are the same weights.

        Besides what the model is made of, it holds the hash of its answers to fixed tokens: one object computes
        something else after its adapters were swapped, scaled, merged or switched off.
        """
        if role not in self._identities:
            precision = {"autocast": str(self._autocast)} if self._autocast is not None else {}
            self._identities[role] = {
                "backend": self.name,
                **self._roles.identity(role),
                **precision,
                "tokenizer": self._tokens.digest(),
            }
        return self._identities[role]

    def require(self, roles: Iterable[Role]) -> None:
        self._roles.require(roles)

    @property
    def notes(self) -> Sequence[str]:
        return [*self._roles.notes, *(f"{what}: {how}" for what, how in self.paths.items())]

    @property
    def chat_templates(self) -> Mapping[Role, Any]:
        return self._roles.chat_templates

    def is_same(self, one: Role, other: Role) -> bool:
        distance = self._roles.distance(one, other)
        if EQUAL < distance <= NEARLY_EQUAL:
            self._roles.note_once(
                f"{one.value} and {other.value} hardly differ (log-probabilities by up to {distance:.2g} on a probe): "
                "what compares them may score little but round-off"
            )
        return distance <= EQUAL

    def unknown_ids(self, role: Role) -> frozenset[int]:
        if role not in self._unknown:
            self._unknown[role] = self._roles.unknown_ids(role)
        return self._unknown[role]

    def remember_limits(self, known: Mapping[str, int], keep: Callable[[dict[str, int]], None]) -> None:
        for name, runner in self._runners.items():
            runner.limit = known.get(name)
            runner.on_limit = lambda: keep({n: r.limit for n, r in self._runners.items() if r.limit is not None})

    def score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        kth: int = 0,
    ) -> list[TokenSignals | None]:
        with self._model(role) as model:
            scorer = Scorer(model, self._tokens, self._runners["score"], self._costs[role])
            found = scorer.score(inputs, moments=moments, on_done=on_done, done=set(done), kth=kth)
        if not scorer.contexts_shared:
            self.paths[f"{role.value}: contexts"] = "read again with every sequence: no shared key-value cache"
        return found

    def check_gradients(self, role: Role) -> None:
        with self._gradients(role) as norms:
            norms.check()

    def gradient_norms(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        counted: Sequence[NDArray[np.bool_] | None],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[float | None]:
        with self._gradients(role) as norms:
            if not norms.batched:
                self.paths[f"{role.value}: gradients"] = "one text at a time: not only plain linear layers were trained"
            return norms.of(inputs, counted, on_done=on_done, done=set(done))

    @contextmanager
    def _gradients(self, role: Role) -> Iterator[GradientNorms]:
        """Takes gradients under a role's model.

        Raises:
            SpvmiaError: the model has no way back.
        """
        with self._model(role) as model:
            runner, cost = self._runners["gradients"], self._costs[role]
            norms = GradientNorms(model, trained_weights(model.model), self._tokens.pad_id, runner, cost)
            try:
                yield norms
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                    raise
                raise SpvmiaError(
                    f"{role.value}: expected a model whose loss can be differentiated, got {_named(model.model)}, "
                    f"which says: {' '.join(str(error).split())[:200] or type(error).__name__}; leave grad_norm out"
                ) from error

    def sample_replacements(
        self,
        role: Role,
        sequences: Sequence[TokenIds],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        seeds: Sequence[int],
        *,
        complete: bool = False,
    ) -> list[list[NDArray[np.int64]]]:
        with self._model(role) as model:
            runner, cost = self._runners["sample"], self._costs[role]
            replacer = Replacer(model, self._tokens, runner, cost, complete=complete)
            return replacer.draw(sequences, positions, seeds)

    def train_reference(
        self,
        texts: Sequence[str],
        output_dir: Path,
        role: Role = Role.REFERENCE,
        *,
        rendered: Sequence[Rendered] | None = None,
        seed: int | None = None,
    ) -> dict[str, object]:
        """As `Backend.train_reference`. `role` only says whose cost it is.

        Texts with tokens that only the target has are left out; the record counts them as `left_out`. So are
        conversations without a token that carries loss, as `without_loss`.

        Raises:
            SpvmiaError: none is left.
        """
        host = self._roles.host()
        processes = self.processes if self._config.reference_parallel else 1
        unknown = self.unknown_ids(Role.BASE)
        if rendered is None:
            sequences = [self._tokens.natural(text)[: self.max_length] for text in texts]
        else:
            sequences = [list(each.token_ids[: self.max_length]) for each in rendered]
        kept = [i for i, ids in enumerate(sequences) if unknown.isdisjoint(ids)]
        readable = [sequences[i] for i in kept]
        if sequences and not readable:
            raise SpvmiaError(
                f"mia_reference: expected texts to train on that the base can read, got {len(sequences)} that all hold "
                "tokens which only the target has; name a ready reference model, or 'base'"
            )
        record = train_lora(
            host,
            readable,
            self._config if seed is None else dataclasses.replace(self._config, seed=seed),
            output_dir,
            counted=None if rendered is None else [rendered[i].counted[: self.max_length] for i in kept],
            pad_token_id=self._tokens.pad_id,
            base_name=self._roles.base_name,
            processes=processes,
        )
        record = {**record, "left_out": len(sequences) - len(readable)}
        here = 1 - int(str(record["resumed_at"])) / int(str(record["steps"]))  # the rest was trained before a kill
        tokens = round(here * int(str(record["tokens"])) / processes)
        self._costs[role] += Cost(training_tokens=tokens, seconds=float(str(record["seconds"])))
        return record

    def check_training(self) -> None:
        host = self._roles.host()
        host.check_free()
        lora_config(host, self._config, "mia_lora_targets")  # tries them all
        devices = set(map(str, (getattr(host.model, "hf_device_map", None) or {}).values()))
        if self._config.reference_parallel and self.processes > 1 and len(devices) > 1:
            raise SpvmiaError(
                "mia_reference_parallel: expected a model that lies on one device of each process, got one on "
                f"{len(devices)} (parallelize=True); leave one of the two out"
            )

    def load_reference(self, role: Role, path: str) -> None:
        self._headless.pop(role, None)
        self._identities.pop(role, None)
        self._unknown.pop(role, None)
        self._roles.load_reference(role, path)

    def rest(self) -> None:
        """Have no model in memory that nothing needs for now."""
        if self._roles.rest():
            self._headless.clear()

    def cost(self, role: Role) -> Cost:
        return dataclasses.replace(self._costs[role])

    def close(self) -> None:
        self._headless.clear()
        self._roles.close()

    @contextmanager
    def _model(self, role: Role) -> Iterator[HeadlessModel]:
        with self._roles.use(role) as model:
            found = self._headless.get(role)
            if found is None or found.model is not model:
                found = self._headless[role] = self._readable(role, model)
                if not found.exact:
                    self.paths[f"{role.value}: logits"] = "whole batches: the model changes them after its output layer"
            yield found

    def _readable(self, role: Role, model: Any) -> HeadlessModel:
        """The model without its output layer, if token ids are all it takes, and a text's predictions its own.

        Raises:
            SpvmiaError: it cannot be scored.
        """
        try:
            found = HeadlessModel(model, self._autocast)
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                raise
            raise SpvmiaError(
                f"{role.value}: expected a model that predicts from token ids alone, got {_named(model)}, which says: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__}; audit another model"
            ) from error
        if answers_nan(found):
            remedy = (
                "if the audit trained it, lower mia_reference_lr or mia_lora_alpha"
                if role.kind in (Role.REFERENCE, Role.CANDIDATE)
                else "load it in another dtype, or audit another model"
            )
            raise SpvmiaError(
                f"{role.value}: expected log-probabilities, got NaN from {_named(model)}: its training diverged, or "
                f"its precision does not hold its numbers; {remedy}"
            )
        if not looks_back_only(found):
            raise SpvmiaError(
                f"{role.value}: expected a causal language model, got {_named(model)}, whose predictions depend on "
                "what comes after a token or stands in another row of the batch; audit another model"
            )
        return found


def _named(model: Any) -> str:
    """Class of a model, and of its adapter."""
    config = getattr(model, "active_peft_config", None) if hasattr(model, "peft_config") else None
    kind = getattr(config, "peft_type", None)
    name = type(inner_model(model)).__name__
    return f"{name} with an adapter of type {getattr(kind, 'value', kind)}" if kind is not None else name
