"""Whole audits of one target, in this process and behind a server: the same numbers; nothing secret; nothing twice."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.models.local import LocalModels
from spvmia_plugin.util.libraries import quiet_libraries
from tests.tiny import tiny_texts

SECRET = "horse-battery-staple"
ALL = "mia_custom"
COMPLETIONS = {"tokenizer_backend": "huggingface", "max_length": 256, "num_concurrent": 4, "max_retries": 2}


@pytest.fixture(scope="module")
def options(models, tmp_path_factory):
    folder, texts = tmp_path_factory.mktemp("private"), tiny_texts(64, seed=7, words=(10, 30))
    for name, part in (("members", texts[:20]), ("nonmembers", texts[20:40]), ("prompts", texts[40:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return {
        **{f"mia_{name}": str(folder / f"{name}.jsonl") for name in ("members", "nonmembers", "prompts")},
        "mia_base_model": str(models / "base"),
        "mia_block_size": 0,
        "mia_max_length": 200,
        "mia_self_prompts": 12,
        "mia_reference_epochs": 1,
        "mia_reference_lr": 1e-2,
        "mia_lora_rank": 4,
        "mia_perturbation": "causal",
        "mia_perturbations": 1,
    }


@pytest.fixture
def evaluate(models, tmp_path_factory, monkeypatch):
    """`evaluate(model, tasks, metadata, **model_args)`, as the stock command does it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))

    def run(model, tasks, metadata, **model_args):
        import lm_eval
        from lm_eval.tasks import TaskManager

        given = {"pretrained": str(models / "base"), "peft": str(models / "lora"), "dtype": "float32"}
        if model != "hf":
            given = {"model": "target", "tokenizer": str(models / "base"), **COMPLETIONS}
        merged = {**given, **model_args, **metadata}
        manager = TaskManager(metadata=merged, include_path=str(tasks_folder()), include_defaults=False)
        with quiet_libraries():
            return lm_eval.simple_evaluate(
                model=model,
                model_args={**given, **model_args},
                tasks=list(tasks),
                task_manager=manager,
                metadata=merged,
                device="cpu",
                batch_size=1 if model != "hf" else 8,
            )

    return run


