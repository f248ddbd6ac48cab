"""`spvmia prepare` and a later run are one audit in two commands."""

from __future__ import annotations

import json

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.prepare import prepare
from spvmia_plugin.util.libraries import quiet_libraries


def test_a_prepared_reference_is_found_by_the_run(evaluate, base, adapter, options, tmp_path):
    metadata = {**options, "mia_cache_dir": str(tmp_path)}
    with quiet_libraries():
        outcome = prepare("hf", f"pretrained={base},peft={adapter},dtype=float32", "spv_mia_custom", metadata)
    made = outcome.details["reference"]
    assert made["trained"] is True
    json.dumps(made)
    result = evaluate(["spv_mia_custom"], metadata)
    found = result["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]
    assert found["stages"]["reference"]["trained"] is False
    assert found["stages"]["reference"]["folder"] == made["folder"]
    assert found["cost"]["reference"]["training_tokens"] == 0
    assert found["cost"]["reference"]["generated_tokens"] == 0


@pytest.mark.parametrize("extra", [{"task": "loss_mia_custom"}, {"mia_reference": "base"}])
def test_what_trains_nothing_needs_no_preparing(base, adapter, options, tmp_path, extra):
    task = extra.pop("task", "spv_mia_custom")
    metadata = {**options, **extra, "mia_cache_dir": str(tmp_path)}
    with pytest.raises(SpvmiaError, match=r"prepar|trains a reference"):
        prepare("hf", f"pretrained={base},peft={adapter}", task, metadata)


def test_the_base_as_reference_trains_nothing(evaluate, options, tmp_path):
    metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_reference": "base"}
    result = evaluate(["spv_ez_mia_custom", "ez_mia_custom"], metadata)
    audit = result["configs"]["spv_ez_mia_custom"]["metadata"]["mia_audit"]
    assert "reference" not in audit["stages"]
    assert audit["models"]["reference"] == audit["models"]["base"]
    assert result["results"]["spv_ez_mia_custom"]["auroc,none"] == result["results"]["ez_mia_custom"]["auroc,none"]


def test_lora_targets_that_do_not_exist_are_refused_before_anything_is_sampled(evaluate, options, tmp_path):
    metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_lora_targets": "q_prj"}
    with pytest.raises(SpvmiaError, match=r"mia_lora_targets: .*'q_prj'"):
        evaluate(["spv_mia_custom"], metadata)
    assert not (tmp_path / "self_prompts").exists()
