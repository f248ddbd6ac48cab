"""`spvmia_plugin.audit` on a model in memory: the numbers of the command, and nothing left behind."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from spvmia_plugin import audit
from spvmia_plugin.analysis import load
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.harness.conftest import read_jsonl

ATTACKS = ["loss", "lira_base", "spv_wbc"]


@pytest.fixture
def target(base, adapter):
    """The model as a notebook has it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with isolated_rng(0), quiet_libraries():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return model, AutoTokenizer.from_pretrained(base)


def test_the_numbers_are_those_of_the_command(target, evaluate, options, tmp_path):
    model, tokenizer = target
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    rows = {name: read_jsonl(options[f"mia_{name}"]) for name in ("members", "nonmembers", "prompts")}
    settings = {name.removeprefix("mia_"): value for name, value in options.items() if name[4:] not in rows}
    found = audit(model, tokenizer, **rows, attacks=ATTACKS, cache_dir=str(tmp_path / "one"), **settings)
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    tasks = [f"{name}_mia_custom" for name in ATTACKS]
    of_command = load(evaluate(tasks, {**options, "mia_cache_dir": str(tmp_path / "two")}))
    columns = ["id", "member", *ATTACKS]
    ours, theirs = (each.records[columns].sort_values("id", ignore_index=True) for each in (found, of_command))
    assert ours.equals(theirs)
    assert ours[ATTACKS].notna().all(axis=None)
    metrics = ["auroc", "auroc_low", "auroc_high"]
    assert found.attacks[metrics].equals(of_command.attacks.loc[found.attacks.index, metrics])


def test_rows_can_be_files_mappings_and_other_columns(target, files, tmp_path):
    model, tokenizer = target
    rows = [{"note": text} for text in read_jsonl(files["mia_nonmembers"])]
    with pytest.raises(SpvmiaError, match="note"):  # the files' column is another
        audit(model, tokenizer, members=files["mia_members"], nonmembers=rows, attacks="loss", text_column="note")
    members = ({"note": text} for text in read_jsonl(files["mia_members"]))
    given = {"members": members, "nonmembers": rows, "attacks": "loss", "text_column": "note", "block_size": 0}
    found = audit(model, tokenizer, **given, cache_dir=str(tmp_path), harness={"limit": 20})
    assert len(found.records) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ["los"]}, "attacks: expected names of attacks .*, got 'los'"),
        ({"members": [1, 2]}, "members: row 0: expected a text, or a mapping .*, got int"),
        ({"self_promts": 3}, "mia_self_promts.*mia_self_prompts"),
        ({"members": "nowhere.jsonl"}, "mia_members"),
    ],
)
def test_bad_input(target, files, tmp_path, change, message):
    model, tokenizer = target
    good = {"members": files["mia_members"], "nonmembers": files["mia_nonmembers"], "attacks": ["loss"]}
    with pytest.raises(SpvmiaError, match=message):
        audit(model, tokenizer, **{**good, "cache_dir": str(tmp_path), **change})
