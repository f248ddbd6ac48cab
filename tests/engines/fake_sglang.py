"""An SGLang engine made of transformers: the shapes, limits and habits of SGLang 0.5.23 as read in its source.

There is no real one without CUDA to hold it against. The harness's own class (`lm_eval.models.sglang_causallms`) is put
on top of it. Where in SGLang's `srt` something was read: `Engine.generate` and `get_server_info`
(entrypoints/engine.py), `SamplingParams` (sampling/sampling_params.py), `[None] + logprobs[:-1]` and the vocabulary's
last token by the number 0 (managers/scheduler_components/logprob_result_processor.py), tuples
(managers/tokenizer_manager.py), what of a prompt comes from the prefix cache (`max_prefix_len`,
managers/schedule_batch.py), lengths (managers/tp_worker.py, managers/utils.py), seeds
(sampling/sampling_batch_info.py).
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

VERSION = "0.5.23"
TOP_K_ALL = 1 << 30
ARGUMENTS = {
    "model_path": None,
    "tokenizer_path": None,
    "tokenizer_mode": "auto",
    "load_format": "auto",
    "trust_remote_code": False,
    "dtype": "auto",
    "kv_cache_dtype": "auto",
    "device": None,
    "mem_fraction_static": None,
    "tp_size": 1,
    "dp_size": 1,
    "chunked_prefill_size": None,
    "context_length": None,
    "revision": None,
    "random_seed": None,
    "lora_paths": None,
    "quantization": None,
    "enable_deterministic_inference": False,
    "speculative_algorithm": None,
    "preferred_sampling_params": None,
}
"""Of `ServerArgs`, those that matter here."""


class SamplingParams:
    """What `__post_init__` and `verify` do to the dicts that are sent."""

    max_new_tokens = 128
    stop_token_ids: Any = None
    temperature = 1.0
    top_p = 1.0
    top_k = TOP_K_ALL
    min_p = 0.0
    frequency_penalty = presence_penalty = 0.0
    repetition_penalty = 1.0
    min_new_tokens = 0
    ignore_eos = False
    sampling_seed: int | None = None

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            if not hasattr(type(self), name):
                raise TypeError(f"Unexpected keyword argument '{name}'")
            setattr(self, name, value)
        if 0 <= self.temperature < 1e-6:
            self.temperature, self.top_k = 1.0, 1
        if self.top_k == -1:
            self.top_k = TOP_K_ALL
        if self.top_k < 1:
            raise ValueError(f"top_k must be -1 (disable) or at least 1, got {self.top_k}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.sampling_seed is not None and not -(2**63) <= self.sampling_seed <= 2**63 - 1:
            raise ValueError(f"sampling_seed must be in [-2**63, 2**63 - 1], got {self.sampling_seed}.")


class Engine:
    """The engine, with faults that are switched on by its attributes.

    Attributes:
        calls: of each call: how many prompts, and what was asked for.
        moved: nats added to each log-probability of a prompt.
        shifted: the log-probabilities of a prompt stand one place too early.
        swallows: the prefix cache takes what it holds of a prompt, whatever is asked for.
        answers: changes each answer's meta_info.
        cap: tokens written at most, as by SGLANG_MAX_NEW_TOKENS_LIMIT.
        broken: the model's numbers are none: what is written ends at once.
        alive: else every call raises.
    """

    def __init__(self, **args: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        unknown = set(args) - set(ARGUMENTS)
        if unknown:
            raise TypeError(f"Unexpected keyword argument '{min(unknown)}'")
        self.args = {**ARGUMENTS, **args}
        folder = self.args["model_path"]
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        config = self.model.config
        config.context_len = self.args["context_length"] or config.max_position_embeddings
        model_config = SimpleNamespace(
            dtype=torch.float32,
            vocab_size=config.vocab_size,
            quantization=self.args["quantization"],
            context_len=config.context_len,
            hf_config=config,
        )
        self.max_req_len = config.context_len - 1
        self.max_req_input_len = self.max_req_len - 5
        self.tokenizer_manager = SimpleNamespace(
            tokenizer=AutoTokenizer.from_pretrained(self.args["tokenizer_path"] or folder),
            model_config=model_config,
            context_len=config.context_len,
            max_req_input_len=self.max_req_input_len,
        )
        self.generator = torch.Generator().manual_seed(self.args["random_seed"] or 0)
        self.cached: list[tuple[int, ...]] = []
        self.calls: list[tuple[int, dict[str, Any]]] = []
        self.moved, self.shifted, self.swallows, self.broken, self.alive = 0.0, False, False, False, True
        self.answers = lambda told: None
        self.cap: int | None = None

    def get_server_info(self) -> dict[str, Any]:
        if not self.alive:
            raise RuntimeError("the scheduler died")
        told = {"status": "ready", "max_total_num_tokens": 2**16, "max_req_input_len": self.max_req_input_len}
        return {**self.args, **told, "internal_states": [{}], "version": VERSION}

    def generate(
        self,
        prompt: Any = None,
        sampling_params: Any = None,
        input_ids: Any = None,
        *,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        token_ids_logprob: Any = None,
        lora_path: Any = None,
    ) -> list[dict[str, Any]]:
        if not self.alive:
            raise RuntimeError("the scheduler died")
        assert prompt is None
        assert lora_path is None
        assert token_ids_logprob is None
        if not input_ids:
            raise ValueError("input_ids cannot be empty")
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(input_ids)
        asked = {"return_logprob": return_logprob, "logprob_start_len": logprob_start_len, "top": top_logprobs_num}
        self.calls.append((len(input_ids), {**asked, "params": params}))
        preferred = self.args["preferred_sampling_params"] or {}
        made = [SamplingParams(**{**preferred, **each}) for each in params]
        start = -1 if logprob_start_len is None else logprob_start_len
        return [
            self._answer(list(ids), each, return_logprob, start, top_logprobs_num or 0)
            for ids, each in zip(input_ids, made, strict=True)
        ]

    def _answer(self, ids: list[int], params: SamplingParams, logprob: bool, start: int, top: int) -> dict[str, Any]:
        context = self.tokenizer_manager.context_len
        if len(ids) >= context:
            raise ValueError(
                f"The input ({len(ids)} tokens) is longer than the model's context length ({context} tokens)."
            )
        if len(ids) + params.max_new_tokens > context:
            raise ValueError("Requested token count exceeds the model's maximum context length")
        if len(ids) >= self.max_req_input_len:
            raise ValueError(f"Input length ({len(ids)} tokens) exceeds the maximum allowed length")
        if max(ids) >= self.model.config.vocab_size:
            raise IndexError("index out of range in self")
        new, said, reason = self._continue(ids, params)
        held = 0  # of the prompt, in the prefix cache; its last token is always read
        for text in self.cached:
            same = next(
                (i for i, (a, b) in enumerate(zip(text, ids, strict=False)) if a != b), min(len(text), len(ids))
            )
            held = max(held, min(same, len(ids) - 1))
        if logprob and start >= 0 and not self.swallows:
            held = min(held, start)
        self.cached.append((*ids, *new))
        meta: dict[str, Any] = {
            "id": "0",
            "finish_reason": reason,
            "prompt_tokens": len(ids),
            "completion_tokens": len(new),
            "cached_tokens": held,
        }
        if logprob:
            self._tell(meta, ids, max(start, held) if start >= 0 else len(ids), top)
            meta["output_token_logprobs"] = [(value, token, None) for value, token in zip(said, new, strict=True)]
        self.answers(meta)
        return {"text": "", "output_ids": new, "meta_info": meta}

    def _tell(self, meta: dict[str, Any], ids: list[int], start: int, top: int) -> None:
        """Log-probabilities of the prompt from `start` on: of each place the next token, then all moved by one."""
        if start == len(ids):  # as where nothing of the prompt is asked for
            meta["input_token_logprobs"] = []
            return
        vocab = self.model.config.vocab_size
        with torch.no_grad():
            rows = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)[start:]
        values = [float(row[token]) for row, token in zip(rows, [*ids[start + 1 :], 0], strict=True)]
        best = [row.topk(top) for row in rows] if top else []
        tops = [list(zip(each.values.tolist(), each.indices.tolist(), [None] * top, strict=True)) for each in best]
        if self.shifted:
            values, tops = [*values[1:], values[0]], [*tops[1:], *tops[:1]]
        values = [value + self.moved for value in values]
        values = [None, *values[:-1]]
        named = [token if token < vocab - 1 else 0 for token in ids[start:]]
        meta["input_token_logprobs"] = [(value, token, None) for value, token in zip(values, named, strict=True)]
        if top:
            meta["input_top_logprobs"] = [None, *tops[:-1]]

    def _continue(self, ids: list[int], params: SamplingParams) -> tuple[list[int], list[float], dict[str, Any]]:
        ends = {self.model.config.eos_token_id, *(params.stop_token_ids or ())}
        if self.broken:  # a token of no vocabulary ends the text, one that ends texts in its place
            return [min(ends)], [float("nan")], {"type": "stop", "matched": "NaN happened"}
        most = min(params.max_new_tokens, self.max_req_len - len(ids) - 1, *([self.cap] if self.cap else []))
        new: list[int] = []
        said: list[float] = []
        while len(new) < most:
            with torch.no_grad():
                row = self.model(torch.tensor([[*ids, *new]])).logits[0, -1]
            token = self._sample((row / params.temperature).softmax(-1), params, len(ids) + len(new))
            new.append(token)
            said.append(float((row / params.temperature).log_softmax(-1)[token]))
            if not params.ignore_eos and token in ends:
                return new, said, {"type": "stop", "matched": token}
        return new, said, {"type": "length", "length": params.max_new_tokens}

    def _sample(self, p: torch.Tensor, params: SamplingParams, position: int) -> int:
        if params.top_k == 1:
            return int(p.argmax())
        best = p.sort(descending=True)
        kept = best.values.clone()
        kept[params.top_k :] = 0
        kept[(best.values.cumsum(0) - best.values) > params.top_p] = 0
        generator = self.generator
        if self.args["enable_deterministic_inference"]:  # else seeds are not looked at
            seed = 42 if params.sampling_seed is None else params.sampling_seed
            generator = torch.Generator().manual_seed((seed * 1_000_003 + position) % 2**63)
        return int(best.indices[torch.multinomial(kept, 1, generator=generator)])


def install(monkeypatch: Any) -> type:
    """Have the harness find this in place of SGLang; its class of that name."""
    module = ModuleType("sglang")
    module.__spec__ = ModuleSpec("sglang", None)
    vars(module).update(Engine=Engine, __version__=VERSION)
    monkeypatch.setitem(sys.modules, "sglang", module)
    harness = importlib.import_module("lm_eval.models.sglang_causallms")
    monkeypatch.setattr(harness, "sgl", module, raising=False)
    found: type = harness.SGLangLM
    return found
