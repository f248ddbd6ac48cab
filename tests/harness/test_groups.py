"""Rows of groups: means over what has a number, with the error of a mean over attacks on the same records."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from .conftest import write_jsonl

NAMES = ["loss", "min_k", "min_k_pp", "lira_candidate", "bag_of_words"]


@pytest.fixture
def group(neighbour_tasks):
    """Writes a group's YAML beside the neighbour tasks."""
    written = []

    def write(name, tasks, metrics=("auroc", "asr"), weight="false"):
        path = neighbour_tasks / f"{name}.yaml"
        listed = "".join(f"  - {task}\n" for task in tasks)
        entries = "".join(f"  - metric: {m}\n    aggregation: mean\n    weight_by_size: {weight}\n" for m in metrics)
        path.write_text(f"group: {name}\ntask:\n{listed}aggregate_metric_list:\n{entries}metadata:\n  version: 1.0\n")
        written.append(path)
        return name

    yield write
    for path in written:
        path.unlink()


def naive_stderr_of_mean(result, tasks):
    """Each pair of records looked at, each attack's components averaged before they are squared."""
    total = 0
    for task in tasks:
        rows = [(row["doc"]["is_member"], json.loads(row["resps"][0][0])["score"]) for row in
                sorted(result["samples"][task], key=lambda row: row["doc"]["id"])]  # fmt: skip
        members = np.array([score for is_member, score in rows if is_member])
        others = np.array([score for is_member, score in rows if not is_member])
        wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
        of_members = (wins.mean(axis=1) - wins.mean()) / np.sqrt(len(members) * (len(members) - 1))
        of_others = (wins.mean(axis=0) - wins.mean()) / np.sqrt(len(others) * (len(others) - 1))
        total = total + np.concatenate([of_members, of_others])
    return np.linalg.norm(total / len(tasks))


def test_the_mean_over_attacks_on_the_same_records(evaluate, options, group, tmp_path, capsys):
    tasks = [f"{name}_mia_custom" for name in NAMES]
    result = evaluate([group("some_attacks", tasks)], {**options, "mia_cache_dir": str(tmp_path)})
    row, found = result["results"]["some_attacks"], [task for task in tasks if "candidate" not in task]
    assert row["auroc,none"] == pytest.approx(np.mean([result["results"][task]["auroc,none"] for task in found]))
    assert row["auroc_stderr,none"] == pytest.approx(naive_stderr_of_mean(result, found), rel=1e-6)
    stderrs = [result["results"][task]["auroc_stderr,none"] for task in found]
    assert row["auroc_stderr,none"] > 1.2 * math.sqrt(sum(s**2 for s in stderrs)) / len(stderrs)
    assert row["asr_stderr,none"] == "N/A"
    assert row["sample_count"]["auroc,none"] == 80 * len(found)
    assert math.isnan(result["results"]["lira_candidate_mia_custom"]["auroc,none"])
    said = "some_attacks: means over 4 of 5 tasks; without a number: lira_candidate_mia_custom"
    assert said in capsys.readouterr().err


def other_data(tmp_path, neighbour_tasks, options):
    """A task on other files than the run's."""
    from spvmia_plugin.harness.yamls import _common
    from tests.tiny import tiny_texts

    texts = tiny_texts(80, seed=23)
    members = write_jsonl(tmp_path / "m.jsonl", texts[:30])
    nonmembers = write_jsonl(tmp_path / "n.jsonl", texts[30:70])
    path = neighbour_tasks / "elsewhere.yaml"
    path.write_text(
        f"task: loss_elsewhere\n{_common()}metadata:\n  spvmia_attack: loss\n  spvmia_dataset: custom\n"
        f"  mia_members: {members}\n  mia_nonmembers: {nonmembers}\n"
    )
    return path


def test_the_mean_over_data_sets_is_the_harnesss_own(evaluate, options, group, tmp_path, neighbour_tasks, monkeypatch):
    """Independent data: nothing to correct. Options of a YAML reach its own task alone."""
    from spvmia_plugin.harness.task import AuditTask

    common = {key: value for key, value in options.items() if key not in ("mia_members", "mia_nonmembers")}
    defaults = {key: options[key] for key in ("mia_members", "mia_nonmembers")}
    plain = AuditTask.__init__

    def with_defaults(task, config):
        plain(task, {**config, "metadata": {**defaults, **config["metadata"]}})

    monkeypatch.setattr(AuditTask, "__init__", with_defaults)
    path = other_data(tmp_path, neighbour_tasks, options)
    try:
        name = group("two_sets", ["loss_mia_custom", "loss_elsewhere"])
        result = evaluate([name], {**common, "mia_cache_dir": str(tmp_path / "cache")})
    finally:
        path.unlink()
    rows = [result["results"][task] for task in ("loss_mia_custom", "loss_elsewhere")]
    assert rows[0]["sample_len"] != rows[1]["sample_len"]
    row = result["results"]["two_sets"]
    assert row["auroc,none"] == pytest.approx(np.mean([one["auroc,none"] for one in rows]))
    expected = math.hypot(*(one["auroc_stderr,none"] for one in rows)) / 2
    assert row["auroc_stderr,none"] == pytest.approx(expected)


def test_groups_of_others_stay_with_the_harness(evaluate, group, options, tmp_path):
    from lm_eval.api.group import Group

    from spvmia_plugin.harness.task import install_group_means

    name = group("others", ["other_choice"], metrics=("acc",), weight="true")
    before = evaluate([name])["results"]["others"]
    result = evaluate([name, "loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)})
    assert result["results"]["others"] == before
    wrapped = Group.aggregate
    install_group_means()
    assert Group.aggregate is wrapped
