"""What a run says about the data it was given, and about the attacks it compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spvmia_plugin.metrics.strongest import strongest


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
    expected = strongest(scores, np.array([key.startswith("members") for key in ids])).to_json()
    assert found[0] == {**expected, "name": expected["name"].removesuffix("_mia_custom"), "task": expected["name"]}
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
