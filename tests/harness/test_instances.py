"""What the harness holds of every record and attack is little, and is let go when it has been read."""

from __future__ import annotations

import contextlib
import json
import random
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness import request
from spvmia_plugin.harness.request import REQUEST_TYPE, AuditInstance
from spvmia_plugin.records import Record
from spvmia_plugin.util.libraries import isolated_rng, kept_rng

ASKED = SimpleNamespace(task="spv_mia_custom", read=lambda record_id: None)
RECORD = Record("members.jsonl:3", "secret", True, "members.jsonl:3")


def test_it_is_to_the_harness_what_it_was():
    doc = {"id": RECORD.id, "is_member": True}
    made = AuditInstance(ASKED, RECORD, doc, 7)
    told = {"request_type": REQUEST_TYPE, "doc": doc, "arguments": (RECORD.id,), "idx": 0, "task_name": made.task_name}
    plain = Instance(**told, doc_id=7, metadata=("spv_mia_custom", 7, 1))
    plain.target = made.target  # a field of lm-eval 0.5
    names = {*Instance.__dataclass_fields__, "args"} - {"metadata"}  # which 0.5 unpacks
    assert made.target == "member"
    assert {name: getattr(made, name) for name in names} == {name: getattr(plain, name) for name in names}
    assert "secret" not in repr(made)


def test_a_request_takes_little():
    docs = [{"id": f"f:{i}", "is_member": True} for i in range(1000)]
    AuditInstance(ASKED, RECORD, docs[0], 0)
    tracemalloc.start()
    try:
        held = [AuditInstance(ASKED, RECORD, doc, i) for i, doc in enumerate(docs)]
        each = tracemalloc.get_traced_memory()[0] / len(held)
    finally:
        tracemalloc.stop()
    assert each < 160  # as an ordinary Instance: 440, and 320 more with an answer


def test_answers_are_let_go_and_what_is_logged_is_not(evaluate, options, tmp_path):
    seen = []

    class Watched(AuditInstance):
        def let_go(self):
            assert self.resps[0] in (self.filtered_resps["none"], *self.filtered_resps["none"])  # 0.5 keeps a list
            seen.append((self.task_name, self.doc_id))
            super().let_go()
            assert not self.filtered_resps

    from spvmia_plugin.harness import task

    ours = task.AuditInstance
    task.AuditInstance = Watched
    try:
        tasks = ["loss_mia_custom", "zlib_mia_custom", "bag_of_words_mia_custom"]
        found = evaluate(tasks, {**options, "mia_cache_dir": str(tmp_path)}, log_samples=True)
    finally:
        task.AuditInstance = ours
    assert len(seen) == 2 * 80  # all tasks but the last
    for name in tasks:
        rows = found["samples"][name]
        assert len(rows) == 80
        assert all(isinstance(json.loads(row["resps"][0][0])["score"], float) for row in rows)
        assert all(row["filtered_resps"] in (row["resps"][0], row["resps"]) for row in rows)
        assert [row["doc_id"] for row in rows] == list(range(80))
        assert all(row["arguments"] == [(row["doc"]["id"],)] for row in rows)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_seeded_while_records_are_scored_changes_no_other_task(monkeypatch, fails):
    def seeding(*_):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        if fails:
            raise SpvmiaError("mia_seed: expected nothing, got something; correct it")
        return []

    def drawn():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    monkeypatch.setattr(request, "_answer", seeding)
    with isolated_rng(7):
        expected = drawn()
    with isolated_rng(7):
        with contextlib.suppress(SpvmiaError):
            request.answer(None, [])
        assert drawn() == expected


def test_a_device_that_nobody_used_is_not_touched(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.random, "fork_rng", lambda which, **_: asked.append(which) or contextlib.nullcontext())
    for used, expected in ((False, []), (True, [0, 1])):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
        with kept_rng():
            pass
        assert asked.pop() == expected
