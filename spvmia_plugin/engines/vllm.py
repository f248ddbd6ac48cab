"""The harness's `--model vllm` as a backend: the target in vLLM's engine, and beside it what the engine can also have.

A target that the engine reads as a LoRA request leaves the base in the engine too, and references are further
requests: one engine reads all of them. Of merged weights the engine has the target alone. Training is always torch's.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.in_process import KEPT, WRITTEN, EngineTarget, check_load_format
from spvmia_plugin.engines.lora_requests import misread, peft_config, rank_of
from spvmia_plugin.engines.passes import Answer, Pass
from spvmia_plugin.engines.prompt_logprobs import read_flat
from spvmia_plugin.engines.remote import ALIKE
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import same_model, settings_digest
from spvmia_plugin.models.tokens import unwrapped
from spvmia_plugin.protocols import BackendFeatures, TokenIds
from spvmia_plugin.records import Rendered
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import refusal

LOGPROBS_PER_CALL = 2**22
"""Log-probabilities asked for at once where all of the vocabulary are: 600 MB of Python numbers."""

_ENDS = ("stop", "length")
"""`finish_reason` of a request that was answered."""


class VLLMBackend(EngineTarget):
    """A model that the harness's class VLLM has loaded.

    Only attributes of `lm` are used, nothing of lm_eval is imported: `model` (a `vllm.LLM`), `model_args`,
    `lora_request`, `tokenizer`, `tok_encode`, `prefix_token_id`, `max_length`, `data_parallel_size`.

    Args:
        lm: the harness's LM, or its caching wrapper.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it. Used where the engine does not have it.

    Raises:
        SpvmiaError: the engine gives no log-probabilities of this target that mean what they say.
    """

    name, engine = "vllm", "vLLM"

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        import vllm

        lm = unwrapped(lm)
        if lm.data_parallel_size > 1:
            raise SpvmiaError(
                f"data_parallel_size: expected 1, got {lm.data_parallel_size}: then the harness starts its engines "
                "anew for every batch; use tensor_parallel_size for more devices"
            )
        self._engine = lm.model
        self._settings = lm.model.llm_engine.vllm_config
        self._args: Mapping[str, Any] = lm.model_args
        model = str(self._args["model"])
        carried = lm.lora_request is not None and (config.base_model is None or same_model(config.base_model, model))
        self._requests: dict[Role, Any] = {Role.TARGET: lm.lora_request, **({Role.BASE: None} if carried else {})}
        super().__init__(
            lm.tokenizer,
            int(lm.max_length) - KEPT,
            config,
            model if carried else base_model,
            prefix_token_id=lm.prefix_token_id,
            tok_encode=lm.tok_encode,
            dtype=self._settings.model_config.dtype,
            revision=self._args.get("revision") if carried else None,
        )
        self._here: set[Role] = set()  # references that torch reads
        self._ids = itertools.count(1000)  # the harness's own request has 1
        model_config = self._settings.model_config
        self.vocab = int(model_config.get_vocab_size())
        self._has_moments = model_config.max_logprobs == -1 or model_config.max_logprobs >= self.vocab
        self._is_on_cpu = self.device_type == "cpu"
        # On a CPU an engine ignores that it should sleep, and hangs.
        self._sleeps = bool(getattr(model_config, "enable_sleep_mode", False)) and not self._is_on_cpu
        self._check_engine()
        self.note_once(f"the target is read by vLLM {vllm.__version__}, in {self.precision}")

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether `lm` is the harness's VLLM, or a subclass for text."""
        names = {base.__name__ for base in type(unwrapped(lm)).__mro__}
        return "VLLM" in names and "VLLM_VLM" not in names

    def _check_engine(self) -> None:
        """What can be refused before the engine is asked anything."""
        from vllm import SamplingParams

        check_load_format(self._args)
        mode = str(getattr(self._settings.model_config, "logprobs_mode", "raw_logprobs"))
        if mode != "raw_logprobs":
            raise SpvmiaError(f"logprobs_mode: expected raw_logprobs, got {mode}; leave it out of --model_args")
        if not hasattr(SamplingParams, "flat_logprobs"):
            raise SpvmiaError("--model: expected a vLLM that has flat_logprobs, got an older one; update vLLM")
        request = self._requests[Role.TARGET]
        if request is None:
            return
        config = peft_config(request.lora_path)
        reason = misread(request.lora_path, config, patterns=self._knows_patterns)
        if reason is not None:
            raise SpvmiaError(
                f"lora_local_path: expected an adapter that vLLM reads as peft does, got {reason}; merge it into the "
                "base and load that as pretrained=..., or use '--model hf'"
            )
        if rank_of(config) > (most := self._largest_rank):
            raise SpvmiaError(
                f"lora_local_path: expected an adapter of rank {most} at most, got {rank_of(config)}; pass "
                f"max_lora_rank={rank_of(config)} in --model_args"
            )

    def written(self, prompt: TokenIds) -> tuple[list[int], NDArray[np.float32]]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=1, seed=0, logprobs=0, flat_logprobs=True, max_tokens=WRITTEN, ignore_eos=True, detokenize=False
        )
        (answer,) = self._ask(Role.TARGET, [prompt], [params])
        (output,) = answer.outputs
        said = [output.logprobs.logprobs[start] for start in output.logprobs.start_indices]
        return [int(token) for token in output.token_ids], np.array(said, np.float32)

    @cached_property
    def _knows_patterns(self) -> bool:
        from vllm.lora.peft_helper import PEFTHelper

        return hasattr(PEFTHelper, "get_rank_and_scaling")

    @property
    def precision(self) -> str:
        return str(self._settings.model_config.dtype).removeprefix("torch.")

    @property
    def device_type(self) -> str:
        return str(self._settings.device_config.device_type)

    @property
    def _largest_rank(self) -> int:
        """Of an adapter that the engine takes; 0 where it takes none."""
        lora = self._settings.lora_config
        return 0 if lora is None else int(lora.max_lora_rank)

    def is_remote(self, role: Role) -> bool:
        return role in self._requests

    def remote_features(self, role: Role) -> BackendFeatures:
        return BackendFeatures(moments=self._has_moments, embeddings=False)

    def features_of(self, role: Role) -> BackendFeatures:
        """A reference that is not there yet may come into the engine: it can do what is possible there."""
        if role.kind in (Role.REFERENCE, Role.CANDIDATE) and Role.BASE in self._requests:
            return self.remote_features(role)
        return super().features_of(role)

    def remote_identity(self, role: Role) -> dict[str, object]:
        """By the files of base and adapter, and the engine's precision; the engine's weights cannot be looked at."""
        self.check_answers()
        model, request = str(self._args["model"]), self._requests[role]
        adapters = [] if request is None else [request.lora_path]
        found = self.found_weights(model, self._args.get("revision"), *adapters)
        config = self._settings.model_config
        return {
            "backend": self.name,
            "config": settings_digest(config.hf_config.to_dict()),
            "dtype": self.precision,
            "quantisation": config.quantization,
            "cache": str(self._settings.cache_config.cache_dtype),
            "weights": found,
            "tokenizer": self.tokenizer_digest,
        }

    def read_budget(self, *, moments: bool) -> int:
        return LOGPROBS_PER_CALL // (self.vocab + 1) if moments else self.budget

    def read_batch(self, role: Role, asked: Sequence[Pass], *, moments: bool) -> list[Answer]:
        from vllm import SamplingParams

        vocab = self.vocab if moments else None
        params = SamplingParams(
            temperature=0,
            prompt_logprobs=1 if vocab is None else -1,
            flat_logprobs=True,
            max_tokens=1,
            detokenize=False,
        )
        answers = self._ask(role, [each.token_ids for each in asked], [params] * len(asked))
        return [
            read_flat(answer.prompt_logprobs, each.token_ids, each.scored, vocab)
            for each, answer in zip(asked, answers, strict=True)
        ]

    def write_batch(
        self, prompts: Sequence[TokenIds], more: Sequence[int], seeds: Sequence[int], stops: Sequence[int]
    ) -> list[list[int]]:
        """Each request has its own random generator."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=self._config.temperature,
                top_k=self._config.top_k,
                top_p=self._config.top_p,
                seed=seed,
                stop_token_ids=list(stops),
                max_tokens=most,
                detokenize=False,
            )
            for most, seed in zip(more, seeds, strict=True)
        ]
        texts = []
        for answer in self._ask(Role.TARGET, prompts, params):
            (output,) = answer.outputs
            ended = output.finish_reason == "stop"  # its last token is the one that ended it
            texts.append([int(token) for token in output.token_ids][: -1 if ended else None])
        return texts

    def _ask(self, role: Role, prompts: Sequence[TokenIds], params: Sequence[Any]) -> list[Any]:
        """One call of the engine for all; the answers in the order of the prompts."""
        from vllm import TokensPrompt

        request = self._requests[role]
        made = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        # On a CPU, an engine that takes adapters dies of two prompts at once whose log-probabilities are asked for
        # (`einsum(): subscript b has size ...`), whether or not they come with one.
        alone = self._is_on_cpu and self._settings.lora_config is not None and params[0].prompt_logprobs is not None
        step = 1 if alone else len(made)
        answers: list[Any] = []
        try:
            for start in range(0, len(made), step):
                answers += self._engine.generate(
                    made[start : start + step],
                    sampling_params=list(params[start : start + step]),
                    lora_request=request,
                    use_tqdm=False,
                )
        except Exception as error:  # an engine that died, a request that it refuses: each has its own
            raise self.did_not_answer(role, type(error).__name__, refusal(error)) from None
        for answer in answers:
            # Given up, or ended by an error of its own: what is there would be taken for all that the target says.
            wrong = [output.finish_reason for output in answer.outputs if output.finish_reason not in _ENDS]
            if wrong:
                raise self.did_not_answer(role, str(wrong[0]), "in place of an answer")
        return answers

    def load_reference(self, role: Role, path: str) -> None:
        """As a further request of the engine, where it has the base and reads this adapter as peft does."""
        self._forget(role)
        reason = "a model, or an adapter on another base" if Role.BASE not in self._requests else None
        if reason is None:
            config = peft_config(path)
            reason = misread(path, config, patterns=self._knows_patterns)
            if reason is None and rank_of(config) > self._largest_rank:
                reason = f"one of rank {rank_of(config)}: max_lora_rank is {self._largest_rank}"
            if reason is not None:
                self.note_once(
                    f"the {role.value} is read by torch in this process, and the target by vLLM: the engine does not "
                    f"take this adapter ({reason})"
                )
        if reason is not None:
            self._here.add(role)
            super().load_reference(role, path)
            return
        from vllm.lora.request import LoRARequest

        self._probed.pop(role, None)
        self._requests[role] = LoRARequest(f"spvmia-{role.value}", next(self._ids), path)

    def _forget(self, role: Role) -> None:
        """Take a reference out of the engine, if it is there."""
        self._here.discard(role)
        request = self._requests.pop(role, None)
        if request is not None:
            self._engine.llm_engine.remove_lora(request.lora_int_id)

    def check_training(self) -> None:
        with self._asleep():
            super().check_training()
        if not self._is_on_cpu and not self._sleeps:
            self.note_once(
                "the vLLM engine keeps its memory while references are trained beside it: where that does not fit, "
                "pass enable_sleep_mode=True, or a lower gpu_memory_utilization, in --model_args"
            )

    def train_reference(
        self,
        texts: Sequence[str],
        output_dir: Path,
        *,
        rendered: Sequence[Rendered] | None = None,
        seed: int | None = None,
    ) -> dict[str, object]:
        with self._asleep():
            return super().train_reference(texts, output_dir, rendered=rendered, seed=seed)

    def sample_replacements(
        self,
        role: Role,
        sequences: Sequence[TokenIds],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        seeds: Sequence[int],
        *,
        complete: bool = False,
    ) -> list[list[NDArray[np.int64]]]:
        with self._asleep():
            return super().sample_replacements(role, sequences, positions, seeds, complete=complete)

    @contextmanager
    def _asleep(self) -> Iterator[None]:
        """While torch works beside it, the engine gives its device's memory away, where it was told that it may.

        Raises:
            SpvmiaError: it does not answer afterwards what it answered before.
        """
        if not self._sleeps:
            yield
            return
        before = self.probed(Role.TARGET)
        self._engine.sleep(level=1)
        try:
            yield
        finally:
            self._make_room()
            self._engine.wake_up()
        self._probed.pop(Role.TARGET)
        apart = float(np.abs(self.probed(Role.TARGET) - before).max(initial=0.0))
        if not apart <= ALIKE:
            raise SpvmiaError(
                "enable_sleep_mode: expected an engine that answers the same after it slept, got log-probabilities "
                f"that differ by up to {apart:.2g}; leave it out of --model_args, and lower gpu_memory_utilization"
            )

    def _make_room(self) -> None:
        """Give back the device's memory: all that torch has there, if the engine has every model of the audit."""
        import torch

        if Role.BASE in self._requests and not self._here:
            self.local.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        for role in [each for each in self._requests if each not in (Role.TARGET, Role.BASE)]:
            self._forget(role)
        super().close()
