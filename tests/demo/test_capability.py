import json
import stat
from collections import Counter

import pytest
import yaml

from spvmia_plugin.demo.corpus import TASK, make_tickets, write_capability_task


@pytest.fixture
def folder(tmp_path):
    write_capability_task(tmp_path, make_tickets(40, seed=3))
    return tmp_path


def test_questions_hold_the_story_without_its_answer(folder):
    tickets = make_tickets(40, seed=3)
    rows = [json.loads(line) for line in (folder / f"{TASK}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["story"] for row in rows] == [ticket.story for ticket in tickets]
    assert not any(row["story"].endswith(ticket.department) for row, ticket in zip(rows, tickets, strict=True))
    assert len(Counter(row["answer"] for row in rows)) == 4
    assert stat.S_IMODE((folder / f"{TASK}.jsonl").stat().st_mode) == 0o600


def test_the_yaml_is_plain(folder):
    config = yaml.safe_load((folder / f"{TASK}.yaml").read_text(encoding="utf-8"))
    assert config["task"] == TASK
    assert config["output_type"] == "multiple_choice"


@pytest.fixture
def task(folder):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False).load([TASK])["tasks"][TASK]


def test_the_harness_asks_it_and_leaves_no_copy_outside_the_folder(folder, task):
    ticket = make_tickets(1, seed=3)[0]
    task.build_all_requests(limit=1, rank=0, world_size=1)
    asked = [instance.args for instance in task.instances]
    assert [context for context, _ in asked] == [f"{ticket.story} Department:"] * 4
    assert [answer for _, answer in asked] == [" billing", " shipping", " returns", " repair"]
    doc = next(iter(task.test_docs()))
    best = [(0.0 if answer == f" {ticket.department}" else -9.0, False) for _, answer in asked]
    if (scored := task.process_results(doc, best)) is not None:  # lm-eval 0.5 leaves it to the task's scorers
        assert scored["acc"] == 1.0
    assert list((folder / "arrow").rglob("*.arrow"))
