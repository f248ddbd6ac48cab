"""What the harness holds of every record and attack is little, and is let go when it has been read."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace

from lm_eval.api.instance import Instance

from spvmia_plugin.harness.request import REQUEST_TYPE, AuditInstance
from spvmia_plugin.records import Record

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
