"""What a run says about the data it was given, and about the attacks it compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.several import strongest
from spvmia_plugin.util.schema import as_json
from tests.tiny import save_tiny, tiny_texts

from .conftest import read_jsonl, write_jsonl


def audit_of(result, task):
    return result["configs"][task]["metadata"]["mia_audit"]


def scored(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0])["score"] for row in result["samples"][task]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def test_every_task_names_the_strongest_attack_of_the_run(evaluate, options, cache):
    """The first task's record is written before the last task is aggregated; both hold the same comparison."""
    tasks = ["loss_mia_custom", "bag_of_words_mia_custom", "ratio_mia_custom", "wbc_mia_custom"]
    result = evaluate(tasks, {**options, "mia_cache_dir": cache})
    found = [audit_of(result, task)["strongest"] for task in tasks]
    assert all(one == found[0] for one in found)
    ids = sorted(scored(result, tasks[0]))
    attacks = [task for task in tasks if task != "bag_of_words_mia_custom"]
    scores = {task: [scored(result, task)[key] for key in ids] for task in attacks}
    expected = as_json(strongest(scores, np.array([key.startswith("members") for key in ids])))
    for leader in expected.values():
        if isinstance(leader, dict) and leader["attack"]:
            leader |= {"attack": leader["attack"].removesuffix("_mia_custom"), "task": leader["attack"]}
    assert found[0] == expected
    assert found[0]["n_attacks"] == 3


def test_a_second_run_in_one_process_compares_its_own_attacks(evaluate, options, cache):
    first = evaluate(["loss_mia_custom", "zlib_mia_custom"], {**options, "mia_cache_dir": cache}, limit=30)
    second = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": cache})
    assert audit_of(first, "loss_mia_custom")["strongest"]["n_attacks"] == 2
    assert audit_of(second, "loss_mia_custom")["strongest"]["n_attacks"] == 1


def test_documents_can_be_rebuilt_from_the_results_alone(evaluate, options, cache, monkeypatch):
    """Blocks of several short documents: later blocks of a chain bear other names than its first document."""
    from spvmia_plugin.harness.task import AuditTask

    documents = {}
    loaded = AuditTask._read_data

    def spy(task, *arguments):
        data = loaded(task, *arguments)
        documents.update({record.id: record.cluster for record in data.records})
        return data

    monkeypatch.setattr(AuditTask, "_read_data", spy)
    result = evaluate(["loss_mia_custom"], {**options, "mia_block_size": 56, "mia_cache_dir": cache}, limit=60)
    clusters = audit_of(result, "loss_mia_custom")["data"]["clusters"]
    ids = set(scored(result, "loss_mia_custom"))
    assert {key: clusters.get(key, key.partition("#")[0]) for key in ids} == {key: documents[key] for key in ids}
    assert 0 < len(clusters) < len(ids)
    assert clusters.keys() <= ids


WORK = "scoring: target"
"""First words of the plan's line of work."""


class Scenario:
    """Runs one attack on changed files, and reads what was said before the plan and what stands in the record."""

    def __init__(self, evaluate, options, folder, capsys):
        self.evaluate, self.folder, self.capsys = evaluate, folder, capsys
        self.options = {**options, "mia_cache_dir": str(folder / "cache")}
        self.texts = {name: read_jsonl(options[f"mia_{name}"]) for name in ("members", "nonmembers", "prompts")}

    def run(self, tasks=("loss_mia_custom",), files=True, model_args=None, **extra):
        written = {
            f"mia_{name}": write_jsonl(self.folder / f"{name}.jsonl", texts) for name, texts in self.texts.items()
        }
        self.capsys.readouterr()
        options = {**self.options, **(written if files else {}), **extra}
        result = self.evaluate(list(tasks), options, model_args=model_args)
        self.before_work = self.capsys.readouterr().err.partition(WORK)[0]
        return result

    def findings(self, **extra):
        found = audit_of(self.run(**extra), "loss_mia_custom")["preconditions"]
        severities = [finding["severity"] for finding in found]
        assert severities == sorted(severities, reverse=True), "warnings come first"
        for finding in found:
            warned = f"spvmia: warning: {finding['message']}" in self.before_work
            assert warned == (finding["severity"] == "warning"), finding
        return {finding["code"]: finding for finding in found}


