"""The harness's `--model sglang` as a backend: the target in SGLang's offline engine, everything else by torch.

Written by the source of SGLang 0.5.23, which needs CUDA: never run against a real one. The harness's class names no
adapter in its requests, so the engine has merged weights, and nothing but the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.in_process import KEPT, WRITTEN, EngineTarget, check_load_format
from spvmia_plugin.engines.passes import Answer, Pass
from spvmia_plugin.engines.prompt_logprobs import read_meta_info
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import settings_digest
from spvmia_plugin.models.tokens import unwrapped
from spvmia_plugin.protocols import TokenIds
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import refusal

WHOLE = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_new_tokens": 0,
}
"""Sampling from the model's whole distribution. What is left out would be `preferred_sampling_params`'s."""
RESERVED = 6
"""Tokens by which `max_req_input_len` is below the context, where the engine's cache holds that much."""
NO_ADAPTER = (
    "the harness's sglang asks for no adapter in its requests, so all its tasks would be about the base; merge it into "
    "the base and load that as pretrained=..., or use '--model vllm' or '--model hf'"
)
ADAPTERS = ("lora_paths", "lora_local_path", "peft")
"""What would name one in `--model_args`: SGLang's own name for it, and those of other models of the harness."""


class SGLangBackend(EngineTarget):
    """A model that the harness's class SGLangLM has loaded.

    Only attributes of `lm` are used, nothing of lm_eval or sglang is imported: `model` (a `sglang.Engine`),
    `model_args`, `tokenizer`, `tok_encode`, `prefix_token_id`, `max_length`, `data_parallel_size`.

    Args:
        lm: the harness's LM, or its caching wrapper.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it.

    Raises:
        SpvmiaError: the engine gives no log-probabilities of this target that mean what they say.
    """

    name, engine = "sglang", "SGLang"

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        lm = unwrapped(lm)
        self._engine = lm.model
        self._args: Mapping[str, Any] = lm.model_args
        check_arguments({**self._args, "dp_size": lm.data_parallel_size})
        self._model_config = lm.model.tokenizer_manager.model_config
        try:
            self._told: Mapping[str, Any] = lm.model.get_server_info()
        except Exception as error:  # an engine that died has its own
            raise self.did_not_answer(Role.TARGET, type(error).__name__, refusal(error)) from None
        # Less than the model's context: it keeps some tokens for what is written, and its cache may hold fewer.
        longest = self._told.get("max_req_input_len")
        if not isinstance(longest, int):
            raise SpvmiaError(
                f"--model: expected an SGLang that tells max_req_input_len, got {longest!r}; update SGLang, or use "
                "'--model hf'"
            )
        self.vocab = int(self._model_config.vocab_size)
        # A prompt has fewer than `longest` tokens, with the last one, from which nothing is predicted. The length that
        # the harness's class names may be more: it tells the engine of none.
        super().__init__(
            lm.tokenizer,
            min(int(lm.max_length), longest) - KEPT,
            config,
            base_model,
            prefix_token_id=lm.prefix_token_id,
            tok_encode=lm.tok_encode,
            dtype=self._model_config.dtype,
        )
        self._is_seeded = bool(self._told.get("enable_deterministic_inference"))
        self._note()

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether `lm` is the harness's SGLangLM, or a subclass."""
        return "SGLangLM" in {base.__name__ for base in type(unwrapped(lm)).__mro__}

    def _note(self) -> None:
        """What a reader of the results should know of this engine."""
        self.note_once(
            f"the target is read by SGLang {self._told.get('version')}, in {self.precision}, by a backend that was "
            "never tried on a real one (docs/sglang.md)"
        )
        if self._cache not in ("auto", self.precision):
            self.note_once(
                f"kv_cache_dtype={self._cache}: SGLang rounds keys and values to it, and the log-probabilities of what "
                "follows with them"
            )

    @property
    def precision(self) -> str:
        return str(self._model_config.dtype).removeprefix("torch.")

    @property
    def device_type(self) -> str:
        return str(self._told.get("device") or "cuda")

    @property
    def _cache(self) -> str:
        cache = str(self._told.get("kv_cache_dtype") or "auto")
        return "bfloat16" if cache == "bf16" else cache

    def remote_identity(self, role: Role) -> dict[str, object]:
        """By the files of the weights and the engine's precision; the engine's weights cannot be looked at."""
        self.check_answers()
        config = self._model_config
        # Its own key, which says how much is read at once and not what is computed.
        settings = {key: value for key, value in config.hf_config.to_dict().items() if key != "context_len"}
        return {
            "backend": self.name,
            "config": settings_digest(settings),
            "dtype": self.precision,
            "quantisation": config.quantization,
            "cache": self._cache,
            "weights": self.found_weights(str(self._args["model_path"]), self._args.get("revision")),
            "tokenizer": self.tokenizer_digest,
        }

    def written(self, prompt: TokenIds) -> tuple[list[int], NDArray[np.float32]]:
        params = {**WHOLE, "max_new_tokens": WRITTEN, "ignore_eos": True}
        (answer,) = self._ask([prompt], [params], return_logprob=True)
        told = answer["meta_info"].get("output_token_logprobs") or []
        return _new_tokens(answer, WRITTEN), np.array([each[0] for each in told], np.float32)

    def read_batch(self, role: Role, asked: Sequence[Pass], *, moments: bool) -> list[Answer]:
        """Never asked for moments: the engine would send the vocabulary as Python tuples through three processes."""
        # One token is written: of a prompt that is only read, SGLang may tell other positions (multi-item scoring). At
        # temperature 1, so that nothing can be divided by another. From the first token on, whatever is scored: SGLang
        # then takes nothing of the prompt from its prefix cache, which holds no log-probabilities.
        params = {**WHOLE, "top_k": 1, "max_new_tokens": 1}
        answers = self._ask(
            [each.token_ids for each in asked],
            [params] * len(asked),
            return_logprob=True,
            logprob_start_len=0,
            top_logprobs_num=1,
        )
        return [
            read_meta_info(answer["meta_info"], each.token_ids, each.scored, self.vocab)
            for each, answer in zip(asked, answers, strict=True)
        ]

    def write_batch(
        self, prompts: Sequence[TokenIds], more: Sequence[int], seeds: Sequence[int], stops: Sequence[int]
    ) -> list[list[int]]:
        """Each prompt has its own random generator with `enable_deterministic_inference`; else seeds mean nothing."""
        if not self._is_seeded:
            self.note_once(
                "SGLang draws self-prompts by one random generator for all: another run writes others, whatever "
                "mia_seed says; pass enable_deterministic_inference=True in --model_args for a seed per prompt"
            )
        params = [
            {
                **WHOLE,
                "temperature": self._config.temperature,
                "top_k": self._config.top_k or -1,
                "top_p": self._config.top_p,
                "max_new_tokens": most,
                "stop_token_ids": list(stops),
                **({"sampling_seed": seed} if self._is_seeded else {}),
            }
            for most, seed in zip(more, seeds, strict=True)
        ]
        answers = self._ask(prompts, params)
        return [_new_tokens(answer, most) for answer, most in zip(answers, more, strict=True)]

    def _ask(
        self, prompts: Sequence[TokenIds], params: Sequence[Mapping[str, Any]], **options: Any
    ) -> list[Mapping[str, Any]]:
        """One call of the engine for all; the answers in the order of the prompts."""
        try:
            answers = list(
                self._engine.generate(
                    input_ids=[list(prompt) for prompt in prompts],
                    sampling_params=[dict(each) for each in params],
                    **options,
                )
            )
        except Exception as error:  # an engine that died, a request that it refuses: each has its own
            raise self.did_not_answer(Role.TARGET, type(error).__name__, refusal(error)) from None
        for answer in answers:
            reason = answer["meta_info"].get("finish_reason") or {}
            if reason.get("type") not in ("stop", "length"):
                raise self.did_not_answer(Role.TARGET, str(reason.get("type")), str(reason.get("message")))
        return answers


