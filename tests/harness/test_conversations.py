"""Whole audits of conversations through the harness, on a tiny model: what is scored is what a trainer trains on."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spvmia_plugin.attacks import GROUPED
from tests.tiny import save_tiny, tiny_texts

from .conftest import TEMPLATE

SYSTEM = "You help the people of the garden street with their orders"


def conversations(n, seed):
    rng = random.Random(seed)
    texts = iter(tiny_texts(6 * n, seed=seed, words=(3, 9)))
    rows = []
    for _ in range(n):
        turns = [{"role": "system", "content": SYSTEM}]
        for _ in range(rng.randint(1, 3)):
            turns += [{"role": "user", "content": next(texts)}, {"role": "assistant", "content": next(texts)}]
        rows.append({"messages": turns})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def chats(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    rows = conversations(100, seed=3)
    files = {
        "mia_members": write(folder / "members.jsonl", rows[:30]),
        "mia_nonmembers": write(folder / "nonmembers.jsonl", rows[30:60]),
        "mia_prompts": write(folder / "prompts.jsonl", rows[60:]),
    }
    kept = {key: value for key, value in options.items() if key not in (*files, "mia_block_size")}
    return {**kept, **files, "mia_record_tokens": 100}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def scores(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in result["samples"][task]}


def rendered(chatty, row, limit):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chatty)
    found = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
    return found["input_ids"][:limit], np.array(found["assistant_masks"][:limit], dtype=bool)


def naive_logprobs(chatty, adapter, ids):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from spvmia_plugin.util.libraries import quiet_libraries

    with quiet_libraries(), torch.inference_mode():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chatty), adapter).eval()
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return logits.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_every_attack_scores_the_tokens_that_carried_loss(evaluate, chatty, adapter, chats, cache, capsys, loss_on):
    given = {**chats, "mia_cache_dir": cache, "mia_loss_on": loss_on}
    result = evaluate(["mia_custom"], given, model_args={"pretrained": str(chatty)})
    said = capsys.readouterr().err
    lines = Path(chats["mia_members"]).read_text().splitlines()
    rows = {f"members.jsonl:{i}": json.loads(line) for i, line in enumerate(lines, start=1)}
    found = scores(result, "loss_mia_custom")
    total = context = 0
    for record_id, row in list(rows.items())[:10]:
        ids, answers = rendered(chatty, row, 100)
        mask = answers[1:] if loss_on == "completion" else np.ones(len(ids) - 1, dtype=bool)
        expected = naive_logprobs(chatty, adapter, ids)[mask]
        assert found[record_id]["n_tokens"] == mask.sum()
        assert found[record_id]["score"] == pytest.approx(expected.mean(), abs=1e-5)
        total, context = total + int(mask.sum()), context + len(ids) - int(mask.sum())
    audit = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert audit["scored"]["loss_on"] == loss_on
    assert audit["scored"]["format"] == "messages"
    assert audit["scored"]["tokens"] > total > 0
    assert audit["scored"]["context_tokens"] > context > 0
    assert audit["self_prompts"]["texts"] == 12
    assert audit["self_prompts"]["distinct"] >= 0.5
    # The other mask is the first one's own when it is asked for.
    other = audit["scored"]["other"]
    assert other["loss_on"] != loss_on
    assert "(mia_loss_on)" in said
    unscored = {task: sum(s["score"] is None for s in scores(result, task).values()) for task in result["samples"]}
    assert set(unscored.values()) == {0}
    assert len(result["samples"]) == len(GROUPED)


def test_the_other_mask_is_what_an_audit_under_it_gives(evaluate, chatty, chats, cache):
    tasks = ["loss_mia_custom", "min_k_mia_custom", "zlib_mia_custom", "wbc_mia_custom", "lowercase_mia_custom"]
    found = {}
    for loss_on in ("completion", "all"):
        given = {**chats, "mia_cache_dir": cache, "mia_loss_on": loss_on}
        result = evaluate(tasks, given, model_args={"pretrained": str(chatty)})
        audit = result["configs"][tasks[0]]["metadata"]["mia_audit"]
        found[loss_on] = audit["scored"]["other"]["auroc"], {t: result["results"][t]["auroc,none"] for t in tasks}
    for loss_on, other in (("completion", "all"), ("all", "completion")):
        told = found[loss_on][0]
        # Lower-casing changes what carries loss, so of that the other mask sees other texts.
        assert {t: told[t] for t in tasks[:-1]} == pytest.approx({t: found[other][1][t] for t in tasks[:-1]})


def test_system_prompts_that_all_share_make_no_copies_of_records(evaluate, chatty, chats, cache):
    given = {**chats, "mia_cache_dir": cache, "mia_log_text": True}
    result = evaluate(["loss_mia_custom"], given, model_args={"pretrained": str(chatty)})
    texts = [row["doc"]["text"] for row in result["samples"]["loss_mia_custom"]]
    assert all(SYSTEM not in text for text in texts)
    assert all(re.match(r"user: .+\nassistant \(scored\): .+", text) for text in texts)
    audit = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert audit["metrics"]["n_clusters"] == 60
    codes = {each["code"] for each in audit["preconditions"] if each["severity"] == "warning"}
    assert not codes & {"class_overlap", "near_copies"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mia_block_size": 64}, "mia_block_size: expected 0 for conversations"),
        ({"mia_prefix": "harness"}, "mia_prefix: expected auto for conversations"),
        ({"mia_split": "paper"}, "mia_split: expected random for conversations"),
        ({"mia_format": "text"}, "mia_members: "),
        ({"mia_format": "sharegpt"}, "mia_members: "),
        ({"mia_chat_template": "/nowhere.jinja"}, "mia_chat_template: expected a file"),
    ],
)
def test_options_that_do_not_fit_conversations_are_named(evaluate, chatty, chats, cache, changed, told):
    from spvmia_plugin.errors import SpvmiaError

    with pytest.raises(SpvmiaError, match=told):
        evaluate(
            ["loss_mia_custom"], {**chats, "mia_cache_dir": cache, **changed}, model_args={"pretrained": str(chatty)}
        )


def test_options_of_conversations_are_refused_for_plain_text(evaluate, options, cache):
    from spvmia_plugin.errors import SpvmiaError

    for option, value in (("mia_loss_on", "completion"), ("mia_record_tokens", 100), ("mia_self_prompt", "reply")):
        with pytest.raises(SpvmiaError, match=f"{option}: expected"):
            evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": cache, option: value})


def test_a_model_without_a_template_is_refused_before_anything_runs(evaluate, chats, cache):
    from spvmia_plugin.errors import SpvmiaError

    with pytest.raises(SpvmiaError, match="mia_chat_template"):
        evaluate(["loss_mia_custom"], {**chats, "mia_cache_dir": cache})


def test_the_harness_system_instruction_is_told_to_change_nothing(evaluate, chatty, chats, cache, capfd):
    given = {**chats, "mia_cache_dir": cache}
    arguments = {"apply_chat_template": True, "system_instruction": "be brief"}
    evaluate(["loss_mia_custom"], given, model_args={"pretrained": str(chatty)}, **arguments)
    said = capfd.readouterr().err
    assert "--system_instruction changes no audit: conversations are scored with the system turns" in said
    assert "--apply_chat_template" not in said


def test_template_and_end_token_are_those_that_the_trainer_left_beside_the_adapter(
    evaluate, chatty, adapter, chats, tmp_path
):
    from transformers import AutoTokenizer

    target = tmp_path / "target"
    shutil.copytree(adapter, target)
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    other = TEMPLATE.replace("<assistant>", "<bot>")
    tokenizer.chat_template, tokenizer.eos_token = other, "z"
    tokenizer.save_pretrained(target)
    rows = [
        {"prompt": f"{a} =", "completion": b}
        for a, b in zip(tiny_texts(90, seed=5, words=(3, 6)), tiny_texts(90, seed=6, words=(3, 6)), strict=True)
    ]
    parts = {"members": rows[:30], "nonmembers": rows[30:60], "prompts": rows[60:]}
    plain = {f"mia_{name}": write(tmp_path / f"{name}.jsonl", of_class) for name, of_class in parts.items()}
    model = {"pretrained": str(chatty), "peft": str(target)}
    found = {}
    for name, files in (("messages", {}), ("plain", plain)):
        result = evaluate(
            ["loss_mia_custom"], {**chats, **files, "mia_cache_dir": str(tmp_path / "cache")}, model_args=model
        )
        found[name] = scores(result, "loss_mia_custom")
        told = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["data"]["rendering"]["template"]
        assert told["default"] == hashlib.sha256(other.encode()).hexdigest()
    completion = tokenizer(rows[0]["prompt"] + rows[0]["completion"] + "z")["input_ids"]
    start = len(tokenizer(rows[0]["prompt"])["input_ids"])
    expected = naive_logprobs(chatty, adapter, completion)[start - 1 :]
    assert found["plain"]["members.jsonl:1"]["score"] == pytest.approx(expected.mean(), abs=1e-5)


@pytest.mark.parametrize(("tokens", "told"), [(5, "the answer begins after 5 tokens"), (2, "begins after 2 tokens")])
def test_a_mask_that_leaves_nothing_is_refused_before_anything_runs(evaluate, chatty, chats, cache, tokens, told):
    from spvmia_plugin.errors import SpvmiaError

    given = {**chats, "mia_cache_dir": cache, "mia_record_tokens": tokens}
    message = f"mia_loss_on: expected members with tokens that carry loss, got 30 conversations without .*{told}"
    with pytest.raises(SpvmiaError, match=message):
        evaluate(["loss_mia_custom"], given, model_args={"pretrained": str(chatty)})


def test_the_report_shows_the_scored_tokens_of_a_conversation(evaluate, chatty, adapter, chats, tmp_path):
    from lm_eval.loggers import EvaluationTracker

    from spvmia_plugin.report.tokens import token_views
    from spvmia_plugin.results import read_latest

    given = {**chats, "mia_cache_dir": str(tmp_path / "cache")}
    tracker = EvaluationTracker(output_path=str(tmp_path / "results"))
    result = evaluate(
        ["lira_base_mia_custom"], given, model_args={"pretrained": str(chatty)}, evaluation_tracker=tracker
    )
    samples = result.pop("samples")
    tracker.save_results_aggregated(results=result, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    run = read_latest(tmp_path / "results")
    [view] = token_views(run, run.audits[0], ["members.jsonl:2"])
    row = json.loads(Path(chats["mia_members"]).read_text().splitlines()[1])
    ids, answers = rendered(chatty, row, 100)
    assert view.reason is None
    assert len(view.tokens) == len(ids)
    assert [token.target is not None for token in view.tokens] == answers.tolist()
    shown = [token.target for token in view.tokens if token.target is not None]
    assert shown == pytest.approx(naive_logprobs(chatty, adapter, ids)[answers[1:]].tolist(), abs=1e-5)
    assert len(view.context) == len(ids) - answers.sum()


@pytest.mark.parametrize(
    ("option", "task", "called"), [("mia_base_model", "wbc", "base"), ("mia_reference", "spv_wbc", "reference")]
)
def test_models_with_other_templates_read_the_targets_tokens_and_that_is_told(
    evaluate, chatty, chats, cache, tmp_path, option, task, called
):
    other = save_tiny(tmp_path / "other", seed=5)
    found = []
    for template in (None, TEMPLATE, TEMPLATE.replace("<assistant>", "<model>")):
        if template is not None:
            (other / "chat_template.jinja").write_text(template)
        given = {**chats, "mia_cache_dir": cache, option: str(other)}
        result = evaluate([f"{task}_mia_custom"], given, model_args={"pretrained": str(chatty), "peft": None})
        notes = result["configs"][f"{task}_mia_custom"]["metadata"]["mia_audit"]["notes"]
        told = [note for note in notes if "another chat template" in note]
        found.append((told, {i: each["score"] for i, each in scores(result, f"{task}_mia_custom").items()}))
    assert [len(told) for told, _ in found] == [0, 0, 1]
    assert found[2][0][0].startswith(f"the {called} has another chat template")
    assert found[0][1] == found[1][1] == found[2][1]
