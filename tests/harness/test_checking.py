"""`spvmia check`: what a command would audit, and what it would fail by, told before any weights are read."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.harness.checking import Command, marked
from spvmia_plugin.harness.enable import tasks_folder
from tests.harness.conftest import TEMPLATE, read_jsonl


@pytest.fixture
def unread(monkeypatch):
    """Whoever reads weights fails: a file of safetensors may be opened for its header alone."""
    import safetensors
    import safetensors.torch
    import torch
    from transformers import PreTrainedModel

    def refuse(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)


@pytest.fixture
def command(base, adapter, files, tmp_path):
    """Run the command; `metadata` and `model` change the good one's."""

    def run(*own, tasks="spv_wbc_mia_custom,loss_mia_custom,arc_easy", metadata=(), model=(), more=()):
        options = {**files, "mia_block_size": 0, "mia_cache_dir": str(tmp_path / "store"), **dict(metadata)}
        options = {key: value for key, value in options.items() if value is not None}
        arguments = {"pretrained": str(base), "peft": str(adapter), **dict(model)}
        told = ",".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
        words = ["check", *own, "--model", "hf", "--model_args", told, "--tasks", tasks, "--device", "cpu", *more]
        return CliRunner().invoke(make_app("check"), [*words, "--metadata", json.dumps(options)])

    return run


@pytest.fixture
def check(command, unread):
    """The same, where nobody may read weights."""
    return command


def told(result):
    """Everything it said."""
    return f"{result.stdout}{result.stderr}"


@pytest.mark.parametrize(("dtype", "said"), [("bfloat16", 1), ("float32", 0), (None, 0)])
def test_a_precision_that_this_cpu_is_slow_in_is_told(check, monkeypatch, dtype, said):
    from spvmia_plugin.models import precision

    monkeypatch.setattr(precision, "is_slow_in", lambda dtype: dtype.itemsize == 2)
    result = check(model={"dtype": dtype})
    assert result.exit_code == 0, told(result)
    assert " ".join(told(result).split()).count("no instructions for bfloat16") == said


def test_a_command_as_it_is(check, base, files):
    from transformers import AutoTokenizer

    result = check("--json")
    assert result.exit_code == 0, told(result)
    found = json.loads(result.stdout)
    assert found["not_checked"] == ["arc_easy"]
    (audit,) = found["audits"]
    assert audit["attacks"] == ["spv_wbc", "loss"]
    assert audit["counts"]["members"] == {"records": 40, "documents": 40, "of": 40}
    assert audit["counts"]["nonmembers"] == {"records": 40, "documents": 40, "of": 40}
    assert audit["counts"]["prompts"] == 30
    name, row = audit["first"]["id"].split(":")
    text = read_jsonl(files[f"mia_{name.removesuffix('.jsonl')}"])[int(row) - 1]
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert audit["first"]["scored"] == [False, *[True] * (len(tokenizer(text)["input_ids"]) - 1)]
    assert audit["first"].keys() == {"id", "context", "scored"}  # ids are the text to who has the tokenizer
    assert "too_few_nonmembers_1pct" in [finding["code"] for finding in audit["findings"]]
    assert audit["resolution"]["n_members"] == 40
    assert audit["resolution"]["attacks"] == 2
    assert 0.1 < audit["resolution"]["half_width"] < 0.25
    assert audit["rate"] > 0
    stages = {stage["name"]: stage for stage in audit["plan"]}
    assert {"self-prompting the target", "training the reference", "scoring: target"} <= set(stages)
    assert stages["scoring: target"]["count"] == 80


def test_the_plan_is_that_of_the_run(command, evaluate, options, tmp_path, capsys):
    small = {"mia_self_prompts": 12, "mia_reference_epochs": 1, "mia_lora_rank": 4}
    planned = json.loads(command("--json", tasks="spv_wbc_mia_custom", metadata=small).stdout)["audits"][0]["plan"]
    evaluate(["spv_wbc_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "of_run")})
    shown = capsys.readouterr().err
    for stage in planned:
        line = next(line for line in shown.splitlines() if line.strip().startswith(stage["name"]))
        assert f"{stage['count']:,} {stage['unit']}" in line
        if stage["name"] == "scoring: target":  # of the base a first batch was scored to measure the speed
            continue
        assert f"{stage['tokens']:,}" in line


def test_it_says_it_in_words(check):
    result = check()
    assert result.exit_code == 0
    shown = told(result)
    assert "not checked, the harness's own or somebody else's: arc_easy" in shown
    assert "members: 40 records of 40 documents" in shown
    assert "told apart from guessing from" in shown
    assert "plan, as if the store were empty; the times are rough" in shown


def test_no_text_is_shown_unless_it_is_allowed(check, files):
    texts = [text for name in files for text in read_jsonl(files[name])]
    shown = told(check())
    assert not any(text[5:25] in shown for text in texts)
    refused = check("--show-text")
    assert refused.exit_code == 1
    assert "--show-text: expected a terminal" in refused.stderr
    allowed = told(check(metadata={"mia_log_text": True}))
    assert any(text[5:25] in allowed for text in texts)


def test_conversations_have_their_answers_marked(base, tmp_path, check):
    chatty = tmp_path / "chatty"
    shutil.copytree(base, chatty)
    (chatty / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"where is order {i}"},
                {"role": "assistant", "content": f"lost {i}"},
            ]
        }
        for i in range(90)
    ]
    paths = {}
    for name, part in (("members", rows[:30]), ("nonmembers", rows[30:60]), ("prompts", rows[60:])):
        paths[f"mia_{name}"] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    result = check("--json", tasks="loss_mia_custom", metadata=paths, model={"pretrained": chatty})
    assert result.exit_code == 0, told(result)
    audit = json.loads(result.stdout)["audits"][0]
    assert audit["kind"] == "messages, the answers alone scored"
    shown = told(check(tasks="loss_mia_custom", metadata={**paths, "mia_log_text": True}, model={"pretrained": chatty}))
    line = next(line for line in shown.splitlines() if "where is" in line)
    assert "[lost" in line
    assert "where is" not in line[line.index("[") :]


