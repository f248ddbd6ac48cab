"""Whole audits by the harness on an engine with SGLang's shapes: the scores are those of `--model hf`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.shared import load_tokenizer
from tests.engines import fake_sglang
from tests.harness.conftest import TASKS

VIEWS = ("loss", "zlib", "min_k", "lowercase", "lira_base", "ratio", "ez", "wbc", "recall", "neighbour", "spv_wbc")


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory):
    """The target with its adapter in its weights, which is all that the harness's class can load."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

    folder = tmp_path_factory.mktemp("merged") / "model"
    with isolated_rng(0), quiet_libraries():
        PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), adapter
        ).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def by_sglang(merged, monkeypatch, tmp_path_factory):
    lm_class = fake_sglang.install(monkeypatch)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))

    def run(tasks, metadata, **args):
        import lm_eval
        from lm_eval.tasks import TaskManager

        from spvmia_plugin.util.libraries import quiet_libraries

        args = {"pretrained": str(merged), **args}
        all_metadata = {**args, **metadata}
        manager = TaskManager(metadata=all_metadata, include_path=[str(TASKS)], include_defaults=False)
        with quiet_libraries():
            lm = lm_class(**args)
            result = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), task_manager=manager, metadata=all_metadata)
        return result, lm.model

    return run


@pytest.fixture
def metadata(options, base):
    return {**options, "mia_max_samples": 20, "mia_base_model": str(base)}


def scores(result):
    return {
        (task, sample["doc"]["id"]): json.loads(sample["resps"][0][0])
        for task, samples in result["samples"].items()
        for sample in samples
    }


def test_an_audit_is_that_of_hf(merged, adapter, evaluate, by_sglang, metadata, tmp_path):
    """The base, a reference and views of the records; the target by the engine, all others by torch in both."""
    tasks = [f"{name}_mia_custom" for name in VIEWS]
    reference = tmp_path / "reference"
    shutil.copytree(adapter, reference)
    settings = json.loads((reference / "adapter_config.json").read_text())
    (reference / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 3}))
    # The engine reads eight tokens fewer than the model could.
    metadata = {**metadata, "mia_reference": str(reference), "mia_max_length": 248}
    theirs = evaluate(
        tasks,
        {**metadata, "mia_cache_dir": str(tmp_path / "hf")},
        model_args={"pretrained": str(merged), "peft": None},
    )
    ours, engine = by_sglang(tasks, {**metadata, "mia_cache_dir": str(tmp_path / "sglang")})
    for task in tasks:
        assert ours["results"][task]["auroc,none"] == theirs["results"][task]["auroc,none"], task
    mine, others = scores(ours), scores(theirs)
    assert mine.keys() == others.keys()
    assert len(mine) == len(VIEWS) * 40
    for key, score in others.items():
        assert mine[key]["reason"] == score["reason"], key
        if score["score"] is not None:
            np.testing.assert_allclose(mine[key]["score"], score["score"], atol=1e-4, rtol=1e-4, err_msg=str(key))
    assert sum(count for count, _ in engine.calls) > 40 * 2  # records and their views, by the engine


def test_the_engine_writes_and_torch_trains(by_sglang, metadata, tmp_path):
    metadata = {**metadata, "mia_cache_dir": str(tmp_path / "cache")}
    tasks = ["spv_wbc_mia_custom", "wbc_mia_custom"]
    result, engine = by_sglang(tasks, metadata, enable_deterministic_inference=True)
    first = scores(result)
    assert all(score["score"] is not None for score in first.values())
    assert len({score["score"] for score in first.values()}) > len(first) / 2
    assert any(not asked["return_logprob"] for _, asked in engine.calls)  # self-prompts
    again, engine = by_sglang(tasks, metadata, enable_deterministic_inference=True)
    assert scores(again) == first  # from the store
    assert [count for count, _ in engine.calls] == [1, 1, 1]  # what it writes, and reads again; a probe
    elsewhere = {**metadata, "mia_cache_dir": str(tmp_path / "other")}
    fresh, _ = by_sglang(tasks, elsewhere, enable_deterministic_inference=True, random_seed=9)
    assert scores(fresh) == first  # a seed per prompt


def test_an_engine_that_reads_wrongly_ends_the_audit(by_sglang, metadata, tmp_path, monkeypatch):
    made = fake_sglang.Engine.__init__

    def shifted(self, **args):
        made(self, **args)
        self.shifted = True

    monkeypatch.setattr(fake_sglang.Engine, "__init__", shifted)
    with pytest.raises(SpvmiaError, match="expected SGLang to say the same of tokens"):
        by_sglang(["loss_mia_custom"], {**metadata, "mia_cache_dir": str(tmp_path / "cache")})


def test_what_needs_all_log_probabilities_is_refused_before_any_work(by_sglang, metadata, tmp_path):
    metadata = {**metadata, "mia_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(
        SpvmiaError, match=r"'sglang' lacks .*: grad_norm_mia_custom, min_k_pp_mia_custom; these can run"
    ):
        by_sglang(["loss_mia_custom", "min_k_pp_mia_custom", "grad_norm_mia_custom"], metadata)


def test_its_tokenizer_is_the_one_that_the_harness_names(base, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer({"pretrained": str(base), "tokenizer_path": str(tmp_path)}).chat_template is not None
    assert load_tokenizer({"pretrained": str(base), "tokenizer_path": None}).chat_template is None
