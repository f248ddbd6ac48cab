"""Whole audits through the harness, on a tiny model."""

from __future__ import annotations

import json
import math

import pytest

from spvmia_plugin.attacks import GROUPED
from spvmia_plugin.auditing.closing import FOR_A_PAGE
from tests.models.models import rolling

from .conftest import TASKS, read_jsonl, write_jsonl

ALL = "mia_custom"
METRICS = ("auroc", "tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr", "asr", "blind_auroc", "epsilon_lb", "privacy_score")


def scores(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in result["samples"][task]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_all_attacks_in_one_run_give_metrics_samples_and_a_record(evaluate, options, cache, capsys):
    result = evaluate([ALL], {**options, "mia_cache_dir": str(cache)})
    said = capsys.readouterr().err
    assert "tokens scored" in said
    tasks = [name for name in result["results"] if name != ALL]
    assert len(tasks) == len(GROUPED)
    for task in tasks:
        row = result["results"][task]
        for metric in METRICS:
            assert isinstance(row[f"{metric},none"], float), (task, metric)
        audit = result["configs"][task]["metadata"]["mia_audit"]
        json.dumps(audit)
        assert audit["membership"] == "declared"
        assert audit["n"]["records"] == 80
        assert audit["n"]["scored"] + sum(audit["unscored"].values()) == 80
        assert math.isnan(row["epsilon_lb,none"])
        assert "not randomised" in audit["epsilon_lb"]["reason"]
        assert len(result["samples"][task]) == 80
    for task in tasks:
        assert isinstance(result["results"][task]["auroc_stderr,none"], float)
        assert 0 <= result["results"][task]["auroc,none"] <= 1
    told = {task: result["configs"][task]["metadata"]["mia_audit"]["attacker"]["given"] for task in tasks}
    assert told["loss_mia_custom"] == []
    assert told["lira_base_mia_custom"] == ["base"]
    assert told["spv_wbc_mia_custom"] == ["base", "prompts"]
    assert told["recall_mia_custom"] == ["held_out"]
    assert told["lira_candidate_mia_custom"] == ["base", "held_out"]
    assert told["both_wbc_mia_custom"] == ["base", "prompts", "held_out"]
    assert told["bag_of_words_mia_custom"] == ["labels"]
    spv = result["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]
    assert spv["cost"]["scoring: target"]["forward_tokens"] > 0
    assert spv["stages"]["reference"]["kind"] == "self_prompt"


def test_samples_hold_ids_and_no_text(evaluate, options, cache, files):
    result = evaluate(["spv_mia_custom"], {**options, "mia_cache_dir": str(cache)})
    row = result["samples"]["spv_mia_custom"][0]
    assert set(row["doc"]) == {"id", "is_member"}
    assert set(json.loads(row["resps"][0][0])) == {"score", "reason", "n_tokens", "target", "reference"}
    logged = json.dumps(result, default=str)
    for path in files.values():
        for text in read_jsonl(path):
            words = text.split()
            assert not any(" ".join(words[i : i + 8]) in logged for i in range(len(words) - 7))


def test_log_text_is_an_explicit_choice(evaluate, options, cache, capsys):
    result = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(cache), "mia_log_text": True})
    assert capsys.readouterr().err.rstrip().endswith(FOR_A_PAGE)  # of one attack, too
    assert all(row["doc"]["text"] for row in result["samples"]["loss_mia_custom"])


