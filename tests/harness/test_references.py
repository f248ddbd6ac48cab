"""Several references (`mia_references`) through the harness, on a tiny model: one audit, killed ones, its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from spvmia_plugin.results.samples import read_samples

from .conftest import read_jsonl

NAMES = [f"{name}_mia_custom" for name in ("spv_wbc", "candidate_wbc", "both_wbc", "lira_offline", "info_rmia", "loss")]


def scores(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in result["samples"][task]}


def told(result, task):
    return result["configs"][task]["metadata"]["mia_audit"]


def naive_logprobs(base, folder, text):
    """Token log-probabilities under the base with an adapter, by peft and transformers alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spvmia_plugin.util.libraries import quiet_libraries

    ids = AutoTokenizer.from_pretrained(base)(text, return_tensors="pt").input_ids
    with quiet_libraries(), torch.inference_mode():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logits.gather(-1, ids[0, 1:, None])[:, 0].numpy()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_three_of_each_kind(evaluate, options, cache, base, files, tmp_path):
    given = {**options, "mia_cache_dir": str(cache)}
    one = evaluate(NAMES, given)
    three = evaluate(NAMES, {**given, "mia_references": 3})
    audit = told(three, "spv_wbc_mia_custom")
    kinds = ["reference", "reference_2", "reference_3"], ["candidate", "candidate_2", "candidate_3"]
    assert set(audit["models"]) == {"target", *kinds[0], *kinds[1]}
    weights = {json.dumps(audit["models"][role]["weights"][-1]) for kind in kinds for role in kind}
    assert len(weights) == 6
    stages = audit["stages"]
    assert [stages[role]["trained"] for kind in kinds for role in kind] == [False, True, True, False, True, True]
    assert stages["reference"]["folder"] == told(one, "spv_wbc_mia_custom")["stages"]["reference"]["folder"]
    assert audit["references"]["count"] == 3
    assert set(audit["references"]["agreement"]) == {"share", "single"}
    assert told(three, "lira_offline_mia_custom")["references"] == {"count": 3}
    assert "references" not in told(one, "spv_wbc_mia_custom")
    assert scores(three, "loss_mia_custom") == scores(one, "loss_mia_custom")
    assert "scoring: candidate_3" in audit["cost"]
    assert audit["cost"]["reference 2"]["training_tokens"] > 0

    # What attacks saw as the reference is the mean of three adapters that anybody can load.
    found = scores(three, "spv_wbc_mia_custom")
    members = read_jsonl(files["mia_members"])
    for number in (0, 7):
        folders = [cache / "references" / stages[role]["folder"] for role in kinds[0]]
        means = np.mean([naive_logprobs(base, folder, members[number]) for folder in folders], axis=0)
        assert found[f"members.jsonl:{number + 1}"]["reference"] == pytest.approx(means.mean(), abs=1e-5)

    of_lira = scores(three, "lira_offline_mia_custom")
    assert all(0 <= each["p_value"] <= 1 for each in of_lira.values())
    # Nearly in one order: the p-values are averaged over what is open of the variances, and the score is not.
    assert spearmanr(*([each[key] for each in of_lira.values()] for key in ("score", "p_value"))).statistic < -0.99
    assert not any("p_value" in each for each in found.values())
    assert not any("p_value" in each for each in scores(one, "lira_offline_mia_custom").values())
    assert all(each["score"] is not None for each in scores(three, "info_rmia_mia_custom").values())

    lines = [{key: row[key] for key in ("doc", "resps")} for row in three["samples"]["lira_offline_mia_custom"]]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    read = read_samples(path, {})
    assert {each.id: each.p_value for each in read} == {key: each["p_value"] for key, each in of_lira.items()}


class Killed(KeyboardInterrupt):
    pass


@pytest.mark.slow
def test_killed_in_the_training_of_the_second_it_goes_on_to_the_same_bits(evaluate, options, tmp_path, monkeypatch):
    from transformers import Trainer

    step = Trainer.training_step
    steps = []

    def counted(self, *arguments, **named):
        steps.append(self)
        if len(set(map(id, steps))) == 2 and sum(each is self for each in steps) == 2:
            raise Killed
        return step(self, *arguments, **named)

    tasks, given = ["spv_wbc_mia_custom"], {**options, "mia_references": 3}
    whole = evaluate(tasks, {**given, "mia_cache_dir": str(tmp_path / "whole")})
    monkeypatch.setattr(Trainer, "training_step", counted)
    with pytest.raises(Killed):
        evaluate(tasks, {**given, "mia_cache_dir": str(tmp_path / "killed")})
    monkeypatch.setattr(Trainer, "training_step", step)
    resumed = evaluate(tasks, {**given, "mia_cache_dir": str(tmp_path / "killed")})
    assert scores(resumed, tasks[0]) == scores(whole, tasks[0])
    stages = told(resumed, tasks[0])["stages"]
    assert [stages[role]["trained"] for role in ("reference", "reference_2", "reference_3")] == [False, True, True]


def test_of_conversations_the_tokens_that_count(evaluate, chatty, options, tmp_path):
    from .test_conversations import conversations, write

    rows = conversations(60, seed=3)
    parts = {"mia_members": rows[:20], "mia_nonmembers": rows[20:40], "mia_prompts": rows[40:]}
    files = {key: write(Path(tmp_path / f"{key}.jsonl"), of_part) for key, of_part in parts.items()}
    kept = {key: value for key, value in options.items() if key != "mia_block_size"}
    given = {**kept, **files, "mia_record_tokens": 100, "mia_references": 2, "mia_cache_dir": str(tmp_path / "cache")}
    result = evaluate(NAMES, given, model_args={"pretrained": str(chatty)})
    for task in NAMES:
        assert all(each["score"] is not None for each in scores(result, task).values()), task
    assert told(result, "spv_wbc_mia_custom")["scored"]["loss_on"] == "completion"
    counts = {task: {key: each["n_tokens"] for key, each in scores(result, task).items()} for task in NAMES}
    assert all(of_task == counts["loss_mia_custom"] for of_task in counts.values())


@pytest.mark.parametrize("wrong", [0, 9, "two", True])
def test_wrong_numbers_are_refused_before_anything_is_read(evaluate, options, tmp_path, wrong):
    given = {**options, "mia_cache_dir": str(tmp_path), "mia_references": wrong}
    with pytest.raises(SystemExit, match=r"^mia_references: expected a whole number >= 1 and <= 8, got "):
        evaluate(["loss_mia_custom"], given)
