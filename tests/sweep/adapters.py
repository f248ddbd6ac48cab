"""Every kind of adapter that peft has for causal models, on a tiny Llama, with weights that matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from transformers import AutoModelForCausalLM, AutoTokenizer

from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

QV, MLP = ["q_proj", "v_proj"], ["up_proj", "down_proj"]
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}


def _lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": QV, **settings})


def _of(kind: str, **settings: Any) -> Callable[[], Any]:
    return lambda: PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](
        **{"task_type": "CAUSAL_LM", "target_modules": QV, **settings}
    )


LORA: dict[str, Callable[[], Any]] = {
    "lora": _lora,
    "lora, gaussian": lambda: _lora(init_lora_weights="gaussian"),
    "lora, pissa": lambda: _lora(init_lora_weights="pissa"),
    "lora, pissa_niter_4": lambda: _lora(init_lora_weights="pissa_niter_4"),
    "lora, olora": lambda: _lora(init_lora_weights="olora"),
    "lora, orthogonal": lambda: _lora(init_lora_weights="orthogonal"),
    "lora, eva": lambda: _lora(init_lora_weights="eva"),
    "lora, corda": lambda: _lora(
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    ),
    "lora, loftq": lambda: _lora(init_lora_weights="loftq", loftq_config=peft.LoftQConfig(loftq_bits=4)),
    "lora, random B": lambda: _lora(init_lora_weights=False),
    "lora, all-linear": lambda: _lora(target_modules="all-linear"),
    "lora, embeddings": lambda: _lora(target_modules=["embed_tokens", "q_proj"]),
    "lora, output layer": lambda: _lora(target_modules=["lm_head", "q_proj"]),
    "lora, dora": lambda: _lora(use_dora=True),
    "lora, rslora": lambda: _lora(use_rslora=True, lora_alpha=3),
    "lora, bias all": lambda: _lora(bias="all"),
    "lora, bias lora_only": lambda: _lora(bias="lora_only"),
    "lora, lora_bias": lambda: _lora(lora_bias=True),
    "lora, modules_to_save": lambda: _lora(modules_to_save=["norm", "o_proj"]),
    "lora, modules_to_save of the ends": lambda: _lora(modules_to_save=["embed_tokens", "lm_head"]),
    "lora, trainable_token_indices": lambda: _lora(trainable_token_indices=[1, 5, 40]),
    "lora, target_parameters": lambda: _lora(target_modules=[], target_parameters=["mlp.gate_proj.weight"]),
    "lora, layers_to_transform": lambda: _lora(layers_to_transform=[1]),
    "lora, rank_pattern": lambda: _lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 32}),
    "lora, layer_replication": lambda: _lora(layer_replication=[[0, 2], [1, 2]]),
    "lora, alora": lambda: _lora(alora_invocation_tokens=[7, 9]),
}
OTHER: dict[str, Callable[[], Any]] = {
    "ADALORA": _of("ADALORA", init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1),
    "ADAMSS": _of("ADAMSS", r=8, num_subspaces=2),
    "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1),
    "BEFT": _of("BEFT"),
    "BOFT": _of("BOFT", boft_block_size=4),
    "C3A": _of("C3A", block_size=8),
    "CARTRIDGE": lambda: peft.CartridgeConfig(**PROMPT),
    "CPT": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[5, 6, 7], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 4]
    ),
    "DEFT": _of("DEFT", r=4),
    "DELORA": _of("DELORA", r=4),
    "FOURIERFT": _of("FOURIERFT", n_frequency=50),
    "FROD": _of("FROD"),
    "GLORA": _of("GLORA", r=4),
    "GRALORA": _of("GRALORA", r=8, gralora_k=2),
    "HIRA": _of("HIRA", r=4),
    "HRA": _of("HRA", r=4),
    "IA3": _of("IA3", target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LILY": _of("LILY", r=4, stride_A=1, num_B=2),
    "LN_TUNING": _of("LN_TUNING", target_modules=["norm", "input_layernorm"]),
    "LOHA": _of("LOHA", r=4),
    "LOKR": _of("LOKR", r=4),
    "MISS": _of("MISS", r=4),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(**PROMPT, num_ranks=1, num_tasks=2),
    "OFT": _of("OFT", r=0, oft_block_size=4),
    "OSF": _of("OSF", effective_rank=4),
    "PEANUT": _of("PEANUT", r=4),
    "POLY": _of("POLY", r=4, n_tasks=2, n_skills=2),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(**PROMPT),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(**PROMPT),
    "PSOFT": _of("PSOFT", r=4),
    "PVERA": _of("PVERA", r=4),
    "P_TUNING": lambda: peft.PromptEncoderConfig(**PROMPT),
    "RANDLORA": _of("RANDLORA", r=4),
    "ROAD": _of("ROAD", group_size=4),
    "SHADOW": lambda: peft.ShadowConfig(task_type="CAUSAL_LM"),
    "SHIRA": _of("SHIRA", r=4),
    "SUPERTUNING": _of("SUPERTUNING"),
    "TINYLORA": _of("TINYLORA"),
    "TRAINABLE_TOKENS": lambda: peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[1, 5, 40]),
    "UNILORA": _of("UNILORA", r=4, theta_d_length=64),
    "VBLORA": _of("VBLORA", r=4, num_vectors=16, vector_length=16, topk=2),
    "VERA": _of("VERA", r=4),
    "WAVEFT": _of("WAVEFT", n_frequency=50),
}
ADAPTERS = {**LORA, **OTHER}
UNTIED = frozenset(
    {"lora, output layer", "lora, modules_to_save of the ends", "lora, trainable_token_indices", "TRAINABLE_TOKENS"}
)
"""Kinds that the harness cannot load on a model whose output layer is its embeddings: it ties them once more."""
NO_TARGETS = {"XLORA": "mixes other adapters, by paths that are given when it is loaded: the harness can't load one"}
"""Types that can't be a target of the harness."""


def save_target(kind: str, base: Path, folder: Path) -> Path:
    """A trained-looking adapter of a kind on the model in `base`, as peft saves it."""
    config = ADAPTERS[kind]()
    with isolated_rng(1), quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if kind == "lora, corda":
            ids = torch.randint(0, 300, (1, 64))
            preprocess_corda(model, config, run_model=lambda: model(ids))
        model = peft.get_peft_model(model, config)
        if kind == "lora, eva":
            data = [{"input_ids": torch.randint(0, 300, (4, 32))} for _ in range(4)]
            peft.initialize_lora_eva_weights(model, data)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def save_untied(base: Path, folder: Path) -> Path:
    """The same model with an output layer of its own."""
    with isolated_rng(2), quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(base, tie_word_embeddings=False)
        model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.lm_head.weight))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