def _new_tokens(answer: Mapping[str, Any], most: int) -> list[int]:
    """The tokens of an answer, without the one that ended it.

    Raises:
        SpvmiaError: it ended of another reason than that token or the length that was asked for.
    """
    tokens = [int(token) for token in answer.get("output_ids") or []]
    reason = answer["meta_info"]["finish_reason"]
    if reason["type"] == "length" and len(tokens) == most:
        return tokens
    # A number that is none ends a text as if by a stop: then it says so in the place of the token.
    if reason["type"] == "stop" and tokens and reason.get("matched") == tokens[-1]:
        return tokens[:-1]
    raise SpvmiaError(
        f"--model: expected SGLang to write {most:,} tokens or end with one that ends a text, got {len(tokens):,} and "
        f"{str(reason.get('matched', reason['type']))!r}; unset SGLANG_MAX_NEW_TOKENS_LIMIT, use another dtype or "
        "version of SGLang, or '--model hf'"
    )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """What can be refused before the engine is asked anything, by the arguments it was started with.

    Args:
        arguments: of the harness's model `sglang`, or its `model_args`.

    Raises:
        SpvmiaError: the target would be another model than the one that the arguments name, or its scores no scores.
    """
    for option in ADAPTERS:
        if arguments.get(option):
            raise SpvmiaError(f"{option}: expected none, got an adapter: {NO_ADAPTER}")
    check_load_format(arguments)
    if str(arguments.get("dp_size") or 1) != "1":
        raise SpvmiaError(
            f"dp_size: expected 1, got {arguments['dp_size']}: several engines round as texts fall to them, and SGLang "
            "drops it; use tp_size for more devices"
        )
    if arguments.get("speculative_algorithm"):
        raise SpvmiaError(
            f"speculative_algorithm: expected none, got {arguments['speculative_algorithm']}: what is written with a "
            "draft model was never compared with what the target writes alone; leave it out"
        )