def test_the_same_command_twice_gives_the_same_bits(evaluate, options, tmp_path):
    one = evaluate(["spv_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "a")})
    two = evaluate(["spv_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "b")})
    again = evaluate(["spv_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "b")})
    assert scores(one, "spv_mia_custom") == scores(two, "spv_mia_custom") == scores(again, "spv_mia_custom")
    cost = again["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["cost"]
    assert sum(stage["forward_tokens"] for stage in cost.values()) == 0


def test_other_tasks_get_bit_identical_results(evaluate, options, tmp_path):
    others = ["other_choice", "other_sample"]
    alone = evaluate(others)
    together = evaluate([*others, ALL], {**options, "mia_cache_dir": str(tmp_path)})
    ours_first = evaluate([ALL, *others], {**options, "mia_cache_dir": str(tmp_path / "b")})
    for other in others:
        for run in (together, ours_first):
            assert [row["resps"] for row in run["samples"][other]] == [row["resps"] for row in alone["samples"][other]]
            assert run["results"][other] == alone["results"][other]


def test_cached_lm_and_cached_requests_change_nothing(evaluate, options, tmp_path):
    plain = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "plain")})
    wrapped = evaluate(
        ["loss_mia_custom"],
        {**options, "mia_cache_dir": str(tmp_path / "wrapped")},
        use_cache=str(tmp_path / "lm"),
        cache_requests=True,
    )
    assert scores(plain, "loss_mia_custom") == scores(wrapped, "loss_mia_custom")


def test_limit_takes_a_slice_with_both_classes(evaluate, options, cache):
    result = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(cache)}, limit=20)
    labels = [row["doc"]["is_member"] for row in result["samples"]["loss_mia_custom"]]
    assert len(labels) == 20
    assert 3 < sum(labels) < 17


def test_rolling_log_likelihood_is_the_loss_attack_in_its_context(evaluate, options, cache, base, adapter, files):
    """In float32 the mean of our token signals times T equals the harness's own `loglikelihood_rolling`."""
    from lm_eval.models.huggingface import HFLM

    from spvmia_plugin.util.libraries import quiet_libraries

    told = {**options, "mia_cache_dir": str(cache), "mia_prefix": "harness"}
    result = scores(evaluate(["loss_mia_custom"], told), "loss_mia_custom")
    with quiet_libraries():
        lm = HFLM(pretrained=str(base), peft=str(adapter), dtype="float32", device="cpu", batch_size=4)
    for name in ("members", "nonmembers"):
        texts = read_jsonl(files[f"mia_{name}"])
        for i, expected in enumerate(rolling(lm, texts)):
            ours = result[f"{name}.jsonl:{i + 1}"]
            assert ours["score"] * ours["n_tokens"] == pytest.approx(expected, rel=1e-4)


def test_the_model_is_left_as_it_was(options, tmp_path, base, adapter):
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from spvmia_plugin.util.libraries import quiet_libraries

    with quiet_libraries():
        lm = HFLM(pretrained=str(base), peft=str(adapter), dtype="float32", device="cpu", batch_size=4)
        before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
        structure = repr(lm.model), lm.model.active_adapters, lm.model.training
        grads = {name: p.requires_grad for name, p in lm.model.named_parameters()}
        metadata = {**options, "mia_cache_dir": str(tmp_path), "mia_lora_targets": "all-linear"}
        manager = TaskManager(metadata=metadata, include_path=[str(TASKS)], include_defaults=False)
        lm_eval.simple_evaluate(model=lm, tasks=["spv_mia_custom"], task_manager=manager)
    after = lm.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (repr(lm.model), lm.model.active_adapters, lm.model.training) == structure
    assert {name: p.requires_grad for name, p in lm.model.named_parameters()} == grads


def test_batch_size_does_not_matter_beyond_rounding(evaluate, options, tmp_path):
    """Given the same reference: the second run finds it in the same store, and computes its signals anew."""
    one = evaluate([ALL], {**options, "mia_cache_dir": str(tmp_path)}, batch_size=1)
    from spvmia_plugin.store.store import Store

    with Store(tmp_path) as store:
        store.clear("signals")
    sixteen = evaluate([ALL], {**options, "mia_cache_dir": str(tmp_path)}, batch_size=16)
    for task in one["samples"]:
        first, second = scores(one, task), scores(sixteen, task)
        for key in first:
            if first[key]["score"] is not None:
                assert second[key]["score"] == pytest.approx(first[key]["score"], abs=1e-4), (task, key)


def test_misuse_is_loud(evaluate, options, tmp_path, capsys):
    """Members of another time than the non-members: one warning, before the plan, and in the record."""
    members = [f"{text} It happened in 2019." for text in read_jsonl(options["mia_members"])]
    shifted = {**options, "mia_members": write_jsonl(tmp_path / "dated.jsonl", members)}
    result = evaluate(["loss_mia_custom"], {**shifted, "mia_cache_dir": str(tmp_path / "cache")})
    said = capsys.readouterr().err
    assert said.count("members and non-members differ by themselves") == 1
    assert said.index("differ by themselves") < said.index("scoring: target")
    audit = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert "blind_above_chance" in {finding["code"] for finding in audit["preconditions"]}
    assert audit["blind"]["low"] > 0.5
