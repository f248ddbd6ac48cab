"""A vLLM engine made of transformers: the shapes, limits and faults of vLLM 0.32, without vLLM.

`tests/engines/test_real_vllm.py` holds it against the real one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries


@dataclass
class FlatLogprobs:
    """As `vllm.logprobs.FlatLogprobs`: per position the token that stands there, then the best ones."""

    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    decoded_tokens: list[None] = field(default_factory=list)

    def add(self, pairs):
        self.start_indices.append(len(self.logprobs))
        for token_id, logprob, rank in pairs:
            self.token_ids.append(token_id)
            self.logprobs.append(logprob)
            self.ranks.append(rank)
            self.decoded_tokens.append(None)
        self.end_indices.append(len(self.logprobs))

    def __len__(self):
        return len(self.start_indices)


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    logprobs: int | None = None
    detokenize: bool = True
    ignore_eos: bool = False
    flat_logprobs: bool = False


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class PEFTHelper:
    def get_rank_and_scaling(self, module_name):
        raise NotImplementedError


class LLM:
    """The engine: a base, and the adapters of requests on it."""

    def __init__(self, model: str, **args: Any) -> None:
        from transformers import AutoModelForCausalLM

        self.base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.args = {"max_logprobs": 20, "max_num_seqs": 8, "device": "cpu", **args}
        self.adapters: dict[int, Any] = {}
        self.calls: list[tuple[str | None, int, int | None]] = []  # adapter, prompts, prompt_logprobs
        self.events: list[str] = []
        self.awake = self.alive = True
        self.moved = 0.0  # what is added to each log-probability of a prompt
        vocab = self.base.config.vocab_size
        lora = SimpleNamespace(max_lora_rank=self.args.get("max_lora_rank", 16), max_loras=1)
        config = SimpleNamespace(
            model_config=SimpleNamespace(
                dtype=torch.float32,
                max_model_len=self.args.get("max_model_len") or self.base.config.max_position_embeddings,
                max_logprobs=self.args["max_logprobs"],
                logprobs_mode=self.args.get("logprobs_mode", "raw_logprobs"),
                enable_sleep_mode=self.args.get("enable_sleep_mode", False),
                quantization=None,
                hf_config=self.base.config,
                get_vocab_size=lambda: vocab,
            ),
            lora_config=lora if self.args.get("enable_lora") else None,
            device_config=SimpleNamespace(device_type=self.args["device"]),
            scheduler_config=SimpleNamespace(max_num_seqs=self.args["max_num_seqs"]),
            cache_config=SimpleNamespace(cache_dtype="auto"),
        )
        self.llm_engine = SimpleNamespace(
            vllm_config=config, model_config=config.model_config, remove_lora=self.remove_lora
        )

    def generate(self, prompts, *, sampling_params, lora_request=None, use_tqdm=True):
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        first = params[0].prompt_logprobs if params else None
        self.calls.append((lora_request and lora_request.lora_name, len(prompts), first))
        if not self.alive:
            raise RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
        assert self.awake, "the engine sleeps"
        assert not use_tqdm
        model = self._model(lora_request)
        if self.args.get("enable_lora") and first is not None and self.args["device"] == "cpu" and len(prompts) > 1:
            self.alive = False
            raise RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
        return [self._answer(model, p["prompt_token_ids"], s) for p, s in zip(prompts, params, strict=True)]

    def _model(self, request):
        if request is None:
            return self.base
        if request.lora_int_id not in self.adapters:
            from peft import PeftModel
            from transformers import AutoModelForCausalLM

            own = AutoModelForCausalLM.from_pretrained(self.args["model_path"], dtype=torch.float32)
            with isolated_rng(0), quiet_libraries():
                self.adapters[request.lora_int_id] = PeftModel.from_pretrained(own, request.lora_path).eval()
        return self.adapters[request.lora_int_id]

    def _answer(self, model, ids, params):
        most, vocab = self.llm_engine.model_config.max_model_len, self.base.config.vocab_size
        if len(ids) + 1 > most:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length {most}.")
        if max(ids) >= vocab:
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        found = None
        if params.prompt_logprobs is not None:
            allowed, asked = self.args["max_logprobs"], params.prompt_logprobs
            if allowed != -1 and (vocab if asked == -1 else asked) > allowed:
                raise ValueError(f"Requested prompt logprobs of {asked}, which is greater than max allowed: {allowed}")
            assert params.flat_logprobs
            found = FlatLogprobs()
            found.add([])
            if len(ids) > 1:
                with torch.no_grad():
                    rows = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1) + self.moved
                for row, token in zip(rows, ids[1:], strict=True):
                    best = row.topk(vocab if asked == -1 else asked)
                    rank = int((row >= row[token]).sum())
                    pairs = zip(best.indices.tolist(), best.values.tolist(), range(1, vocab + 1), strict=False)
                    found.add([(token, float(row[token]), rank), *pairs])
        new, reason, said = self._continue(model, ids, params)
        output = SimpleNamespace(token_ids=new, logprobs=said, finish_reason=reason, stop_reason=None)
        return SimpleNamespace(prompt_token_ids=list(ids), prompt_logprobs=found, outputs=[output])

    def _continue(self, model, ids, params):
        generator = torch.Generator().manual_seed(params.seed) if params.seed is not None else None
        new: list[int] = []
        said = FlatLogprobs() if params.logprobs == 0 else None
        while len(new) < params.max_tokens:
            with torch.no_grad():
                row = model(torch.tensor([[*ids, *new]])).logits[0, -1]
            if params.temperature == 0:
                token = int(row.argmax())
            else:
                p = (row / params.temperature).softmax(-1)
                token = int((p / torch.empty_like(p).exponential_(generator=generator)).argmax())
            new.append(token)
            if said is not None:
                value = row.log_softmax(-1)
                said.add([(token, float(value[token]), int((value >= value[token]).sum()))])
            if not params.ignore_eos and token in {self.base.config.eos_token_id, *(params.stop_token_ids or ())}:
                return new, "stop", said
        return new, "length", said

    def remove_lora(self, lora_int_id):
        self.events.append(f"remove {lora_int_id}")
        return self.adapters.pop(lora_int_id, None) is not None

    def sleep(self, level=1):
        assert self.args.get("enable_sleep_mode")
        self.events.append(f"sleep {level}")
        self.awake = False

    def wake_up(self):
        self.events.append("wake")
        self.awake = True


class VLLM:
    """As the harness's class of that name: the attributes that a backend looks at."""

    rank, world_size = 0, 1

    def __init__(
        self, pretrained: str, *, lora_local_path: str | None = None, data_parallel_size: int = 1, **args: Any
    ):
        from transformers import AutoTokenizer

        self.model_args = {
            "model": pretrained,
            "revision": None,
            "quantization": None,
            "enable_lora": bool(lora_local_path),
            "max_lora_rank": 16,
            **args,
        }
        self.data_parallel_size = data_parallel_size
        self.tokenizer = AutoTokenizer.from_pretrained(pretrained)
        self.lora_request = LoRARequest("finetuned", 1, lora_local_path) if lora_local_path else None
        if data_parallel_size <= 1:
            self.model = LLM(**self.model_args, model_path=pretrained)

    @property
    def max_length(self) -> int:
        return int(self.model.llm_engine.model_config.max_model_len)

    @property
    def prefix_token_id(self) -> int:
        return int(self.tokenizer.bos_token_id)

    def tok_encode(self, string: str) -> list[int]:
        return list(self.tokenizer(string).input_ids)


def install(monkeypatch: Any) -> None:
    """Have `import vllm` find this."""
    names = {
        "vllm": {"__version__": "0.32.0", "SamplingParams": SamplingParams, "TokensPrompt": dict, "LLM": LLM},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.peft_helper": {"PEFTHelper": PEFTHelper},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
