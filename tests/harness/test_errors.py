"""What a user sees when something is wrong: one line, before long work, never a record's text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from spvmia_plugin.errors import SpvmiaError

from .conftest import TASKS, write_jsonl


@pytest.mark.parametrize(
    ("extra", "task", "words"),
    [
        ({"mia_self_promts": 3}, "spv_mia_custom", ["mia_self_promts", "did you mean 'mia_self_prompt"]),
        ({"mia_self_prompt": 3}, "spv_mia_custom", ["mia_self_prompt", "did you mean 'mia_self_prompts'"]),
        ({"mia_self_prompts": "reply"}, "spv_mia_custom", ["mia_self_prompts", "did you mean 'mia_self_prompt'"]),
        ({"mia_self_prompts": "many"}, "spv_mia_custom", ["mia_self_prompts", "expected", "'many'"]),
        ({"mia_mask_rate": 1.5}, "spv_mia_custom", ["mia_mask_rate", "<= 1", "1.5"]),
        ({"mia_perturbation": "casual"}, "spv_mia_custom", ["mia_perturbation", "did you mean 'causal'"]),
        ({"mia_reference": "/nowhere/reference"}, "spv_mia_custom", ["mia_reference", "/nowhere/reference"]),
        ({"mia_min_k": 0}, "min_k_mia_custom", ["mia_min_k", "0"]),
        ({"mia_wbc_windows": [0]}, "wbc_mia_custom", ["mia_wbc_windows"]),
        ({"mia_members": "/nowhere/members.jsonl"}, "loss_mia_custom", ["mia_members", "/nowhere/members.jsonl"]),
    ],
)
def test_bad_options_are_told_in_one_line(evaluate, options, tmp_path, extra, task, words):
    with pytest.raises(SpvmiaError) as error:
        evaluate([task], {**options, "mia_cache_dir": str(tmp_path), **extra})
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_prompts_that_overlap_the_audited_records(evaluate, options, tmp_path, files):
    with pytest.raises(SpvmiaError, match=r"mia_prompts: .*members\.jsonl:1"):
        evaluate(["loss_mia_custom"], {**options, "mia_prompts": files["mia_members"], "mia_cache_dir": str(tmp_path)})


def test_no_base_model_to_be_found(evaluate, options, tmp_path, base):
    """A full model without a manifest says nothing of what it was before."""
    with pytest.raises(SpvmiaError, match="mia_base_model"):
        evaluate(["spv_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)}, model_args={"peft": None})


def test_a_base_with_another_tokenizer(evaluate, options, tmp_path, base):
    from tests.tiny import save_tiny, tiny_texts

    other = save_tiny(tmp_path / "other", tiny_texts(30, seed=99))
    metadata = {**options, "mia_cache_dir": str(tmp_path / "cache"), "mia_base_model": str(other)}
    with pytest.raises(SpvmiaError, match=r"mia_base_model.*tokenizer"):
        evaluate(["spv_mia_custom"], metadata, model_args={"peft": None})


def test_the_stock_command_ends_with_one_line_and_status_1(base, adapter, tmp_path):
    members = write_jsonl(tmp_path / "members.jsonl", ["the quick secret fox"] * 30)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={base},peft={adapter}", "--tasks", "loss_mia_custom"]
    command += ["--include_path", str(TASKS), "--metadata", f'{{"mia_members": "{members}"}}']
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mia_nonmembers: ")
    assert "Traceback" not in done.stderr
    assert "secret fox" not in done.stderr


def test_a_tokenizer_that_cannot_be_loaded_is_told_with_the_librarys_reason(tmp_path, base):
    from spvmia_plugin.harness.shared import load_tokenizer
    from spvmia_plugin.training.base_model import BaseModel
    from spvmia_plugin.training.config import FinetuneConfig

    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(
        SpvmiaError, match=r"pretrained: no tokenizer could be loaded from .* \(\w+: \w+.*\); name a local"
    ):
        load_tokenizer({"pretrained": str(folder)})
    with pytest.raises(SpvmiaError, match=r"--model: no model with a tokenizer .* \(\w+: \w+.*\); name a local folder"):
        BaseModel.find(FinetuneConfig(str(folder), "data.jsonl", "out"))
