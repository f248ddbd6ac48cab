"""Targets that `spvmia finetune` made of conversations: trained under the mask, audited under it without an option."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.util.libraries import quiet_libraries
from tests.harness.test_conversations import conversations, naive_logprobs, rendered, scores, write

from .conftest import TEMPLATE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "chat.jsonl", conversations(90, seed=5))


@pytest.fixture(scope="module")
def tune(chatty, tmp_path_factory):
    def run(data, name="target", **options):
        output = tmp_path_factory.mktemp("tuned") / name
        given = {"members": 25, "nonmembers": 25, "epochs": 2.0, "lr": 3e-3, "lora_rank": 4, "batch_size": 8, **options}
        with quiet_libraries():
            return finetune(FinetuneConfig(str(chatty), data, **{"output": output, **given}, quiet=True))

    return run


@pytest.fixture(scope="module")
def target(tune, data):
    return tune(data, record_tokens=120)


@pytest.fixture(scope="module")
def given(options, tmp_path_factory):
    kept = {key: value for key, value in options.items() if key not in ("mia_members", "mia_nonmembers", "mia_prompts")}
    del kept["mia_block_size"]
    return {**kept, "mia_cache_dir": str(tmp_path_factory.mktemp("cache"))}


def test_the_audit_of_a_target_needs_no_option(evaluate, chatty, target, data, given, capsys):
    manifest = json.loads((target / "mia_manifest.json").read_text())
    result = evaluate(
        ["loss_mia_custom", "spv_wbc_mia_custom"], given, model_args={"pretrained": str(chatty), "peft": str(target)}
    )
    found = scores(result, "loss_mia_custom")
    assert found.keys() == {each["id"] for name in ("members", "nonmembers") for each in manifest[name]}
    with open(data) as lines:
        rows = {f"chat.jsonl:{number}": json.loads(line) for number, line in enumerate(lines, start=1)}
    counted = 0
    for record in manifest["members"]:
        ids, answers = rendered(chatty, rows[record["id"]], 120)
        counted += int(answers[1:].sum())
        assert found[record["id"]]["n_tokens"] == answers[1:].sum()
    assert manifest["training"]["tokens_with_loss"] == 2 * counted  # in two epochs
    for record in manifest["members"][:3]:
        ids, answers = rendered(chatty, rows[record["id"]], 120)
        expected = naive_logprobs(chatty, target, ids)[answers[1:]].mean()
        assert found[record["id"]]["score"] == pytest.approx(expected, abs=1e-5)
    audit = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert audit["membership"] == "manifest"
    assert (audit["scored"]["format"], audit["scored"]["loss_on"]) == ("messages", "completion")
    assert np.isfinite(result["results"]["spv_wbc_mia_custom"]["auroc,none"])


def test_a_manifest_says_what_carried_loss_whatever_the_held_out_prompts_show(evaluate, chatty, target, given, capsys):
    # All turns of these conversations are made of the same words, so the target knows the users' better too.
    result = evaluate(
        ["loss_mia_custom", "wbc_mia_custom"], given, model_args={"pretrained": str(chatty), "peft": str(target)}
    )
    audit = result["configs"]["wbc_mia_custom"]["metadata"]["mia_audit"]
    gained = audit["stages"]["loss_mask"]
    assert gained["gain_on_the_rest"] > 0.5 * gained["gain_on_answers"] > 0
    assert not [note for note in audit["notes"] if "has learnt the users' turns too" in note]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mia_format": "text"}, "mia_format: the manifest .* says 'messages', got 'text'"),
        ({"mia_loss_on": "all"}, "mia_loss_on: the manifest .* says 'completion', got 'all'"),
        ({"mia_record_tokens": 1024}, "mia_record_tokens: the manifest .* says 120, got 1024"),
        ({"mia_prefix": "harness"}, "mia_prefix: expected auto for conversations"),
    ],
)
def test_what_contradicts_the_manifest_is_refused(evaluate, chatty, target, given, changed, told):
    with pytest.raises(SpvmiaError, match=told):
        evaluate(
            ["loss_mia_custom"],
            {**given, **changed},
            model_args={"pretrained": str(chatty), "peft": str(target)},
        )


def test_a_template_that_is_not_the_manifests_is_refused(evaluate, chatty, target, tune, data, given, tmp_path):
    (tmp_path / "other.jinja").write_text(TEMPLATE.replace("<assistant>", "<model>"))
    option = {"mia_chat_template": str(tmp_path / "other.jinja")}
    with pytest.raises(SpvmiaError, match=r"mia_chat_template: the manifest .* was written with another template"):
        evaluate(["loss_mia_custom"], {**given, **option}, model_args={"pretrained": str(chatty), "peft": str(target)})
    other = tune(data, "other", chat_template=str(tmp_path / "other.jinja"))
    result = evaluate(
        ["loss_mia_custom"], {**given, **option}, model_args={"pretrained": str(chatty), "peft": str(other)}
    )
    assert len(scores(result, "loss_mia_custom")) == 50


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("mia_loss_on", "completion", "mia_loss_on: expected conversations"),
        ("mia_format", "messages", "mia_format: the manifest .* says 'text', got 'messages'"),
        ("mia_self_prompt", "whole", "mia_self_prompt: expected prefix"),
    ],
)
def test_options_of_conversations_are_refused_for_a_target_of_text(
    evaluate, chatty, tune, given, tmp_path, option, value, told
):
    rows = [{"text": " ".join(m["content"] for m in row["messages"])} for row in conversations(90, seed=5)]
    target = tune(write(tmp_path / "text.jsonl", rows), "text", block_size=0)
    with pytest.raises(SpvmiaError, match=told):
        evaluate(
            ["loss_mia_custom"],
            {**given, option: value},
            model_args={"pretrained": str(chatty), "peft": str(target)},
        )


def test_data_of_which_no_token_carries_loss_are_refused_before_a_model_is_trained(tune, data, tmp_path):
    told = r"--loss-on: .*chat.jsonl: expected conversations with a token that carries loss, got 90 without \(no scored"
    with pytest.raises(SpvmiaError, match=told):
        tune(data, record_tokens=5)


def test_an_unfinished_run_under_another_mask_is_told_by_its_option(tune, data, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise SpvmiaError("stopped")

    monkeypatch.setattr("spvmia_plugin.training.finetune._train_and_save", stop)
    output = tmp_path / "same"
    for loss_on, told in (("completion", "stopped"), ("all", "differs in --loss-on;")):
        with pytest.raises(SpvmiaError, match=told):
            tune(data, output=output, loss_on=loss_on)
