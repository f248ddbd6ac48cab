"""`spvmia check`: what a command would audit, and what it would fail by, told before any weights are read."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spvmia_plugin.auditing.mia_audit import BoundTold
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.harness.checking import marked
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.metrics.names import BOUNDED_BY, EPSILON, METRICS
from spvmia_plugin.metrics.power import needed
from tests.harness.conftest import TEMPLATE, read_jsonl

TWICE_IS_AN_ERROR = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval.scorers") is not None, reason="lm_eval 0.5 runs a task once that is named twice"
)


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


@pytest.mark.parametrize(("most", "said"), [(8, True), (None, False)])
def test_records_beyond_the_context_are_told(check, most, said):
    result = check(metadata={"mia_max_length": most, "mia_prompt_tokens": 4})
    assert result.exit_code == 0, told(result)
    assert ("exceed the model's context of 8 tokens" in " ".join(told(result).split())) == said


def test_attacks_that_can_score_few_records_or_none_are_told(check):
    def noted(tasks, **options):
        result = check("--json", tasks=tasks, metadata=options)
        assert result.exit_code == 0, told(result)
        notes = json.loads(result.stdout)["audits"][0]["notes"]
        return [note for note in notes if "something to score" in note]

    names = "premia_mia_custom,recall_mia_custom,icp_mia_custom,loss_mia_custom,lira_candidate_mia_custom"
    found = {note.partition(" ")[0]: note for note in noted(names)}
    assert found["premia"] == (
        "premia has something to score in none of 80 records (no preference: the row has no rejected answer: 80)"
    )
    assert "loss" not in found
    short = {note.partition(" ")[0]: note for note in noted("icp_mia_custom,loss_mia_custom", mia_max_length=60)}
    assert re.fullmatch(
        r"icp has something to score in (none|\d+) of 80 records \(record and probe exceed the model's context: \d+\)",
        short["icp"],
    )
    assert noted("loss_mia_custom,neighbour_mia_custom", mia_perturbation="causal") == []


def test_a_run_that_has_no_numbers_is_told(check, tmp_path):
    result = check(more=["--predict_only", "--output_path", str(tmp_path)])
    assert result.exit_code == 0, told(result)
    assert "--predict_only: a run with it has no numbers" in told(result)


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
    assert "held out: 10 prompts (taken from mia_nonmembers: no prompts were named)" in shown


@pytest.fixture
def with_manifest(base, adapter, files, tmp_path):
    """A copy of the adapter with a manifest of `spvmia manifest`, of whose options `more` are."""

    def write(*more):
        folder = tmp_path / "with manifest"
        shutil.copytree(adapter, folder)
        given = ["--members", files["mia_members"], "--nonmembers", files["mia_nonmembers"], "--block-size", "0"]
        result = CliRunner().invoke(make_app("manifest"), ["manifest", "--model", str(folder), *given, *more])
        assert result.exit_code == 0, told(result)
        return {"model": {"peft": str(folder)}, "metadata": dict.fromkeys(files)}

    return write


def test_prompts_that_a_manifest_took_out_of_the_nonmembers_are_told(check, with_manifest):
    command = with_manifest()
    shown = told(check(**command, tasks="loss_mia_custom"))
    assert "non-members: 30 records of 30 documents" in shown
    assert "held out: 10 prompts (taken from the manifest's non-members: no prompts were named)" in shown


def test_prompts_that_a_manifest_names_are_no_nonmembers(check, with_manifest, files):
    command = with_manifest("--prompts", files["mia_prompts"])
    shown = told(check(**command, tasks="loss_mia_custom"))
    assert "non-members: 40 records of 40 documents" in shown
    assert "held out: 30 prompts, " in shown


def test_what_was_left_out_is_told_and_nothing_else_among_the_counts(check, files, tmp_path):
    """A seed counts nothing: one that neither an estimate nor a path can hold by chance."""
    again = tmp_path / "again.jsonl"
    lines = Path(files["mia_members"]).read_text().splitlines(keepends=True)
    again.write_text("".join([*lines, *lines[:1] * 3]))
    shown = told(check(tasks="loss_mia_custom", metadata={"mia_members": str(again), "mia_seed": 918273645}))
    assert "members: 40 records of 40 documents" in shown
    assert "left out: 3 (duplicate documents)" in shown
    assert "918273645" not in shown
    assert "left out" not in told(check(tasks="loss_mia_custom"))


@pytest.mark.parametrize(
    ("bound", "attacks", "said"),
    [
        ({"mia_max_auroc": 0.9}, 1, "mia_max_auroc 0.9: can be shown: about {} documents of each class show it"),
        ({"mia_max_auroc": 0.6}, 1, "mia_max_auroc 0.6: not shown by 40 documents of a class, but by luck: about {} "),
        ({"mia_max_auroc": 0.6}, 2, "mia_max_auroc 0.6: not shown by 40 documents of a class, but by luck: about {} "),
        ({"mia_max_tpr_at_1pct": 0.2}, 1, "mia_max_tpr_at_1pct 0.2: not shown by 40 documents of a class, but by luck"),
        ({"mia_max_auroc": 0.50001}, 1, "mia_max_auroc 0.50001: not shown: that takes more than 200,000 documents"),
        ({"mia_max_epsilon": 8}, 1, "mia_max_epsilon 8: canaries bound epsilon from below"),
        ({}, 1, None),
    ],
)
def test_whether_so_many_documents_can_show_a_declared_bound(check, bound, attacks, said):
    """By the numbers of the verdict's own power table, which know how many attacks there are."""
    tasks = ",".join(["loss_mia_custom", "min_k_mia_custom", "bag_of_words_mia_custom"][:attacks])
    shown = told(check(tasks=tasks, metadata=bound))
    if said is None:
        assert "of each class" not in shown
        return
    ((option, limit),) = bound.items()
    metric = next(METRICS[key] for key, name in BOUNDED_BY.items() if f"mia_{name}" == option)
    enough = None if metric is EPSILON else needed(metric, limit, attacks=attacks)
    assert said.format(enough) in shown
    (told_bound,) = found_in(check("--json", tasks=tasks, metadata=bound))["audits"][0]["bounds"]
    assert told_bound == {
        "option": option,
        "limit": limit,
        "shown": enough is not None and enough <= 40,
        "needed": enough,
    }


