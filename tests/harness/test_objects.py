"""A model, or a tokenizer, handed to the harness as an object: no name to look up, and it changes between runs."""

from __future__ import annotations

import json

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.given import check_base
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

from .conftest import TASKS

ATTACKS = ["loss_mia_custom", "lira_base_mia_custom", "spv_wbc_mia_custom"]


def scores(result):
    found = {}
    for task, samples in result["samples"].items():
        for sample in samples:
            found[task, sample["doc"]["id"]] = json.loads(sample["resps"][0][0])
    return found


def plain(base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def test_one_object_with_swapped_adapters_and_one_store(base, adapter, evaluate, options, tmp_path):
    """Each run's answers are what a run of its own, with its own store, gives."""
    from peft import LoraConfig, PeftModel

    from spvmia_plugin.models.adapters import Snapshot

    with isolated_rng(2), quiet_libraries():
        model = PeftModel.from_pretrained(plain(base), adapter, adapter_name="x").eval()
        model.add_adapter("y", LoraConfig(r=4, task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if ".y." in name:
                torch.nn.init.normal_(parameter, std=0.2)
    as_it_was = Snapshot(model)

    def switched_off():
        model.base_model.disable_adapter_layers()

    def scaled():
        for module in model.modules():
            if isinstance(scaling := getattr(module, "scaling", None), dict) and "x" in scaling:
                scaling["x"] *= 3

    changes = {"x": lambda: None, "y": lambda: model.set_adapter("y"), "off": switched_off, "scaled": scaled}

    def run(change, cache):
        as_it_was.restore()
        changes[change]()
        args = {"pretrained": model, "peft": None, "dtype": None, "tokenizer": str(base)}
        metadata = {**options, "mia_cache_dir": str(tmp_path / cache), "mia_max_samples": 20}
        return scores(evaluate(ATTACKS, metadata, model_args=args))

    together = {change: run(change, "one") for change in changes}
    for change, found in together.items():
        alone = run(change, change)
        assert found == alone, change
    targets = [[s["target"] for (task, _), s in found.items() if task == ATTACKS[0]] for found in together.values()]
    assert len(set(map(tuple, targets))) == len(changes)
    bases = [[s["reference"] for (task, _), s in found.items() if task == ATTACKS[1]] for found in together.values()]
    assert bases[0] == bases[1] == bases[3]
    reasons = {s["reason"] for (task, _), s in together["off"].items() if task == ATTACKS[1]}
    assert reasons == {"the target is the base"}


def test_a_model_and_a_tokenizer_as_objects(base, evaluate, options, tmp_path):
    """With a base that is named; packing takes the tokenizer that the harness takes."""
    from transformers import AutoTokenizer

    with torch.random.fork_rng(devices=[]):
        model = plain(base)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    metadata = {**options, "mia_base_model": str(base), "mia_max_samples": 20, "mia_block_size": 16}
    found = []
    for tokenizer in (AutoTokenizer.from_pretrained(base), str(base), None):
        args = {"pretrained": model, "peft": None, "dtype": None, "tokenizer": tokenizer}
        cache = {"mia_cache_dir": str(tmp_path / f"cache-{len(found)}")}
        found.append(scores(evaluate(ATTACKS[:2], {**metadata, **cache}, model_args=args)))
    assert found[0] == found[1] == found[2]
    assert all(score["score"] is not None for score in found[0].values())


def test_an_object_has_no_place_where_a_manifest_could_lie(base, monkeypatch, tmp_path):
    """Its description is no path, however long it is, and the harness loads no adapter over an object."""
    from types import SimpleNamespace

    data = SimpleNamespace(base_model=str(base))
    settings = SimpleNamespace(base_model=None)
    model = plain(base)
    assert len(str(model)) > 255
    check_base(data, settings, {"pretrained": model, "peft": "adapter"})
    check_base(data, settings, {"pretrained": base, "peft": "adapter"})
    with pytest.raises(SpvmiaError, match="mia_manifest: the manifest belongs to base model"):
        check_base(data, settings, {"pretrained": "x" * 5000, "peft": "adapter"})


def test_a_quantised_copy_of_the_manifests_base_is_that_base_and_said(base, evaluate, options, monkeypatch, tmp_path):
    """Told by what the files hold: see tests/models/test_copies.py."""
    from types import SimpleNamespace

    from spvmia_plugin.harness import given, task

    def shown(name, original, revision):
        return "4 bits (bitsandbytes)" if (name, original, revision) == ("copy-4bit", str(base), "v2") else None

    monkeypatch.setattr(given, "quantised_copy", shown)
    data, settings = SimpleNamespace(base_model=str(base)), SimpleNamespace(base_model=None)
    (told,) = check_base(data, settings, {"pretrained": "copy-4bit", "peft": "adapter", "revision": "v2"})
    assert told == (
        f"the base that was loaded, copy-4bit, is the manifest's, {base}, in 4 bits (bitsandbytes): what is audited is "
        "the quantised model"
    )
    with pytest.raises(SpvmiaError, match="mia_manifest: the manifest belongs to base model"):
        check_base(data, settings, {"pretrained": "copy-4bit", "peft": "adapter"})
    monkeypatch.setattr(task, "check_base", lambda *_: [told])
    result = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "store")})
    assert told in result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["notes"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_in_the_harnesss_own_object_with_a_base_by_name(wrapped, base, adapter, options, tmp_path):
    """`HFLM(pretrained=model)`: whatever of it reaches the metadata is no path."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from peft import PeftModel
    from transformers import AutoTokenizer

    with quiet_libraries():
        model = PeftModel.from_pretrained(plain(base), adapter) if wrapped else plain(base)
        lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base), batch_size=8)
        metadata = {**options, "mia_base_model": str(base), "mia_cache_dir": str(tmp_path / "store")}
        scores = []
        for given in (metadata, {**metadata, "pretrained": model}):
            manager = TaskManager(metadata=given, include_path=str(TASKS), include_defaults=False)
            result = lm_eval.simple_evaluate(model=lm, tasks=["spv_wbc_mia_custom"], task_manager=manager)
            scores.append([row["resps"] for row in result["samples"]["spv_wbc_mia_custom"]])
    assert scores[0] == scores[1]
