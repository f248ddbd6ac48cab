"""`spvmia check` of a model that is served, or that an engine would load: the address is asked, no weights are read."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from tests.tiny import tiny_texts


@pytest.fixture
def files(tmp_path):
    found = {}
    texts = tiny_texts(90, seed=7, words=(10, 20))
    for k, name in enumerate(("members", "nonmembers", "prompts")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[30 * k : 30 * k + 30]))
        found[f"mia_{name}"] = str(path)
    return found


@pytest.fixture
def check(files, models, tmp_path, monkeypatch):
    """Run the command on a model; nobody may read weights."""
    from transformers import PreTrainedModel

    def refuse(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)

    def run(model, arguments, tasks="loss_mia_custom,spv_wbc_mia_custom", **metadata):
        options = {**files, "mia_block_size": 0, "mia_cache_dir": str(tmp_path / "store"), **metadata}
        told = ",".join(f"{key}={value}" for key, value in arguments.items())
        words = ["check", "--json", "--model", model, "--model_args", told, "--tasks", tasks]
        return CliRunner().invoke(make_app("check"), [*words, "--metadata", json.dumps(options)])

    return run


def address(server, models):
    return {
        "model": "target",
        "base_url": server.url,
        "tokenizer_backend": "huggingface",
        "tokenizer": str(models / "base"),
        "max_length": 200,
    }


def test_a_server_is_asked(check, serve, models):
    server, _ = serve()
    result = check("local-completions", address(server, models), mia_base_model=str(models / "base"))
    assert result.exit_code == 0, result.output
    (audit,) = json.loads(result.stdout)["audits"]
    assert audit["attacks"] == ["loss", "spv_wbc"]
    assert len(audit["first"]["scored"]) > 10
    assert any("log-probabilities of the target by the server's" in note for note in audit["notes"])
    assert audit["rate"] is None


def test_a_server_that_is_no_use_is_named(check, serve, models):
    server, _ = serve(shift=1, prompt_logprobs="ignored")
    result = check("local-completions", address(server, models), mia_base_model=str(models / "base"))
    assert result.exit_code == 1
    assert "base_url" in result.stderr or "--model" in result.stderr
    assert "shift" in result.stderr or "place" in result.stderr, result.stderr


def test_no_server_at_the_address(check, models, serve):
    server, _ = serve()
    nowhere = {**address(server, models), "base_url": "http://127.0.0.1:9/v1/completions", "max_retries": 1}
    result = check("local-completions", nowhere, mia_base_model=str(models / "base"))
    assert result.exit_code == 1
    assert re.search("base_url", result.stderr), result.stderr


def test_a_chat_model_needs_no_tokenizer(check, serve):
    server, _ = serve()
    arguments = {"model": "target", "base_url": server.url.replace("/completions", "/chat/completions")}
    result = check("local-chat-completions", arguments, tasks="ngram_mia_custom")
    assert result.exit_code == 0, result.output
    (audit,) = json.loads(result.stdout)["audits"]
    assert audit["first"]["reason"] == "its text is sent, and no token scored"
    refused = check("local-chat-completions", arguments, tasks="loss_mia_custom")
    assert refused.exit_code == 1
    assert "ngram" in refused.stderr


def test_vllm_is_checked_by_its_files(check, models):
    arguments = {"pretrained": models / "base", "lora_local_path": models / "lora"}
    result = check("vllm", arguments)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["audits"][0]["first"]["scored"]) > 10
    moments = check("vllm", arguments, tasks="min_k_pp_mia_custom")
    assert moments.exit_code == 1
    assert "vllm" in moments.stderr
    whole = check("vllm", {**arguments, "max_logprobs": -1}, tasks="min_k_pp_mia_custom")
    assert whole.exit_code == 0, whole.output


@pytest.mark.parametrize(
    ("model", "arguments", "kept"), [("vllm", {"max_model_len": 64}, 2), ("sglang", {"context_length": 64}, 8)]
)
def test_what_an_engine_keeps_of_its_context_is_no_room_for_records(check, models, model, arguments, kept):
    arguments = {"pretrained": models / "base", **arguments}
    fits = check(model, arguments, mia_base_model=str(models / "base"), mia_max_length=64 - kept)
    assert fits.exit_code == 0, fits.output
    longer = check(model, arguments, mia_base_model=str(models / "base"), mia_max_length=65 - kept)
    assert longer.exit_code == 1
    assert f"mia_max_length: expected at most the model's own context of {64 - kept}" in longer.stderr
    dummy = check(model, {**arguments, "load_format": "dummy"}, mia_base_model=str(models / "base"))
    assert dummy.exit_code == 1
    assert "load_format: expected the model's weights, got dummy" in dummy.stderr


def test_sglang_is_checked_by_its_files(check, models):
    arguments = {"pretrained": models / "base", "context_length": 64}
    result = check("sglang", arguments, mia_base_model=str(models / "base"))
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["audits"][0]["first"]["scored"]) > 10
    moments = check("sglang", {**arguments, "max_logprobs": -1}, tasks="min_k_pp_mia_custom")
    assert moments.exit_code == 1
    assert "'sglang' lacks" in moments.stderr
    for option in ("peft", "lora_local_path", "lora_paths"):
        refused = check("sglang", {**arguments, option: models / "lora"})
        assert refused.exit_code == 1
        assert f"{option}: expected none, got an adapter" in refused.stderr
    several = check("sglang", {**arguments, "dp_size": 2})
    assert several.exit_code == 1
    assert "dp_size: expected 1, got 2" in several.stderr


def test_a_model_that_cannot_be_checked(check):
    result = check("dummy", {})
    assert result.exit_code == 1
    assert "--model: expected one of hf," in result.stderr
