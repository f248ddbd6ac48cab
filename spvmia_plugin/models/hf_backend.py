"""The harness's Hugging Face models as a backend: scoring, sampling and reference training on the harness's own LM."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.adapters import has_gradients
from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.models.generation import Generator
from spvmia_plugin.models.identity import embedding_rows
from spvmia_plugin.models.precision import TO_FLOAT32, computes_in, too_slow
from spvmia_plugin.models.roles import RoleModels
from spvmia_plugin.models.sampling import Sampling
from spvmia_plugin.models.tokens import Tokens, unwrapped
from spvmia_plugin.models.torch_backend import TorchBackend
from spvmia_plugin.protocols import BackendFeatures, Follow, OnDone, TokenIds, Turn
from spvmia_plugin.signals import Role
from spvmia_plugin.util.processes import all_say, first_says, is_first, one_of, processes_of


class HFBackend(TorchBackend):
    """A causal language model of the harness's class HFLM. What it does for an audit is said in `Backend`.

    Only attributes of `lm` are used, nothing of lm_eval is imported: `model`, `tokenizer`, `tok_encode`,
    `prefix_token_id`, `max_length`, `mixed_precision_dtype`, `world_size`, `accelerator`, and `pretrained`, `peft`,
    `delta`, `revision` for provenance.

    Args:
        lm: the harness's LM, or its caching wrapper.
        config: settings of the audit.
        base_model: the model before fine-tuning (`mia_base_model`, or what a manifest names). Used where the target
            does not carry its base; a LoRA target does.
    """

    _roles: RoleModels

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        lm = unwrapped(lm)
        tokens = Tokens(lm, config.max_length, config.prefix)
        autocast = getattr(lm, "mixed_precision_dtype", None)
        roles = RoleModels(
            lm,
            tokens,
            config.base_model or base_model,
            explicit=config.base_model is not None,
            autocast=autocast,
            trusted=config.trust_remote_code,
            gguf_file=config.gguf_file,
        )
        super().__init__(roles, tokens, config, lm.model.device, autocast)
        self.features = BackendFeatures(gradients=has_gradients(lm.model), kth=True)
        self.vocab = embedding_rows(inner_model(roles.target))
        self.processes = processes_of(lm).count
        self.first = is_first(self.processes)

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether `lm` is an HFLM, or a subclass, around a decoder-only model."""
        lm = unwrapped(lm)
        names = {base.__name__ for base in type(lm).__mro__}
        return "HFLM" in names and getattr(lm, "backend", None) == "causal"

    @property
    def slow(self) -> str | None:
        dtype = computes_in(self._roles.target, self._autocast)
        return None if dtype is None else too_slow(dtype, TO_FLOAT32)

    def remember_base(
        self,
        recall: Callable[[Mapping[str, object]], str | None],
        keep: Callable[[Mapping[str, object], str], None],
    ) -> None:
        self._roles.remember(recall, keep)

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
        with self._generator(ends or (), [] if complete else self._tokens.lead) as generator:
            return generator.generate(prompts, lengths, seeds, on_done=on_done, done=set(done))

    def converse(self, turns: Mapping[int, Turn], follow: Follow, *, ends: Collection[int]) -> None:
        with self._generator(ends, []) as generator:
            if generator.rewinds:
                generator.converse(turns, follow)
                return
        super().converse(turns, follow, ends=ends)

    @contextmanager
    def _generator(self, ends: Collection[int], lead: Sequence[int]) -> Iterator[Generator]:
        config = self._config
        with self._model(Role.TARGET) as model:
            generator = Generator(
                model,
                Sampling(config.temperature, config.top_k, config.top_p),
                sorted({*self._tokens.end_ids(model.model), *ends}),
                lead,
                self._runners["generate"],
                self._costs[Role.TARGET],
            )
            if generator.path is not None:
                self.paths[f"{Role.TARGET.value}: generation"] = generator.path
            yield generator

    def agree(self, value: Any) -> Any:
        with one_of(self.processes):
            return first_says(value, self.processes)

    def gather(self, value: Any) -> list[Any]:
        with one_of(self.processes):
            return all_say(value, self.processes)
