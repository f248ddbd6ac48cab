"""Whole audits by the harness on an engine with vLLM's shapes: the scores are those of `--model hf`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from lm_eval.api.model import LM

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.given import check_base
from spvmia_plugin.harness.shared import adapter_of, load_tokenizer
from tests.engines import fake_vllm
from tests.harness.conftest import TASKS
from tests.tiny import tiny_texts

VIEWS = ("loss", "lowercase", "min_k_pp", "icp", "neighbour", "wbc", "recall", "rmia", "spv", "spv_wbc", "info_rmia")


class VLLM(fake_vllm.VLLM, LM):
    """What the harness takes for a model."""

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = generate_until = loglikelihood


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    fake_vllm.install(monkeypatch)


@pytest.fixture
def by_vllm(base, adapter, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))

    def run(tasks, metadata, **args):
        import lm_eval
        from lm_eval.tasks import TaskManager

        from spvmia_plugin.util.libraries import quiet_libraries

        args = {"pretrained": str(base), "lora_local_path": str(adapter), **args}
        merged = {**args, **metadata}
        manager = TaskManager(metadata=merged, include_path=[str(TASKS)], include_defaults=False)
        with quiet_libraries():
            return lm_eval.simple_evaluate(model=VLLM(**args), tasks=list(tasks), task_manager=manager, metadata=merged)

    return run


def scores(result):
    return {
        (task, sample["doc"]["id"]): json.loads(sample["resps"][0][0])
        for task, samples in result["samples"].items()
        for sample in samples
    }


@pytest.mark.slow
def test_every_view_scores_as_by_hf(base, adapter, evaluate, by_vllm, options, tmp_path):
    """The base, the reference and all views of the records, each token by each model."""
    tasks = [f"{name}_mia_custom" for name in VIEWS]
    reference = tmp_path / "reference"
    shutil.copytree(adapter, reference)
    settings = json.loads((reference / "adapter_config.json").read_text())
    (reference / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 3}))
    # The engine reads two tokens fewer than the model could.
    metadata = {**options, "mia_max_samples": 20, "mia_reference": str(reference), "mia_max_length": 254}
    theirs = scores(evaluate(tasks, {**metadata, "mia_cache_dir": str(tmp_path / "hf")}))
    ours = scores(by_vllm(tasks, {**metadata, "mia_cache_dir": str(tmp_path / "vllm")}, max_logprobs=-1))
    assert ours.keys() == theirs.keys()
    assert len(ours) == len(VIEWS) * 40
    assert sum(score["score"] is None for score in theirs.values()) < 10
    for key, score in theirs.items():
        assert ours[key]["reason"] == score["reason"], key
        if score["reason"] == "record and probe exceed the model's context":
            continue
        np.testing.assert_allclose(ours[key]["score"], score["score"], atol=1e-4, rtol=1e-4, err_msg=str(key))


def test_the_engine_writes_and_torch_trains(by_vllm, options, tmp_path):
    metadata = {**options, "mia_max_samples": 20, "mia_cache_dir": str(tmp_path / "cache")}
    first = scores(by_vllm(["spv_wbc_mia_custom", "wbc_mia_custom"], metadata))
    assert all(score["score"] is not None for score in first.values())
    assert len({score["score"] for score in first.values()}) > len(first) / 2
    assert scores(by_vllm(["spv_wbc_mia_custom", "wbc_mia_custom"], metadata)) == first  # from the store


def test_what_needs_all_log_probabilities_is_refused_before_any_work(by_vllm, options, tmp_path):
    metadata = {**options, "mia_max_samples": 20, "mia_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(SpvmiaError, match=r"'vllm' lacks .*: grad_norm_mia_custom, min_k_pp_mia_custom; these can run"):
        by_vllm(["loss_mia_custom", "min_k_pp_mia_custom", "grad_norm_mia_custom"], metadata)


def test_its_adapter_is_one_wherever_the_harness_names_it(base, adapter, tmp_path):
    from types import SimpleNamespace

    assert adapter_of({"pretrained": "x", "lora_local_path": "y"}) == "y"
    assert adapter_of({"pretrained": "x", "peft": "z", "lora_local_path": None}) == "z"
    assert adapter_of({"pretrained": "x"}) is None
    data, settings = SimpleNamespace(base_model=str(base)), SimpleNamespace(base_model=None)
    with pytest.raises(SpvmiaError, match="mia_manifest: the manifest belongs to base model"):
        check_base(data, settings, {"pretrained": str(tmp_path), "lora_local_path": str(adapter)})
    trained = tmp_path / "trained"
    shutil.copytree(adapter, trained)
    tokenizer = load_tokenizer({"pretrained": str(base)})
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(trained)
    assert load_tokenizer({"pretrained": str(base), "lora_local_path": str(trained)}).chat_template is not None


def test_a_manifest_beside_its_adapter_is_found(base, by_vllm, tmp_path):
    """`spvmia finetune` writes it there."""
    lines = (json.dumps({"text": text}) for text in tiny_texts(120, seed=3))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    places = ["--model", str(base), "--data", str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "target")]
    sizes = ["--members", "20", "--nonmembers", "20", "--prompts", "6", "--epochs", "1", "--lora-rank", "4"]
    command = [sys.executable, "-m", "spvmia_plugin", "finetune", *places, *sizes, "--block-size", "16"]
    subprocess.run(command, check=True, capture_output=True)
    metadata = {"mia_cache_dir": str(tmp_path / "cache")}
    found = scores(by_vllm(["loss_mia_custom"], metadata, lora_local_path=str(tmp_path / "target")))
    assert len(found) == 40