def test_a_bound_is_declared_by_the_same_options_as_it_is_held_by():
    held = {each.name for each in dataclasses.fields(BoundTold)} - {"declared"}
    assert set(BOUNDED_BY.values()) == held <= {each.name for each in dataclasses.fields(AuditConfig)}


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


TWO = ("torchrun", "--nproc_per_node", "2", "-m", "lm_eval")
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
    "canary attack": (
        lambda t: {"metadata": {"mia_canary_attack": "los"}},
        r"mia_canary_attack: expected one of .*, got 'los' \(did you mean 'loss'",
    ),
    "prompts": (
        lambda t: {"metadata": {"mia_prompt_tokens": 1000}},
        "mia_prompts: expected documents of at least 1000 tokens to prompt with, got 30",
    ),
    "processes": (
        lambda t: {"own": TWO, "metadata": {"mia_reference_parallel": True, "mia_reference_batch": 3}},
        "mia_reference_batch: expected a multiple of the 2 processes that share it, got 3",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_run_would_fail_by(name, check, base, adapter, files, tmp_path):
    from tests.tiny import save_tiny

    other = str(save_tiny(tmp_path / "other", ["another language altogether"] * 50)) if name == "other base" else None
    change, message = BROKEN[name]
    known = {"base": base, "adapter": adapter, "files": files, "tmp": tmp_path, "other": other}
    changes = change(known)
    result = check(*changes.pop("own", ()), **changes)
    assert result.exit_code == 1, told(result)
    last = result.stderr.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert "Traceback" not in told(result)


def test_processes_that_train_together_have_their_share_of_the_plan(check):
    def tokens(*own):
        options = {"mia_reference_parallel": True, "mia_reference_batch": 4}
        result = check("--json", *own, tasks="spv_wbc_mia_custom", metadata=options)
        assert result.exit_code == 0, told(result)
        return {stage["name"]: stage["tokens"] for stage in json.loads(result.stdout)["audits"][0]["plan"]}

    alone, shared = tokens(), tokens(*TWO)
    assert shared.pop("training the reference") == alone.pop("training the reference") // 2
    assert shared == alone


def test_with_no_task_of_ours_it_says_so(check):
    result = check(tasks="arc_easy,hellaswag")
    assert result.exit_code == 2
    assert "no task of spvmia-plugin among them" in told(result)


def found_in(result):
    assert result.exit_code == 0, told(result)
    return json.loads(result.stdout)


def test_tasks_mean_what_they_mean_to_the_harness(check, tmp_path):
    """Patterns, files, patterns of files and a folder; each also what is not ours."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text(f"include: {tasks_folder()}/min_k_mia_custom.yaml\ntask: mine\n")
    (own / "theirs.yaml").write_text("task: theirs\ndataset_path: nowhere\n")
    for tasks, attacks, others in (
        ("l*s_mia_custom", {"loss"}, []),
        ("min_k_*custom,arc_easy", {"min_k", "min_k_pp"}, ["arc_easy"]),
        (str(own / "mine.yaml"), {"min_k"}, []),
        (f"loss_mia_custom,{own}/*.yaml", {"loss", "min_k"}, ["theirs"]),
        (str(own), {"min_k"}, ["theirs"]),
    ):
        found = found_in(check("--json", tasks=tasks))
        assert [set(audit["attacks"]) for audit in found["audits"]] == [attacks], tasks
        assert found["not_checked"] == others, tasks
    assert check(tasks=str(own / "theirs.yaml")).exit_code == 2


def test_a_group_with_tasks_of_the_harness(check, tmp_path):
    """They are named, and not built: that would fetch their data."""
    (tmp_path / "release.yaml").write_text(
        "group: release\ntask:\n  - loss_mia_custom\n  - arc_easy\n  - task: theirs\n    num_fewshot: 2\n"
    )
    (tmp_path / "theirs.yaml").write_text("task: theirs\ndataset_path: nowhere\n")
    for tasks in ("release", "release,hellaswag"):
        found = found_in(check("--json", tasks=tasks, more=["--include_path", str(tmp_path)]))
        assert [audit["attacks"] for audit in found["audits"]] == [["loss"]]
        assert found["not_checked"] == ["arc_easy", "theirs", *tasks.split(",")[1:]]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        pytest.param(
            "mia_custom,loss_mia_custom",
            "--tasks: .*Duplicate task 'loss_mia_custom'.*; name each task once",
            marks=TWICE_IS_AN_ERROR,
        ),
        pytest.param(
            "*_mia_custom,mia_custom",
            "--tasks: .*Duplicate task '.*'.*; name each task once",
            marks=TWICE_IS_AN_ERROR,
        ),
        ("nowhere.yaml", "--tasks: expected .*, got 'nowhere.yaml', where no YAML file lies"),
        ("{tasks}/mia_custom.yaml", r"--tasks: .*a group, .*name it 'mia_custom', with --include_path {tasks}$"),
        ("{broken}", r"--tasks: expected a task file that lm_eval can read, got .*broken.yaml"),
        (",", "--tasks: expected names .*, got none"),
    ],
)
def test_tasks_that_the_harness_would_stop_at(check, tmp_path, tasks, message):
    import re

    (tmp_path / "broken.yaml").write_text("task: [")
    places = {"tasks": tasks_folder(), "broken": tmp_path / "broken.yaml"}
    result = check(tasks=tasks.format(**places))
    assert result.exit_code == 1, told(result)
    assert re.search(message.format(**places), result.stderr.strip().splitlines()[-1])
    assert isinstance(result.exception, SystemExit)


def test_samples_are_those_of_the_run(check):
    """By task; of one that is not named all are taken, as by the harness."""

    def counts(samples, tasks="loss_mia_custom"):
        told = found_in(check("--json", tasks=tasks, more=["--samples", json.dumps(samples)]))["audits"][0]
        plan = next(stage["count"] for stage in told["plan"] if stage["name"] == "scoring: target")
        return told["counts"]["members"]["records"] + told["counts"]["nonmembers"]["records"], plan

    places = [0, 1, 2, 40, 41]
    assert counts({"loss_mia_custom": places}) == (5, 5)
    assert counts({"loss_mia_custom": places, "min_k_mia_custom": [2, 50]}, "loss_mia_custom,min_k_mia_custom") == (
        6,
        6,
    )
    assert counts({"arc_easy": [0]}) == (80, 80)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"loss_mia_custom": [0, 80]}, "--samples: expected places below 80, .* got 80"),
        ({"loss_mia_custom": ["0"]}, "--samples: expected places of documents, .* for 'loss_mia_custom'"),
        ([1, 2], "--samples: expected JSON such as"),
        ("nowhere.json", "--samples: expected JSON such as .* got 'nowhere.json'"),
    ],
)
def test_samples_that_the_harness_would_stop_at(check, samples, message):
    import re

    given = samples if isinstance(samples, str) else json.dumps(samples)
    result = check(tasks="loss_mia_custom", more=["--samples", given])
    assert result.exit_code == 1, told(result)
    assert re.search(message, result.stderr.strip().splitlines()[-1])


def test_an_output_that_cannot_be_written_is_named(check, files, tmp_path):
    """lm_eval finds it out when everything is computed."""
    for name in (f"{files['mia_members']}/results", f"{files['mia_members']}/results.json", "/proc/nowhere/results"):
        result = check(tasks="loss_mia_custom", more=["--output_path", name])
        assert result.exit_code == 1, told(result)
        assert f"--output_path: expected a folder that results can be written to, got {name} (" in result.stderr
    before = sorted(tmp_path.rglob("*"))
    for name in (tmp_path / "new" / "results", tmp_path / "results.json"):
        assert check(tasks="loss_mia_custom", more=["--output_path", str(name)]).exit_code == 0
    assert [path for path in sorted(tmp_path.rglob("*")) if "store" not in path.parts] == before


def test_its_own_options_may_stand_among_lm_evals(check):
    assert found_in(check(tasks="loss_mia_custom", more=["--json"]))["audits"]
    refused = check(tasks="loss_mia_custom", more=["--show-text"])
    assert refused.exit_code == 1
    assert "--show-text: expected a terminal" in refused.stderr


def test_our_own_folder_may_be_included_as_lm_eval_needs_it(check, caplog):
    result = check(more=["--include_path", str(tasks_folder())])
    assert result.exit_code == 0, told(result)
    assert "overrides" not in caplog.text  # one line a task


def test_a_tag_of_two_folders_is_no_news(check, caplog, tmp_path):
    """Of a task that is there twice the harness says so all the same."""
    ours = tasks_folder()
    for name in ("_common_yaml", "loss_mia_custom.yaml"):
        shutil.copy(ours / name, tmp_path)
    result = check(tasks="min_k_mia_custom", more=["--include_path", str(tmp_path)])
    assert result.exit_code == 0, told(result)
    assert "'privacy'" not in caplog.text
    assert caplog.text.count("overrides") == 1


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


def test_a_text_is_tokenised_once(check, monkeypatch):
    """Several checks ask for the tokens of each record; of long ones the tokenizer is most of what a check takes."""
    from collections import Counter

    from spvmia_plugin.models.tokens import Tokens

    asked = Counter()
    encode = Tokens.encode
    monkeypatch.setattr(Tokens, "encode", lambda tokens, text: asked.update([text]) or encode(tokens, text))
    found_in(check("--json", tasks="loss_mia_custom,lowercase_mia_custom,recall_mia_custom"))
    assert len(asked) > 80
    assert set(asked.values()) == {1}