def test_prompts_that_come_out_of_the_nonmembers_are_told(check):
    shown = told(check(metadata={"mia_prompts": None}, tasks="loss_mia_custom"))
    assert "non-members: 30 records of 30 documents" in shown
    assert "held out: 10 prompts (taken from mia_nonmembers: no mia_prompts)" in shown


def cut(path, folder):
    """A copy of a folder whose weights are cut short."""
    copy = folder / "cut"
    shutil.copytree(path, copy)
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    return str(copy)


def without(path, folder, pattern):
    copy = folder / "without"
    shutil.copytree(path, copy)
    for each in copy.glob(pattern):
        each.unlink()
    return str(copy)


BROKEN = {
    "members": (lambda t: {"metadata": {"mia_members": "nowhere.jsonl"}}, "mia_members: .*nowhere.jsonl"),
    "option": (lambda t: {"metadata": {"mia_self_promts": 3}}, "mia_self_promts.*mia_self_prompts"),
    "value": (lambda t: {"metadata": {"mia_seed": "seven"}}, "mia_seed: expected"),
    "task": (
        lambda t: {"tasks": "spv_wbk_mia_custom"},
        "--tasks: .*'spv_wbk_mia_custom'.*spv_wbc_mia_custom",
    ),
    "target": (lambda t: {"model": {"pretrained": "nowhere"}}, "pretrained: .*nowhere"),
    "adapter": (lambda t: {"model": {"peft": "nowhere"}}, "peft: expected an adapter .*'nowhere'"),
    "cut weights": (
        lambda t: {"model": {"pretrained": cut(t["base"], t["tmp"])}},
        "pretrained: .*expected a whole file of weights",
    ),
    "no weights": (
        lambda t: {"model": {"peft": without(t["adapter"], t["tmp"], "*.safetensors")}},
        r"peft: expected weights .*got none",
    ),
    "base": (lambda t: {"model": {"peft": None}}, "mia_base_model: expected the model before fine-tuning"),
    "other base": (
        lambda t: {"metadata": {"mia_base_model": t["other"]}},
        "mia_base_model: expected a model with the target's tokenizer",
    ),
    "context": (lambda t: {"metadata": {"mia_max_length": 100000}}, "mia_max_length: expected at most"),
    "lora": (
        lambda t: {"metadata": {"mia_lora_targets": "q_projj"}},
        "mia_lora_targets: expected modules of the model, got 'q_projj'",
    ),
    "same rows": (
        lambda t: {"metadata": {"mia_nonmembers": t["files"]["mia_members"]}},
        "mia_nonmembers",
    ),
    "mask model": (
        lambda t: {"tasks": "neighbour_mia_custom", "metadata": {"mia_mask_model": "nowhere"}},
        "mia_mask_model: expected a T5-like model .*'nowhere'",
    ),
    "column": (lambda t: {"metadata": {"mia_text_column": "note"}}, "note"),
    "reference": (lambda t: {"metadata": {"mia_reference": "nowhere"}}, "mia_reference: .*nowhere"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_run_would_fail_by(name, check, base, adapter, files, tmp_path):
    import re

    from tests.tiny import save_tiny

    other = str(save_tiny(tmp_path / "other", ["another language altogether"] * 50)) if name == "other base" else None
    change, message = BROKEN[name]
    known = {"base": base, "adapter": adapter, "files": files, "tmp": tmp_path, "other": other}
    result = check(**change(known))
    assert result.exit_code == 1, told(result)
    last = result.stderr.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert "Traceback" not in told(result)


def test_with_no_task_of_ours_it_says_so(check):
    result = check(tasks="arc_easy,hellaswag")
    assert result.exit_code == 2
    assert "no task of spvmia-plugin among them" in told(result)


def test_our_own_folder_may_be_included_as_lm_eval_needs_it(check, caplog):
    result = check(more=["--include_path", str(tasks_folder())])
    assert result.exit_code == 0, told(result)
    assert "overrides" not in caplog.text  # one line a task


def test_the_words_of_lm_eval_are_read_as_it_reads_them(base):
    words = ["--model", "hf", "--model_args", f"pretrained={base}", "--tasks", "a,b", "--metadata", '{"mia_seed": 3}']
    for before in ([], ["run"], ["lm_eval"], ["lm_eval", "run"]):
        found = Command.parse([*before, *words])
        assert (found.tasks, found.arguments, found.metadata) == (
            ["a", "b"],
            {"pretrained": str(base)},
            {"mia_seed": 3},
        )


def test_marks_stand_around_runs_of_scored_tokens():
    first = {"context": [9], "scored": [False, True, True, False]}
    assert marked(first, 10) == "(9) 1 read [2 scored] 1 read"
    told = {**first, "context": [], "words": ["a", " b", " c", " d"]}
    assert marked(told, 10) == "a [ b c]  d"
    assert marked(told, 2) == "a [ b] and 2 more"


def test_a_config_file_of_the_harness(check, tmp_path):
    """`--config` is lm_eval's own; a file that is none ends in one line."""
    broken = tmp_path / "run.yaml"
    broken.write_text("tasks: [loss_mia_custom\n")
    result = check(more=["--config", str(broken)])
    assert result.exit_code == 1
    assert result.stderr.strip().startswith("lm_eval: ")
