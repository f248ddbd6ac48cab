"""Tiny models on disk and in the harness, and ways to look at what was done to them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.tiny import save_tiny

KINDS = ("lora", "lora_everywhere", "lora_modules", "full", "prefix", "prompt", "ia3", "bias")


def save_base(folder: Path, **options: Any) -> Path:
    return save_tiny(folder / "base", **options)


def save_adapter(folder: Path, base: Path, kind: str) -> Path:
    """An adapter of some kind with weights that make a difference."""
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = {
        "lora": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        "lora_everywhere": lambda: LoraConfig(
            r=2, lora_alpha=8, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        "lora_modules": lambda: LoraConfig(
            r=4, target_modules=["q_proj"], modules_to_save=["norm", "o_proj"], task_type="CAUSAL_LM"
        ),
        "bias": lambda: LoraConfig(r=4, target_modules=["q_proj"], bias="lora_only", task_type="CAUSAL_LM"),
        "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "ia3": lambda: IA3Config(
            target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
    }[kind]()
    with isolated_rng(1), quiet_libraries():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / kind)
    return folder / kind


def save_lora(models: Path, name: str, **options: Any) -> Path:
    """A LoRA adapter of its own shape, on the base in a folder and beside it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options}
    with isolated_rng(3), quiet_libraries():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(models / "base"), LoraConfig(**settings))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(models / name, save_embedding_layers=False)
    return models / name


def harness_lm(folder: Path, kind: str, **options: Any) -> HFLM:
    """An HFLM as the stock command makes it: a target of the given kind in float32 on the CPU."""
    base = folder / "base"
    if not base.exists():
        save_base(folder)
    options = {"device": "cpu", "dtype": "float32", "batch_size": 3, **options}
    with isolated_rng(0), quiet_libraries():
        if kind == "full":
            if not (folder / "full").exists():
                save_tiny(folder / "full", seed=5)
            return HFLM(pretrained=str(folder / "full"), **options)
        if not (folder / kind).exists():
            save_adapter(folder, base, kind)
        return HFLM(pretrained=str(base), peft=str(folder / kind), **options)


def rolling(lm: HFLM, texts: list[str]) -> list[float]:
    """The harness's own log-likelihoods."""
    # Pairs since 0.5, of context and text and of log-likelihood and greedy, as of every other request.
    nothing = ("",) if importlib.util.find_spec("lm_eval.scorers") else ()
    requests = [
        Instance("loglikelihood_rolling", {}, (*nothing, text), idx=0, task_name="rolling", doc_id=0) for text in texts
    ]
    with quiet_libraries():
        found = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    return [each[0] if isinstance(each, tuple) else each for each in found]


def inputs(backend: Any, texts: list[str]) -> list[ScoreInput]:
    """Texts as the backend's own frame has them read."""
    frames = [backend.frame(text) for text in texts]
    return [
        ScoreInput((*frame.before, *backend.encode(text), *frame.after), frame.context)
        for text, frame in zip(texts, frames, strict=True)
    ]


def naive(model: Any, item: ScoreInput) -> tuple[torch.Tensor, list[bool], torch.Tensor, torch.Tensor]:
    """Log-prob, top-1, mean and std of every scored token of one sequence, float64, from the definitions."""
    sequence = [*item.context_ids, *item.token_ids]
    with torch.no_grad():
        logp = model(torch.tensor([sequence[:-1]])).logits[0].double().log_softmax(-1)
    logp = logp[len(logp) - item.scored :]
    targets = sequence[len(sequence) - item.scored :]
    mean = (logp.exp() * logp).sum(-1)
    std = (logp.exp() * (logp - mean[:, None]) ** 2).sum(-1).sqrt()
    return logp[range(item.scored), targets], (logp.argmax(-1) == torch.tensor(targets)).tolist(), mean, std


def fingerprint(model: torch.nn.Module) -> dict[str, Any]:
    """Everything about a model that a later task could notice: objects, names, bits, flags, modes."""
    return {
        "modules": {name: (id(module), type(module).__name__) for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "parameters": {name: (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "bits": {name: value.clone() for name, value in model.state_dict().items()},
        "adapters": repr(getattr(model, "peft_config", None)),
        "active": repr(getattr(model, "active_adapter", None)),
        "targeted": repr(getattr(getattr(model, "base_model", None), "targeted_module_names", None)),
        "use_cache": model.config.use_cache,
        "repr": repr(model),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in before:
        if key == "bits":
            assert list(before[key]) == list(after[key])
            assert all(torch.equal(value, after[key][name]) for name, value in before[key].items())
        else:
            assert before[key] == after[key], key


def rng_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def plain_logprobs(lm: HFLM, model: Any, text: str) -> list[float]:
    """Log-probabilities of a text's tokens but the first by a plain forward pass over what the tokenizer gives."""
    ids = lm.tokenizer(text)["input_ids"]
    with torch.no_grad(), quiet_libraries():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -(len(ids) - 1) :]
    return logits.float().log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()