@pytest.fixture
def scenario(evaluate, options, tmp_path, capsys):
    return Scenario(evaluate, options, tmp_path, capsys)


def test_sound_data_are_only_warned_of_their_size(scenario):
    found = scenario.findings()
    warnings = {code for code, finding in found.items() if finding["severity"] == "warning"}
    assert warnings == {"too_few_nonmembers_1pct", "too_few_nonmembers_0.1pct"}


def test_one_duplicated_record_ends_the_run_before_any_work(scenario):
    scenario.texts["nonmembers"][7] = f"  {scenario.texts['members'][3]}\n"
    with pytest.raises(SpvmiaError) as error:
        scenario.run()
    assert "nonmembers.jsonl:8 is the same text as members.jsonl:4 of the members" in str(error.value)
    assert "AUROC and every TPR come out too low" in str(error.value)


def test_one_duplicated_record_in_other_white_space_is_warned_of(scenario):
    scenario.texts["nonmembers"][7] = scenario.texts["members"][3].replace(" ", "  ")
    found = scenario.findings()["exact_duplicates"]
    assert found["details"]["examples"] == [{"member": "members.jsonl:4", "nonmember": "nonmembers.jsonl:8"}]
    assert found["details"]["share"] == 1 / 40
    assert "1 of 40 non-members (2.5 %) are word for word members" in found["message"]
    assert "AUROC and every TPR come out too low" in found["message"]


def test_prompts_that_are_nonmembers_end_the_run_before_any_work(scenario):
    scenario.texts["prompts"][2] = scenario.texts["nonmembers"][5]
    with pytest.raises(SpvmiaError) as error:
        scenario.run()
    assert "prompts.jsonl:3 is the same text as nonmembers.jsonl:6 of the non-members" in str(error.value)
    assert "AUROC" in str(error.value)


