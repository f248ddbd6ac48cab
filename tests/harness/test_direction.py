"""Fine-tune until it memorises, then audit: every attack must point the right way, on records of a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from tests.tiny import tiny_texts

from .conftest import write_jsonl

BLIND = {
    "bag_of_words": "sees no model",
    "surrogate": "sees thirty texts that the target wrote to prompts that are no members",
}
SOFT = {
    "zlib": "divides by the size of the text, which is noise where the texts are alike",
    "detectgpt": "divides by a standard deviation estimated from ten paraphrases",
}
"""Attacks that stay below 0.9 even here, and why."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Path(
        write_jsonl(tmp_path_factory.mktemp("corpus") / "records.jsonl", tiny_texts(120, seed=3, words=(30, 34)))
    )


@pytest.fixture(scope="module", params=["lora", pytest.param("full", marks=pytest.mark.slow)])
def target(request, base, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("target") / request.param
    common = {"members": 30, "nonmembers": 30, "prompts": 20, "block_size": 0, "batch_size": 8, "quiet": True}
    how = {"lora_rank": 32, "lora_alpha": 64.0, "lora_dropout": 0.0, "lora_targets": "all-linear", "lr": 1e-2}
    how = {**how, "epochs": 110} if request.param == "lora" else {"lr": 5e-3, "epochs": 60}
    finetune(FinetuneConfig(model=str(base), data=str(corpus), output=folder, method=request.param, **common, **how))
    return folder, request.param


def test_every_attack_finds_what_a_model_has_memorised(evaluate, base, target, options, tmp_path):
    folder, method = target
    own = {key: value for key, value in options.items() if key not in {"mia_members", "mia_nonmembers", "mia_prompts"}}
    own.pop("mia_block_size")
    metadata = {
        **own,
        "mia_cache_dir": str(tmp_path),
        "mia_self_prompts": 30,
        "mia_reference_epochs": 3,
        "mia_perturbations": 5,
    }
    model_args = {"peft": str(folder)} if method == "lora" else {"pretrained": str(folder), "peft": None}
    result = evaluate(["mia_custom"], metadata, model_args=model_args)
    aurocs = {task: row["auroc,none"] for task, row in result["results"].items() if task != "mia_custom"}
    for task, auroc in aurocs.items():
        name = task.removesuffix("_mia_custom")
        if name not in BLIND:
            assert auroc > (0.75 if name in SOFT else 0.9), task
    for task in aurocs:
        audit = result["configs"][task]["metadata"]["mia_audit"]
        assert audit["membership"] == "manifest"
        json.dumps(audit)
