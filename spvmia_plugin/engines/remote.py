"""A target that lies elsewhere, and its base and references in this process.

What is asked of the target goes to an engine; what is asked of the base and of references to torch. An engine may serve
some of these as well, and then says so role by role. At most one copy of the base is in memory, and none before an
attack needs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import TEXT
from spvmia_plugin.models.local import LocalModels
from spvmia_plugin.models.tokens import Reader, TokenisedBackend, Tokens
from spvmia_plugin.models.torch_backend import TorchBackend
from spvmia_plugin.protocols import BackendFeatures, Cost, OnDone, ScoreInput, TokenIds
from spvmia_plugin.records import Rendered
from spvmia_plugin.signals import Role, TokenSignals

SAME = 1e-3
"""Log-probabilities of one model by two engines in float32 differ by less, in nats (vLLM and torch: by 2e-5)."""
ALIKE = 0.1
"""Mean difference, in nats a token, below which two models may be one that bfloat16 engines round otherwise: for one
model it was .05, and .24 at most."""


class RemoteTarget(TokenisedBackend):
    """Base of backends whose target is no model of this process.

    A subclass overrides `remote_features`, `remote_identity`, `remote_score` and `generate`, and where its engine has
    more models than the target `is_remote`, `require` and `load_reference`. Nothing of it is asked for in the
    constructor: no request is sent, no model is loaded.

    Args:
        tokenizer: the target's, of transformers.
        max_length: how many tokens the engine reads to predict the next one.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it.
        prefix_token_id: the harness's prefix token, or None.
        tok_encode: how the harness reads a text.
        dtype: the precision in which the base is read here, where the user names none: the engine's, if that is known.
        revision: of the base on the hub.
    """

    features = BackendFeatures(moments=False, embeddings=False)
    processes: int = 1

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        config: AuditConfig,
        base_model: str | None = None,
        *,
        prefix_token_id: int | None = None,
        tok_encode: Callable[[str], Sequence[int]] | None = None,
        dtype: Any = "auto",
        revision: str | None = None,
    ) -> None:
        self._config = config
        reader = Reader(
            tokenizer,
            max_length,
            prefix_token_id,
            tok_encode or (lambda text: self._tokens.natural(text)),
            lambda: self.models.host().model,
        )
        self._tokens = Tokens(reader, config.max_length, config.prefix)
        self.device = local_device()
        self.models = LocalModels(
            self._tokens,
            config.base_model or base_model,
            device=self.device,
            trusted=config.trust_remote_code,
            dtype=config.dtype or dtype,
            revision=revision,
        )
        self.local = TorchBackend(self.models, self._tokens, config, self.device)
        self._spent = {role: Cost() for role in Role}
        self._own_notes: list[str] = []
        self._probed: dict[Role, NDArray[np.float32]] = {}
        self.max_length = self._tokens.max_length

    def is_remote(self, role: Role) -> bool:
        """Whether the engine has the model of a role."""
        return role is Role.TARGET

    def remote_features(self, role: Role) -> BackendFeatures:
        """What the engine can do with a model that it has."""
        return self.features

    def remote_identity(self, role: Role) -> dict[str, object]:
        """See `Backend.identity`, of a model that the engine has."""
        raise self._unable()

    def remote_score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[TokenSignals | None]:
        """See `Backend.score`, of a model that the engine has."""
        raise self._unable()

    def features_of(self, role: Role) -> BackendFeatures:
        """See `Backend.features_of`. References are trained here, whoever reads with them."""
        if not self.is_remote(role):
            return self.local.features
        return dataclasses.replace(self.remote_features(role), train=True, gradients=False, embeddings=False)

    def limit_context(self, max_length: int, whose: str) -> None:
        """Read no more tokens than this at once: `whose` context is shorter than was thought.

        Raises:
            SpvmiaError: `mia_max_length` asks for more.
        """
        if max_length >= self.max_length:
            return
        if self._config.max_length is not None:
            raise SpvmiaError(
                f"mia_max_length: expected at most {max_length}, which is what {whose} can read, got "
                f"{self._config.max_length}; lower it or leave it out"
            )
        self.max_length = self.local.max_length = self._tokens.max_length = max_length
        self.note_once(f"texts are read {max_length} tokens at a time: {whose} has no longer context")

    def note_once(self, note: str) -> None:
        """Keep what a reader of the results should know, however often it is found."""
        if note not in self._own_notes:
            self._own_notes.append(note)

    @property
    def notes(self) -> Sequence[str]:
        if not self.is_remote(Role.BASE) and (dtype := self.models.loaded) is not None:
            apart = "" if dtype == "float32" else ": two engines in it differ by about .05 nats a token on one model"
            self.note_once(f"the base is read in this process, by torch in {dtype} on {self.device.type}{apart}")
        return [*self._own_notes, *self.local.notes]

    @property
    def slow(self) -> str | None:
        return self.models.slow

    @property
    def chat_templates(self) -> Mapping[Role, Any]:
        return self.models.chat_templates

    def identity(self, role: Role) -> dict[str, object]:
        """Of a model of this process as `--model hf` has it: what was computed for one audit is there for the other."""
        return self.remote_identity(role) if self.is_remote(role) else self.local.identity(role)

    def require(self, roles: Iterable[Role]) -> None:
        asked = [role for role in roles if not self.is_remote(role)]
        self.local.require(asked)
        if Role.BASE in asked and (context := self.models.context()) is not None:
            self.limit_context(context, "mia_base_model")

    def is_same(self, one: Role, other: Role) -> bool:
        """Two engines round otherwise: what both answer to a probe is compared with `SAME`.

        A target that hardly differs is told of: between engines of bfloat16, the difference may be nothing but that.
        """
        if not self.is_remote(one) and not self.is_remote(other):
            return self.local.is_same(one, other)
        apart = np.abs(self.probed(one) - self.probed(other))
        if apart.max(initial=0.0) > SAME and apart.mean() <= ALIKE:
            self.note_once(
                f"{one.value} and {other.value} hardly differ: by {apart.mean():.2g} nats a token on a probe, at most "
                f"{apart.max():.2g}. Two engines, or one in bfloat16, differ by about .05 on one and the same model"
            )
        return bool(apart.max(initial=0.0) <= SAME)

    def probed(self, role: Role) -> NDArray[np.float32]:
        """What a role's model answers to a text of some of everything: log-probabilities, (T,)."""
        if role not in self._probed:
            ids = tuple(self._tokens.natural(TEXT))[: self.max_length]
            (found,) = self.score(role, [ScoreInput(ids)], moments=False)
            self._probed[role] = np.zeros(0, np.float32) if found is None else found.logprob
        return self._probed[role]

    def unknown_ids(self, role: Role) -> frozenset[int]:
        return frozenset() if self.is_remote(role) else self.local.unknown_ids(role)

    def remember_limits(self, known: Mapping[str, int], keep: Callable[[dict[str, int]], None]) -> None:
        self.local.remember_limits(known, keep)

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
        score: Callable[..., list[TokenSignals | None]] = (
            self.remote_score if self.is_remote(role) else self.local.score
        )
        more = {"kth": kth} if kth else {}  # asked for where `remote_features` has it
        return score(role, inputs, moments=moments, on_done=on_done, done=done, **more)

    def check_gradients(self, role: Role) -> None:
        if not self.is_remote(role):
            self.local.check_gradients(role)

    def gradient_norms(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        counted: Sequence[NDArray[np.bool_] | None],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[float | None]:
        if self.is_remote(role):
            raise self._unable()
        return self.local.gradient_norms(role, inputs, counted, on_done=on_done, done=done)

    def sample_replacements(
        self,
        role: Role,
        sequences: Sequence[TokenIds],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        seeds: Sequence[int],
        *,
        complete: bool = False,
    ) -> list[list[NDArray[np.int64]]]:
        """Of the target nothing can be drawn so; the base is in this process for it, even if the engine has it."""
        if role is Role.TARGET:
            raise SpvmiaError(
                f"mia_perturbation: expected a kind that backend {self.name!r} can make, got one that draws from the "
                "target's whole distribution; choose causal or mask_fill"
            )
        return self.local.sample_replacements(role, sequences, positions, seeds, complete=complete)

    def train_reference(
        self,
        texts: Sequence[str],
        output_dir: Path,
        *,
        rendered: Sequence[Rendered] | None = None,
        seed: int | None = None,
    ) -> dict[str, object]:
        return self.local.train_reference(texts, output_dir, rendered=rendered, seed=seed)

    def check_training(self) -> None:
        self.local.check_training()

    def load_reference(self, role: Role, path: str) -> None:
        self._probed.pop(role, None)
        self.local.load_reference(role, path)

    def cost(self, role: Role) -> Cost:
        total = self.local.cost(role)
        total += self._spent[role]
        return total

    def close(self) -> None:
        self.local.close()

    @cached_property
    def tokenizer_digest(self) -> str:
        """Hash of the target's tokenizer: part of the identity of every model that reads its tokens."""
        return self._tokens.digest()


def local_device() -> Any:
    """Where the models of this process are put: on the first CUDA device where there is one, else on the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