def test_prompts_taken_from_nonmembers_are_warned_of(scenario):
    """The first two thirds of non-members: other texts, but what the target continues and the reference learns."""
    for row in range(5):
        words = scenario.texts["nonmembers"][row].split()
        scenario.texts["prompts"][row] = " ".join(words[: -(len(words) // 3)])
    found = scenario.findings()["prompts_overlap_audited"]
    assert (found["details"]["members"], found["details"]["nonmembers"]) == (0, 5)
    assert {"audited": "nonmembers.jsonl:1", "held_out": "prompts.jsonl:1"} in found["details"]["examples"]
    assert "with non-members among them AUROC comes out too high" in found["message"]


def test_a_date_shift_is_warned_of_and_the_blind_baseline_is_heard_once(scenario):
    """Members of one year, non-members of another: words alone tell them apart."""
    for name, year in (("members", 2019), ("nonmembers", 2023)):
        scenario.texts[name] = [f"{text} It happened in {year}." for text in scenario.texts[name]]
    found = scenario.findings(tasks=["loss_mia_custom", "zlib_mia_custom", "bag_of_words_mia_custom"])
    assert found["date_shift"]["severity"] == "warning"
    assert "2019" in found["date_shift"]["message"]
    assert "2023" in found["date_shift"]["message"]
    assert found["blind_above_chance"]["details"]["low"] > 0.5
    assert "membership scores on these data mean little" in found["blind_above_chance"]["message"]
    assert scenario.before_work.count("members and non-members differ by themselves") == 1
    assert next(iter(found)) == "blind_above_chance"


def test_thirty_nonmembers_resolve_no_rate(scenario):
    scenario.texts["nonmembers"] = scenario.texts["nonmembers"][:30]
    result = scenario.run()
    row, audit = result["results"]["loss_mia_custom"], audit_of(result, "loss_mia_custom")
    for rate, needed, name in (("1 %", 100, "tpr_at_1pct_fpr"), ("0.1 %", 1000, "tpr_at_0.1pct_fpr")):
        expected = f"30 non-members cannot resolve an FPR of {rate}: at least {needed} are needed"
        assert f"spvmia: warning: {expected}; the TPR at {rate} FPR is not resolved" in scenario.before_work
        assert np.isnan(row[f"{name},none"])
        assert np.isnan(row[f"{name}_stderr,none"])
        assert audit["metrics"][name]["value"] is None
        assert expected in audit["metrics"][name]["reason"]
    assert np.isfinite(row["auroc_stderr,none"])


def test_a_public_data_set_and_a_model_nobody_vouches_for(scenario):
    """The numbers are there, and say that they say nothing unless the model was trained on these records."""
    pool = write_jsonl(scenario.folder / "pool.jsonl", tiny_texts(150, seed=31))
    keys = {key: value for key, value in scenario.options.items() if key not in ("mia_members", "mia_nonmembers")}
    scenario.options = {key: value for key, value in keys.items() if key != "mia_prompts"}
    extra = {"mia_dataset_path": pool, "mia_max_samples": 40}
    result = scenario.run(tasks=["loss_mia_ag_news"], files=False, **extra)
    audit = audit_of(result, "loss_mia_ag_news")
    assert audit["membership"] == "assumed"
    assert np.isfinite(result["results"]["loss_mia_ag_news"]["auroc,none"])
    found = next(finding for finding in audit["preconditions"] if finding["code"] == "membership_assumed")
    assert found["severity"] == "warning"
    assert "nobody vouches for" in found["message"]
    assert "the numbers say nothing about its privacy" in found["message"]
    assert f"spvmia: warning: {found['message']}" in scenario.before_work


def test_records_that_the_target_cuts_otherwise(scenario, tmp_path, monkeypatch):
    """Packed with one tokenizer, scored by a model that has another."""
    other = save_tiny(tmp_path / "other", tiny_texts(30, seed=99))
    from spvmia_plugin.harness import task as module

    plain = module.load_tokenizer
    monkeypatch.setattr(module, "load_tokenizer", lambda metadata: plain({**metadata, "tokenizer": str(other)}))
    found = scenario.findings(mia_block_size=24)["token_lengths_changed"]
    details = found["details"]
    assert details["count"] == details["members"] + details["nonmembers"] > 100
    assert details["block_size"] == 24
    assert "AUROC comes out too low" in found["message"]


def test_a_result_carries_what_identifies_its_audit(scenario):
    """Weights, data, settings, versions, seed: what changes one of them changes the record, and nothing else does."""
    one, same = (audit_of(scenario.run(), "loss_mia_custom") for _ in range(2))
    for name in ("models", "data", "settings", "seed", "versions", "attack", "membership"):
        assert one[name] == same[name], name
        assert one[name] not in ({}, None), name
    assert len(one["models"]["target"]["weights"]) == 2, "of the base and of the adapter"
    assert len(one["data"]["fingerprint"]) == 64
    assert {"lm_eval", "torch", "transformers", "peft", "numpy", "scipy", "spvmia-plugin", "python"} <= set(
        one["versions"]
    )
    assert one["settings"]["mia_perturbation"] == "causal"
    plain = scenario.run(model_args={"peft": None})
    assert audit_of(plain, "loss_mia_custom")["models"]["target"]["weights"] != one["models"]["target"]["weights"]
    scenario.texts["members"][0] += " more"
    changed = audit_of(scenario.run(), "loss_mia_custom")
    assert changed["data"]["fingerprint"] != one["data"]["fingerprint"]
    assert changed["models"] == one["models"]
    seeded = audit_of(scenario.run(mia_seed=3), "loss_mia_custom")
    assert (seeded["seed"], one["seed"]) == (3, 0)
    assert seeded["data"]["fingerprint"] == changed["data"]["fingerprint"]
