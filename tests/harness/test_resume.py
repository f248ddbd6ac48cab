"""Interrupted in any stage, the same audit continues to the same bits and does at most one batch or interval twice."""

from __future__ import annotations

import functools
import json

import pytest

from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.store.store import Store
from spvmia_plugin.training.trainer import TrainSettings
from tests.harness.kills import OPTIONS, PROMPTS, TASKS, TEXTS, kills
from tests.harness.recorder import STAGES, Pass, record, repeated, units
from tests.models.models import harness_lm

REGISTRY = load_registry(entry_points=False)


class Killed(KeyboardInterrupt):
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def audit(models, monkeypatch):
    """One audit in this process: `audit(store, dies_in, at)` gives the results and the passes."""
    records = [Record(f"f:{i}", text, i % 2 == 0, f"f:{i}") for i, text in enumerate(TEXTS[:18])]
    prompts = tuple(Document(f"p:{i}", text) for i, text in enumerate(PROMPTS))
    data = AuditData(tuple(records), prompts, (), "declared", "f" * 8, "made", 0)
    config = AuditConfig.from_metadata(OPTIONS, REGISTRY.attack_options)
    attacks = {f"{name}_mia_custom": REGISTRY.attack(name, config) for name in TASKS}

    def run(folder, dies_in=None, at=0):
        passes: list[Pass] = []

        def keep(each):
            passes.append(each)
            if dies_in == each.stage and units(passes)[dies_in].total() > at:
                raise Killed

        backend = HFBackend(harness_lm(models, "lora", dtype="bfloat16"), config, str(models / "base"))
        with monkeypatch.context() as patch:
            record(keep, patch.setattr)
            with Store(folder) as store:
                try:
                    audit = Job(data, config, attacks, records, records)
                    return Run(audit, backend, REGISTRY, store).execute().results, passes
                except Killed:
                    return None, passes

    return run


@pytest.fixture(scope="module")
def whole():
    """Results and passes of the run that was never interrupted, once for all tests."""
    return {}


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        ("self-prompt", 1),
        ("training", 14),
        pytest.param("paraphrase", 1, marks=pytest.mark.slow),
        pytest.param("scoring", 9, marks=pytest.mark.slow),
    ],
)
def test_interrupted_in_any_stage(audit, whole, tmp_path, stage, at):
    if not whole:
        whole["results"], whole["passes"] = audit(tmp_path / "whole")
        assert all(batches.total() > 1 for batches in units(whole["passes"]).values())
    nothing, first = audit(tmp_path / "killed", stage, at)
    assert nothing is None
    results, second = audit(tmp_path / "killed")
    assert results == whole["results"]
    twice = repeated(whole["passes"], [*first, *second])
    assert twice.pop(stage) <= (5 if stage == "training" else 1)  # steps since the checkpoint after step 10
    assert set(twice.values()) == {0}


def test_a_damaged_entry_is_recomputed_in_the_batch_it_came_from(audit, whole, tmp_path):
    """So that it has its bits again, in a precision where other batches give others."""
    if not whole:
        whole["results"], whole["passes"] = audit(tmp_path / "whole")
    results, _ = audit(tmp_path / "store")
    with Store(tmp_path / "store") as store:
        lost = "DELETE FROM entries WHERE kind = ? AND id % 7 = 3"
        for kind in ("signals", "neighbours"):
            store._entries.database.write(lambda connection, kind=kind: connection.execute(lost, (kind,)))
    again, passes = audit(tmp_path / "store")
    assert again == results == whole["results"]
    assert 0 < len(passes) < len(whole["passes"])


@pytest.mark.slow
def test_batches_that_ran_out_of_memory_are_halved_alike_in_the_resumed_run(audit, tmp_path, monkeypatch):
    """Even where there is more memory by then."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)
    def small(self, *args, **kwargs):
        if kwargs["input_ids"].numel() > 900 and not self.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", small)
    expected, passes = audit(tmp_path / "whole")
    nothing, first = audit(tmp_path / "killed", "scoring", 12)
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    results, second = audit(tmp_path / "killed")
    assert nothing is None
    assert results == expected
    assert sum(repeated(passes, [*first, *second]).values()) <= 1
    largest = max(each.rows * each.width for each in second if each.stage == "scoring")
    assert largest <= 1024
    again, _ = audit(tmp_path / "killed")
    assert again == expected
    with Store(tmp_path / "killed") as store:
        assert [value for value in read_json(store) if isinstance(value, dict)] == [{}]  # forgotten at the end


def read_json(store):
    query = "SELECT value FROM entries WHERE kind = 'json'"
    rows = store._entries.database.read(lambda connection: connection.execute(query).fetchall())
    return [json.loads(value) for (value,) in rows]


@pytest.mark.slow
def test_a_repeated_audit_asks_the_model_nothing(evaluate, options, tmp_path, monkeypatch):
    """All attacks through the harness: no forward pass but those that say which function each model is; no sampling, no
    training; the same numbers."""
    from transformers import LlamaForCausalLM

    from spvmia_plugin.models import local

    ask, forward, asking = local.ask, LlamaForCausalLM.forward, []

    def asked(*arguments):
        asking.append(True)
        try:
            return ask(*arguments)
        finally:
            asking.pop()

    metadata = {**options, "mia_cache_dir": str(tmp_path)}
    first = evaluate(["mia_custom"], metadata)

    @functools.wraps(forward)  # transformers looks at the names of its arguments
    def refuse(*arguments, **named):
        if asking:
            return forward(*arguments, **named)
        raise AssertionError("a forward pass in a run that has everything")

    monkeypatch.setattr(local, "ask", asked)
    monkeypatch.setattr(LlamaForCausalLM, "forward", refuse)
    second = evaluate(["mia_custom"], metadata)
    for task, rows in first["samples"].items():
        assert [row["resps"] for row in second["samples"][task]] == [row["resps"] for row in rows]
    cost = second["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["cost"]
    assert {stage["batches"] + stage["training_tokens"] for stage in cost.values()} == {0}


MORE = {"mia_self_prompts": 200, "mia_perturbations": 3}


@pytest.mark.slow
def test_killed_at_20_random_moments_it_ends_with_the_same_bits(base, adapter, tmp_path):
    """`kill -9` over all stages of a 40-record audit through the command line, in bfloat16."""
    interval = TrainSettings(1.0, 1e-3, 4).checkpoint_interval(MORE["mia_self_prompts"])
    all_kills = list(kills(tmp_path, f"pretrained={base},peft={adapter},dtype=bfloat16", MORE, per_stage=5))
    assert len(all_kills) == 20
    for kill in all_kills:
        assert kill.same
        assert kill.twice["training"] <= interval
        assert sum(kill.twice.values()) - kill.twice["training"] <= 1
    assert {kill.stage for kill in all_kills} == set(STAGES)
