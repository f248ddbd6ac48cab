"""Two processes against one: the same numbers, one reference, and nobody waits for a process that has failed."""

from __future__ import annotations

import json
import shutil

import pytest

from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.outcome import Outcome, RecordResult, Results
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.request import meet
from spvmia_plugin.protocols import Cost
from spvmia_plugin.signals import Role, View
from spvmia_plugin.util import processes
from spvmia_plugin.util.processes import Processes
from tests.launch import two_processes
from tests.tiny import tiny_texts

from .conftest import TASKS, write_jsonl
from .test_conversations import TEMPLATE, conversations, write

ALL = "mia_custom"


def launch(order, place):
    """Two processes; their exit statuses, and what they said on stderr."""
    (place / "order.json").write_text(json.dumps(order))
    ended = two_processes(["-m", "tests.harness.worker", str(place / "order.json")])
    return [status for status, _ in ended], [said for _, said in ended]


def scores(result, task):
    return {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in result["samples"][task]}


def assert_same(one, two, tolerance):
    assert set(one["samples"]) == set(two["samples"])
    for task in one["samples"]:
        alone, shared = scores(one, task), scores(two, task)
        assert set(alone) == set(shared), task
        for key, expected in alone.items():
            for name, value in expected.items():
                close = pytest.approx(value, abs=tolerance, rel=tolerance) if isinstance(value, float) else value
                assert shared[key][name] == close, (task, key, name)
        for name, value in one["results"][task].items():
            if isinstance(value, float):
                assert two["results"][task][name] == pytest.approx(value, abs=2e-2, nan_ok=True), (task, name)


