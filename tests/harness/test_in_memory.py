"""`spvmia_plugin.audit` on a model in memory: the numbers of the command, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import random
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pytest
import torch

from spvmia_plugin import audit
from spvmia_plugin.analysis import load
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.in_memory import _called, _each, _line, _modes_kept
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


def test_the_numbers_are_those_of_the_command(target, adapter, evaluate, options, tmp_path):
    model, tokenizer = target
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    rows = {name: read_jsonl(options[f"mia_{name}"]) for name in ("members", "nonmembers", "prompts")}
    settings = {name.removeprefix("mia_"): value for name, value in options.items() if name[4:] not in rows}
    found = audit(model, tokenizer, **rows, attacks=ATTACKS, cache_dir=str(tmp_path / "one"), **settings)
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    tasks = [f"{name}_mia_custom" for name in ATTACKS]
    of_command = load(evaluate(tasks, {**options, "mia_cache_dir": str(tmp_path / "two")}))
    columns = ["id", "member", *ATTACKS]
    ours, theirs = (each.records[columns].sort_values("id", ignore_index=True) for each in (found, of_command))
    assert ours.equals(theirs)
    assert ours[ATTACKS].notna().all(axis=None)
    assert repr(found).startswith(f"<Results of {model.name_or_path} with adapter default on custom: ")
    assert repr(of_command).startswith(f"<Results of {adapter} on custom: ")
    metrics = ["auroc", "auroc_low", "auroc_high"]
    assert found.attacks[metrics].equals(of_command.attacks.loc[found.attacks.index, metrics])


def test_a_model_in_memory_is_called_by_its_name(base, adapter, target):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base)
    assert _called(plain) == str(base)
    assert _called(AutoModelForCausalLM.from_config(plain.config)) in (str(base), "LlamaForCausalLM")
    model, _ = target
    assert _called(model) == f"{base} with adapter default"
    model.load_adapter(adapter, "second")
    model.set_adapter("second")
    assert _called(model) == f"{base} with adapter second"


def test_rows_can_be_files_mappings_and_other_columns(target, files, tmp_path):
    model, tokenizer = target
    rows = [{"note": text} for text in read_jsonl(files["mia_nonmembers"])]
    with pytest.raises(SpvmiaError, match="note"):  # the files' column is another
        audit(model, tokenizer, members=files["mia_members"], nonmembers=rows, attacks="loss", text_column="note")
    members = ({"note": text} for text in read_jsonl(files["mia_members"]))
    given = {"members": members, "nonmembers": rows, "attacks": "loss", "text_column": "note", "block_size": 0}
    found = audit(model, tokenizer, **given, cache_dir=str(tmp_path), harness={"limit": 20})
    assert len(found.records) == 20


def tables(texts):
    """The same rows in whatever holds rows in a notebook, each with a date and a missing value."""
    import datasets
    import pandas
    import pyarrow

    seen = datetime(2026, 1, 2)
    columns = {"text": texts, "seen": [seen] * len(texts), "n": [None, *range(1, len(texts))]}
    frame = pandas.DataFrame(columns)
    table = pyarrow.table(columns)
    return {
        "list": frame.to_dict("records"),
        "pandas": frame,
        "pandas, a column": frame["text"],
        "pyarrow": table,
        "pyarrow, a column": table["text"],
        "datasets": datasets.Dataset(table),
        "numpy": np.array(texts),
        "dates": [{"text": text, "seen": date(2026, 1, 2), "n": np.int64(3)} for text in texts],
    }


@pytest.mark.parametrize("kind", tables(["a"]))
def test_rows_of_tables_are_their_records(target, files, tmp_path, kind):
    model, tokenizer = target
    texts = read_jsonl(files["mia_members"])
    given = {"nonmembers": files["mia_nonmembers"], "attacks": "loss", "block_size": 0, "log_text": True}
    found = audit(model, tokenizer, members=tables(texts)[kind], **given, cache_dir=str(tmp_path))
    members = found.audit.tasks[0].records
    ids = [record.id for record in members if record.is_member]
    assert sorted(members.texts(ids).values()) == sorted(texts)


def test_values_of_rows_are_those_of_files():
    """What pandas makes of lists in a Parquet file, and of a value that is not there."""
    import pandas

    turns = np.array([{"role": "user", "content": "hi"}], dtype=object)
    frame = pandas.DataFrame(
        {"messages": [turns, None], "n": [np.float32(0.5), None], "at": [pandas.Timestamp(0), None]}
    )
    lines = [json.loads(_line("members", 0, row)) for row in _each("members", frame)]
    assert lines == [
        {"messages": list(turns), "n": 0.5, "at": "1970-01-01T00:00:00"},
        {"messages": None, "n": None, "at": None},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ["los"]}, "attacks: expected names of attacks .*, got 'los'"),
        ({"members": [1, 2]}, "members: row 0: expected a text, or a mapping .*, got int"),
        ({"members": 5}, r"members: expected a file, an hf: name, or rows .*, got int; pass a list"),
        ({"prompts": 0.5}, r"prompts: expected a file, an hf: name, or rows .*, got float; pass a list"),
        ({"members": {"text": ["a", "b"]}}, "members: expected rows, got dict of 'text'; .*one split of a DatasetDict"),
        ({"members": {"a text of somebody": 1}}, "members: expected rows, got dict; pass"),
        ({"members": [{"text": "a", "of": Decimal(1)}]}, r"members: row 0: expected columns .*\(Decimal\)"),
        ({"nonmembers": [{"text": "a"}, {("a", 1): "b"}]}, r"nonmembers: row 1: expected columns .*not tuple"),
        ({"attacks": []}, "attacks: expected names of attacks .*, got none; leave the argument out for all of them"),
        (
            {"harness": {"limitt": 3}},
            r"harness: expected arguments .*, got 'limitt' \(did you mean 'limit'\?\);",
        ),
        ({"harness": {"tasks": ["x"]}}, "harness: expected arguments .* other than model, .*, got 'tasks'; correct it"),
        (
            {"harness": {"device": "cpu"}},
            "harness: expected arguments .* other than model, .*, got 'device';",
        ),
        ({"self_promts": 3}, "mia_self_promts.*mia_self_prompts"),
        ({"members": "nowhere.jsonl"}, "mia_members"),
    ],
)
def test_bad_input(target, files, tmp_path, change, message):
    model, tokenizer = target
    good = {"members": files["mia_members"], "nonmembers": files["mia_nonmembers"], "attacks": ["loss"]}
    with pytest.raises(SpvmiaError, match=message):
        audit(model, tokenizer, **{**good, "cache_dir": str(tmp_path), **change})


def test_every_module_keeps_its_mode_also_where_an_audit_fails():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with contextlib.suppress(RuntimeError), _modes_kept(model):
        model.eval()
        raise RuntimeError
    assert [module.training for module in model.modules()] == before == [True, True, False, False]
