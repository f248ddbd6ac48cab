"""Targets by prefix tuning, p-tuning and IA3: kinds of adapters that `spvmia finetune` does not make.

They are trained on the members of a LoRA target with the same seed, so that the methods differ in nothing else, and get
its manifest with their own method and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.paper.texts import read_target
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.util.files import private_folder

VIRTUAL_TOKENS = 20
"""Of prefix tuning and p-tuning."""


def train_target(lora_target: Path, output: Path, kind: str, options: Mapping[str, object]) -> None:
    """Train the adapter and write it with its manifest.

    Args:
        lora_target: whose members it is trained on.
        output: folder of the new target.
        kind: `prefix`, `p-tuning` or `ia3`.
        options: of `spvmia finetune`; epochs, lr, batch-size and seed are read.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spvmia_plugin.training.base_model import training_device
    from spvmia_plugin.training.trainer import TrainSettings, train
    from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

    manifest = read_manifest(lora_target)
    tokenizer = AutoTokenizer.from_pretrained(manifest.base_model)
    members = [record.text for record in read_target(lora_target)[0]["members"]]
    sequences = [list(tokenizer(text, verbose=False)["input_ids"]) for text in members]
    settings = TrainSettings(
        epochs=float(str(options["epochs"])),
        lr=float(str(options["lr"])),
        batch_size=int(str(options["batch-size"])),
        seed=int(str(options["seed"])),
        save_steps=0,
    )
    private_folder(output)
    with isolated_rng(settings.seed), quiet_libraries():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(manifest.base_model), _config(kind))
        model.to(training_device())
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        record = train(model, sequences, settings, output, pad_token_id=pad, description=f"fine-tuning by {kind}")
        model.save_pretrained(output)
    told = {"method": kind, "epochs": settings.epochs, "lr": settings.lr}
    settings_told = {key: value for key, value in manifest.settings.items() if not key.startswith("lora_")} | told
    made = replace(manifest, method=kind, settings=settings_told, training=record)
    write_manifest(made, output / MANIFEST_NAME)


def _config(kind: str) -> Any:
    from peft import IA3Config, PrefixTuningConfig, PromptEncoderConfig

    common = {"task_type": "CAUSAL_LM"}
    if kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, **common)
    if kind == "p-tuning":
        return PromptEncoderConfig(num_virtual_tokens=VIRTUAL_TOKENS, encoder_hidden_size=128, **common)
    return IA3Config(**common)