@pytest.mark.slow
def test_two_processes_against_one(evaluate, base, adapter, options, tmp_path):
    """All attacks; a number of records that does not divide by two; a limit; one store for both, empty at first."""
    model = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32", "device": "cpu", "batch_size": 8}
    places = {"pretrained": str(base), "peft": str(adapter)}
    metadata = {**options, **places, "mia_max_samples": 39, "mia_cache_dir": str(tmp_path / "two")}
    audits = [
        {"tasks": [ALL], "metadata": metadata, "output": str(tmp_path / "all")},
        {"tasks": [ALL], "metadata": metadata, "output": str(tmp_path / "limit"), "limit": 9},
    ]
    status, said = launch({"model": model, "audits": audits}, tmp_path)
    assert status == [0, 0], said
    single = {**options, "mia_max_samples": 39, "mia_cache_dir": str(tmp_path / "one")}
    for name, limit in (("all", None), ("limit", 9)):
        ranks = [json.loads((tmp_path / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]
        alone = evaluate([ALL], single, limit=limit)
        assert_same(alone, ranks[0], 1e-5)
        assert "samples" not in ranks[1]
        assert len(ranks[0]["samples"]["spv_mia_custom"]) == (limit or 78)
        trained = [rank["calls"]["trained"] for rank in ranks]
        assert sum(trained) == (2 if limit is None else 0)  # reference and candidate; the others loaded them
        assert sum(rank["calls"]["generated"] for rank in ranks) == (limit is None)
        together, by_itself = (audit_of(result) for result in (ranks[0], alone))
        assert together["stages"]["paraphrases"] == pytest.approx(by_itself["stages"]["paraphrases"])
        assert together["stages"]["reference"]["trained"] is (limit is None)
    cost, expected = audit_of(ranks[0])["cost"], by_itself["cost"]
    assert {name: stage["forward_tokens"] for name, stage in cost.items()} == dict.fromkeys(cost, 0)  # all was stored
    assert sum(stage["forward_tokens"] for stage in expected.values()) == 0
    assert "[transformers]" not in said[0] + said[1]
    assert said[0].count("stage ") == 2  # one plan an audit, shown by one process
    assert said[1].count("stage ") == 0


@pytest.mark.slow
def test_two_processes_against_one_on_conversations(evaluate, base, adapter, options, tmp_path):
    """Scored under the mask, and calibrated on self-prompts that one process had the target write."""
    chatty = tmp_path / "chatty"
    shutil.copytree(base, chatty)
    (chatty / "chat_template.jinja").write_text(TEMPLATE)
    rows = conversations(90, seed=3)
    files = {"mia_members": rows[:31], "mia_nonmembers": rows[31:60], "mia_prompts": rows[60:]}
    named = {key: write(tmp_path / f"{key}.jsonl", of_class) for key, of_class in files.items()}
    given = {key: value for key, value in options.items() if key != "mia_block_size"} | named
    model = {"pretrained": str(chatty), "peft": str(adapter), "dtype": "float32", "device": "cpu", "batch_size": 8}
    places = {"pretrained": str(chatty), "peft": str(adapter)}
    metadata = {**given, **places, "mia_record_tokens": 100, "mia_cache_dir": str(tmp_path / "two")}
    audits = [{"tasks": [ALL], "metadata": metadata, "output": str(tmp_path / "chat")}]
    status, said = launch({"model": model, "audits": audits}, tmp_path)
    assert status == [0, 0], said
    together = json.loads((tmp_path / "chat.0.json").read_text())
    single = {**given, "mia_record_tokens": 100, "mia_cache_dir": str(tmp_path / "one")}
    alone = evaluate([ALL], single, model_args={"pretrained": str(chatty)})
    assert_same(alone, together, 1e-5)
    one, two = (audit_of(result) for result in (alone, together))
    assert two["self_prompts"] == one["self_prompts"]
    assert {**two["scored"], "other": None} == {**one["scored"], "other": None}


@pytest.mark.slow
def test_both_processes_train_the_reference_where_asked(evaluate, base, adapter, options, tmp_path):
    """`mia_reference_parallel`: given the reference that two made, one process has their scores."""
    model = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32", "device": "cpu", "batch_size": 8}
    store = tmp_path / "two"
    candidate = {"mia_candidate": write_jsonl(tmp_path / "candidate.jsonl", tiny_texts(10, seed=9, words=(20, 30)))}
    metadata = {**options, **candidate, "mia_reference_parallel": True, "mia_cache_dir": str(store)}
    places = {"pretrained": str(base), "peft": str(adapter)}
    audits = [
        {"tasks": ["spv_mia_custom", "lira_candidate_mia_custom"], "metadata": {**metadata, **places}, "output": str(o)}
        for o in (tmp_path / "first", tmp_path / "again")
    ]
    status, said = launch({"model": model, "audits": audits}, tmp_path)
    assert status == [0, 0], said
    first, again = ([json.loads((tmp_path / f"{o}.{r}.json").read_text()) for r in (0, 1)] for o in ("first", "again"))
    assert [rank["calls"]["trained"] for rank in first] == [2, 2]  # reference and candidate
    assert sum(rank["calls"]["generated"] for rank in first) == 1
    assert [rank["calls"]["trained"] for rank in again] == [0, 0]
    assert len(list((store / "references").iterdir())) == 2
    record = audit_of(first[0])
    assert record["stages"]["reference"]["processes"] == 2
    trained = record["stages"]["reference"]["tokens"] + record["stages"]["candidate"]["tokens"]
    assert sum(stage["training_tokens"] for stage in record["cost"].values()) == pytest.approx(trained, abs=4)
    reference = store / "references" / record["stages"]["reference"]["folder"]
    alone = evaluate(
        ["spv_mia_custom"], {**options, "mia_reference": str(reference), "mia_cache_dir": str(tmp_path / "one")}
    )
    for rank_0 in (first[0], again[0]):
        rank_0["samples"].pop("lira_candidate_mia_custom")
        assert_same(alone, rank_0, 1e-5)


@pytest.mark.slow
def test_an_attack_on_all_records_at_once_sees_those_of_both_processes(evaluate, base, adapter, options, tmp_path):
    """Of the signals that two processes stored, one makes the same scores, to the bit."""
    model = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32", "device": "cpu", "batch_size": 8}
    given = {**options, "mia_max_samples": 21, "mia_cache_dir": str(tmp_path / "store")}
    metadata = {**given, "pretrained": str(base), "peft": str(adapter)}
    audits = [{"tasks": ["learned_mia_custom"], "metadata": metadata, "output": str(tmp_path / "two")}]
    status, said = launch({"model": model, "audits": audits}, tmp_path)
    assert status == [0, 0], said
    together = json.loads((tmp_path / "two.0.json").read_text())
    alone = evaluate(["learned_mia_custom"], given)
    assert_same(alone, together, 0)
    assert all(row["score"] is not None for row in scores(alone, "learned_mia_custom").values())
    one, two = (audit_of(result, "learned_mia_custom") for result in (alone, together))
    assert one["learned"] == two["learned"]
    assert one["learned"]["variant"] == "both"


def audit_of(result, task="spv_mia_custom"):
    return result["configs"][task]["metadata"]["mia_audit"]


@pytest.mark.slow
def test_a_process_that_fails_stops_the_other_with_a_clear_line(base, adapter, options, tmp_path):
    model = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32", "device": "cpu", "batch_size": 8}
    metadata = {**options, "pretrained": str(base), "peft": str(adapter), "mia_cache_dir": str(tmp_path / "store")}
    audit = {"tasks": ["loss_mia_custom"], "metadata": metadata, "output": str(tmp_path / "out"), "fails": 1}
    status, said = launch({"model": model, "audits": [audit]}, tmp_path)
    assert status == [1, 1]
    assert "mia_cache_dir: expected room, got none" in said[1]
    assert "several processes: expected all 2 to finish, got a broken connection: another one has failed" in said[0]


def share(rank, tokens, trained, note, rate):
    paraphrases = {"kind": "causal", "records": 2, "records_without": 0, "texts": 8, "mask_rate": rate}
    return Outcome(
        stages={"scoring: target": Cost(forward_tokens=tokens, seconds=rank + 1.0)},
        notes=["noted by all", note],
        details={"reference": {"trained": trained}, "paraphrases": paraphrases},
        asked={
            (Role.TARGET, View.TEXT): Amount(1, tokens, tokens),
            (Role.TARGET, View.POPULATION): Amount(5, 50, 0),
        },
    )


def told_by_others(monkeypatch, *others):
    """Let the other processes have said what they had to say."""
    monkeypatch.setattr(processes, "all_say", lambda mine, count: [mine, *others])


def test_all_know_what_all_did(monkeypatch):
    outcomes = [share(0, 10, False, "rank 0", 0.1), share(1, 20, True, "rank 1", 0.2)]
    told_by_others(monkeypatch, [(o.stages, o.notes, o.details, o.asked, {}) for o in outcomes[1:]])
    (merged,) = meet(Processes(0, 2), outcomes[:1])
    assert merged.stages == {"scoring: target": Cost(forward_tokens=30, seconds=2.0)}
    assert merged.asked == {
        (Role.TARGET, View.TEXT): Amount(2, 30, 30),
        (Role.TARGET, View.POPULATION): Amount(5, 50, 0),  # one for all
    }
    assert merged.notes == ["noted by all", "rank 0", "rank 1"]
    assert merged.details["reference"] == {"trained": True}
    assert merged.details["paraphrases"]["records"] == 4
    assert merged.details["paraphrases"]["texts"] == 16
    assert merged.details["paraphrases"]["mask_rate"] == pytest.approx(0.15)
    assert outcomes[0] == share(0, 10, False, "rank 0", 0.1)


def test_one_process_meets_nobody():
    outcome = share(0, 10, False, "x", None)
    (same,) = meet(Processes(), [outcome])
    assert same.stages["scoring: target"].forward_tokens == 10


def results(**scores):
    return Results({name: RecordResult(score) for name, score in scores.items()})


@pytest.mark.parametrize("rank", [0, 1])
def test_results_are_brought_together_in_the_order_of_the_records_where_the_harness_does_not(monkeypatch, rank):
    shares = [{"loss": results(a=1.0, c=3.0, e=5.0)}, {"loss": results(b=2.0, d=4.0)}]
    monkeypatch.setattr(
        processes, "all_say", lambda mine, count: [mine if k == rank else [({}, [], {}, {}, shares[k])] for k in (0, 1)]
    )
    (merged,) = meet(Processes(rank, 2, whole=True), [Outcome(results=dict(shares[rank]))])
    assert {key: result.score for key, result in merged.results["loss"].items()} == {
        "a": 1,
        "b": 2,
        "c": 3,
        "d": 4,
        "e": 5,
    }
    assert list(merged.results["loss"]) == list("abcde")
    monkeypatch.setattr(processes, "all_say", lambda mine, count: [mine, [({}, [], {}, {}, {})]])
    (own,) = meet(Processes(rank, 2), [Outcome(results=dict(shares[rank]))])
    assert own.results["loss"] is shares[rank]["loss"]


def test_a_broken_connection_is_told(monkeypatch):
    def gone(*_):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:21")

    monkeypatch.setattr(processes, "all_say", gone)
    with pytest.raises(SpvmiaError, match="another one has failed"):
        meet(Processes(0, 2), [])


def test_more_processes_than_records_are_refused_by_every_process(options, tmp_path, base):
    from lm_eval.tasks import TaskManager

    metadata = {**options, "pretrained": str(base), "mia_cache_dir": str(tmp_path)}
    manager = TaskManager(metadata=metadata, include_path=str(TASKS), include_defaults=False)
    task = manager.load(["loss_mia_custom"])["tasks"]["loss_mia_custom"]
    for rank in range(4):
        with pytest.raises(SpvmiaError, match="--limit: expected at least one record for each of 4 processes, got 3"):
            task.build_all_requests(limit=3, rank=rank, world_size=4)
        task.build_all_requests(limit=5, rank=rank, world_size=4)
        assert len(task.audited) == 5
        assert len(task.instances) == (2 if rank == 0 else 1)