@pytest.fixture(scope="module")
def reference(models, tmp_path_factory):
    """A ready reference: what the target's adapter does, the other way round."""
    folder = tmp_path_factory.mktemp("reference") / "lora"
    shutil.copytree(models / "lora", folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({n: -w if "lora_B" in n else w for n, w in weights.items()}, folder / "adapter_model.safetensors")
    return folder


def scores(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in result["samples"][task]}


@pytest.mark.parametrize("base_served", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_audit_by_hf_and_by_a_server(serve, reference, evaluate, options, tmp_path, base_served):
    """All attacks that need no gradient, with one reference; the base in this process, and served."""
    server, _ = serve()
    settings = {**options, "mia_reference": str(reference), "mia_candidate": "none"}
    here = evaluate("hf", [ALL], {**settings, "mia_cache_dir": str(tmp_path / "hf")})
    there = {"mia_cache_dir": str(tmp_path / "server"), **({"mia_base_served": "base"} if base_served else {})}
    elsewhere = evaluate("local-completions", [ALL], {**settings, **there}, base_url=server.url)
    tasks = [name for name in here["results"] if name != ALL]
    assert len(tasks) > 15
    for task in tasks:
        ours, theirs = scores(elsewhere, task), scores(here, task)
        assert ours.keys() == theirs.keys()
        for record, told in theirs.items():
            assert ours[record]["reason"] == told["reason"]
            for name in ("score", "target", "reference"):
                if told[name] is None:
                    assert ours[record][name] is None
                else:
                    assert ours[record][name] == pytest.approx(told[name], abs=1e-3, rel=1e-3), (task, name)
        if task.startswith(("spv", "wbc", "ez", "lira_base", "min_k_pp", "recall")):
            assert any(told["score"] is not None for told in ours.values())
        assert elsewhere["results"][task]["auroc,none"] == pytest.approx(
            here["results"][task]["auroc,none"], abs=2e-3, nan_ok=True
        )
    audit = elsewhere["configs"]["ez_mia_custom"]["metadata"]["mia_audit"]
    backend = audit["stages"]["backend"]
    assert backend["name"] == "server"
    assert backend["models"]["target"]["logprobs_by"] == "prompt_logprobs"
    assert backend["models"]["target"]["self_check"]["largest_difference"] < 1e-4
    assert ("base" in backend["not_served"]) is not base_served
    assert audit["models"]["target"]["backend"] == "server"
    assert audit["models"]["base"]["backend"] == ("server" if base_served else "hf")
    assert "backend" not in here["configs"]["ez_mia_custom"]["metadata"]["mia_audit"]["stages"]
    # Once more: everything is in the store; the server is looked at, and asked nothing.
    before = len(server.served.scored)
    again = evaluate("local-completions", [ALL], {**settings, **there}, base_url=server.url)
    assert scores(again, "ez_mia_custom") == scores(elsewhere, "ez_mia_custom")
    asked = set(server.served.scored[before:])
    assert len(asked) <= 6  # of the self-check and of a look at the weights, and nothing of a record


def test_self_prompts_come_from_the_server_and_references_are_trained_here(serve, evaluate, options, tmp_path):
    server, _ = serve()
    metadata = {**options, "mia_cache_dir": str(tmp_path)}
    result = evaluate(
        "local-completions", ["spv_wbc_mia_custom", "candidate_wbc_mia_custom"], metadata, base_url=server.url
    )
    audit = result["configs"]["spv_wbc_mia_custom"]["metadata"]["mia_audit"]
    assert audit["self_prompts"]["texts"] == 12
    assert audit["self_prompts"]["distinct"] == 1
    assert audit["cost"]["reference"]["generated_tokens"] > 0
    assert audit["stages"]["reference"]["trained"]
    assert audit["n"]["scored"] == 40
    again = evaluate("local-completions", ["spv_wbc_mia_custom"], metadata, base_url=server.url)
    assert scores(again, "spv_wbc_mia_custom") == scores(result, "spv_wbc_mia_custom")
    assert not again["configs"]["spv_wbc_mia_custom"]["metadata"]["mia_audit"]["stages"]["reference"]["trained"]


def test_no_base_is_loaded_where_no_attack_needs_it(serve, evaluate, options, tmp_path, monkeypatch):
    server, _ = serve()
    monkeypatch.setattr(LocalModels, "_load", None)
    metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_base_model": "/nowhere"}
    result = evaluate("local-completions", ["loss_mia_custom", "zlib_mia_custom"], metadata, base_url=server.url)
    assert result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["n"]["scored"] == 40


def test_nothing_secret_is_written_anywhere(serve, evaluate, options, tmp_path, monkeypatch, capfd, caplog):
    server, _ = serve()
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}-key")
    address = server.url.replace("://", f"://user:{SECRET}@") + f"?api_key={SECRET}"
    result = evaluate(
        "local-completions",
        ["loss_mia_custom"],
        {**options, "mia_cache_dir": str(tmp_path)},
        base_url=address,
        header={"X-Key": SECRET},
        auth_token=SECRET,
    )
    said = capfd.readouterr()
    ours = json.dumps(result["configs"]["loss_mia_custom"], default=str)
    assert server.url.partition("://")[2] in ours  # where it was is told
    for place in (ours, json.dumps(result["samples"], default=str), said.out, said.err, caplog.text):
        assert SECRET not in place
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("form", ["?code={0}&tenant={0}-tenant", "?{0}", "/gw/{0}/v1/completions"])
def test_no_part_of_an_address_that_may_open_it_is_written(serve, evaluate, options, tmp_path, capfd, form):
    """Whatever a gateway calls its keys, and where it has them in the path."""
    token, (server, _) = "s3cr3tPathToken99", serve()
    address = (server.url if form.startswith("?") else server.root.removesuffix("/v1")) + form.format(token)
    result = evaluate(
        "local-completions", ["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)}, base_url=address
    )
    said = capfd.readouterr()
    ours = json.dumps(result["configs"]["loss_mia_custom"], default=str)
    assert server.root.removesuffix("/v1") in ours
    for place in (ours, said.out, said.err):
        assert token not in place
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_share_no_work_are_told_of(serve, evaluate, options, tmp_path, monkeypatch, capfd, rank):
    """The harness gives a server's model no rank: each process of a launch audits all of it. One of them says so."""
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "3"), ("RANK", rank)):
        monkeypatch.setenv(name, value)
    server, _ = serve()
    metadata = {**options, "mia_cache_dir": str(tmp_path)}
    result = evaluate("local-completions", ["loss_mia_custom"], metadata, base_url=server.url)
    told = "3 processes were started, and each audits LocalCompletionsAPI by itself and whole"
    assert capfd.readouterr().err.count(told) == (rank == "0")
    audit = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert [told in note for note in audit["notes"]].count(True) == 1


def test_a_reference_by_its_path_on_a_served_base_and_no_attack_on_the_base(
    serve, reference, evaluate, options, tmp_path
):
    server, _ = serve()
    metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_reference": str(reference), "mia_base_served": "base"}
    result = evaluate("local-completions", ["spv_wbc_mia_custom"], metadata, base_url=server.url)
    audit = result["configs"]["spv_wbc_mia_custom"]["metadata"]["mia_audit"]
    assert audit["n"]["scored"] == 40
    assert audit["models"]["reference"]["backend"] == "server"
    assert set(server.served.models) == {"target", "base"}


@pytest.mark.parametrize("view", ["top_k:3", "top_k:1"])
def test_a_view_that_a_server_cannot_give(serve, evaluate, options, tmp_path, view):
    server, _ = serve()
    metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_api_view": view}
    with pytest.raises(SpvmiaError, match=rf"expected a view of what backend 'server' gives, got {view}, which needs"):
        evaluate("local-completions", ["loss_mia_custom"], metadata, base_url=server.url)


def test_attacks_that_a_server_cannot_serve_are_named_with_why(serve, evaluate, options, tmp_path):
    metadata = {**options, "mia_cache_dir": str(tmp_path)}
    server, _ = serve(prompt_logprobs="ignored")
    with pytest.raises(SpvmiaError) as error:
        evaluate("local-completions", ["min_k_pp_mia_custom", "loss_mia_custom"], metadata, base_url=server.url)
    assert "can't run: min_k_pp_mia_custom; these can run: loss_mia_custom; the server at" in str(error.value)
    assert "gives no distributions: it names the likeliest tokens alone" in str(error.value)
    server, _ = serve(prompt_logprobs="ignored", echo=False)
    with pytest.raises(SpvmiaError) as error:
        evaluate("local-completions", ["loss_mia_custom", "bag_of_words_mia_custom"], metadata, base_url=server.url)
    assert "can't run: loss_mia_custom; these can run: bag_of_words_mia_custom; base_url: expected" in str(error.value)
    assert "ignores 'echo' in silence; audit it by what it writes alone" in str(error.value)
    assert not [prompt for prompt in server.served.scored if len(prompt) > 40]
    evaluate("local-completions", ["bag_of_words_mia_custom"], metadata, base_url=server.url)
    # What it writes it writes all the same.
    metadata |= {"mia_continuations": 2}
    result = evaluate("local-completions", ["ngram_mia_custom"], metadata, base_url=server.url)
    audit = result["configs"]["ngram_mia_custom"]["metadata"]["mia_audit"]
    assert audit["n"]["scored"] == 40
    assert audit["models"]["target"]["backend"] == "server"
    assert "function" not in audit["models"]["target"]
    assert "ignores 'echo'" in audit["stages"]["backend"]["models"]["target"]["self_check"]["fault"]
