"""Rows of groups: the strongest of attacks on the same records, the mean over data sets."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from spvmia_plugin.harness.task import AuditTask

from .conftest import TASKS, write_jsonl

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


def test_the_row_of_attacks_on_the_same_records_is_the_strongest(evaluate, options, group, tmp_path, capsys):
    """Neither a mean over attacks nor the blind baseline, whose AUROC is the largest here."""
    tasks = [f"{name}_mia_custom" for name in NAMES]
    metrics = ("auroc", "tpr_at_1pct_fpr", "asr", "blind_auroc")
    name = group("some_attacks", tasks, metrics=metrics)
    result = evaluate([name], {**options, "mia_candidate": "none", "mia_cache_dir": str(tmp_path)})
    row, rows = result["results"]["some_attacks"], result["results"]
    told = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["strongest"]
    assert told["n_attacks"] == 3
    best = told["auroc"]["task"]
    assert best in {"loss_mia_custom", "min_k_mia_custom", "min_k_pp_mia_custom"}
    assert row["auroc,none"] == rows[best]["auroc,none"] == told["auroc"]["value"]
    assert row["auroc_stderr,none"] == pytest.approx((told["auroc"]["high"] - told["auroc"]["low"]) / (2 * 1.959964))
    assert row["auroc_stderr,none"] > 1.1 * rows[best]["auroc_stderr,none"]
    assert math.isnan(row["tpr_at_1pct_fpr,none"])  # 40 non-members
    assert math.isnan(row["tpr_at_1pct_fpr_stderr,none"])
    assert row["asr,none"] == rows[best]["asr,none"]
    assert row["asr_stderr,none"] == "N/A"
    assert row["blind_auroc,none"] == rows[best]["blind_auroc,none"]
    assert row["sample_count"]["auroc,none"] == 80
    said = capsys.readouterr().err
    assert "spvmia: some_attacks: its row is the strongest attack on these records, not the mean of all" in said
    assert f"spvmia: custom: the strongest of 3 attacks: AUROC {told['auroc']['value']:.3f} (" in said
    table = said[said.index("  attack ") :].splitlines()
    assert table[0].split() == ["attack", "AUROC", "TPR", "at", "5", "%", "FPR", "a", "guess", "is"]
    assert table[1].split()[:2] == [told["auroc"]["attack"], f"{told['auroc']['value']:.3f}"]
    assert {line.split()[0] for line in table[1:4]} == {"loss", "min_k", "min_k_pp"}
    assert table[4] == "  one page of it: spvmia report RESULTS, the folder of --output_path (with --log_samples)"


def test_the_group_of_the_documentation_is_the_strongest_whatever_the_settings(
    evaluate, options, neighbour_tasks, tmp_path, capsys
):
    """docs/tasks.md has such a one: an entry with settings of its own, and here one attack under a second name."""
    others = {"my_audit.yaml": "", "loss_again.yaml": f"include: {TASKS / 'loss_mia_custom.yaml'}\ntask: loss_again\n"}
    others["my_audit.yaml"] = (
        "group: my_audit\ntask:\n  - loss_mia_custom\n  - loss_again\n  - task: min_k_mia_custom\n    metadata:\n"
        "      mia_min_k: 0.5\naggregate_metric_list:\n  - metric: auroc\n    aggregation: mean\n"
        "    weight_by_size: false\n"
    )
    for name, text in others.items():
        (neighbour_tasks / name).write_text(text)
    try:
        result = evaluate(["my_audit"], {**options, "mia_cache_dir": str(tmp_path)})
    finally:
        for name in others:
            (neighbour_tasks / name).unlink()
    rows, said = result["results"], capsys.readouterr().err
    told = result["configs"]["loss_again"]["metadata"]["mia_audit"]["strongest"]
    assert told["n_attacks"] == 2
    assert rows["loss_again"]["auroc,none"] == rows["loss_mia_custom"]["auroc,none"]
    assert rows["my_audit"]["auroc,none"] == told["auroc"]["value"] == max(rows[t]["auroc,none"] for t in rows)
    stderr = (told["auroc"]["high"] - told["auroc"]["low"]) / (2 * 1.959964)
    assert rows["my_audit"]["auroc_stderr,none"] == pytest.approx(stderr)
    assert said.count("the strongest of 2 attacks") == 1
    assert said.count("spvmia: my_audit: its row is the strongest attack") == 1


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

    from spvmia_plugin.harness.group_rows import install_group_rows

    name = group("others", ["other_choice"], metrics=("acc",), weight="true")
    before = evaluate([name])["results"]["others"]
    result = evaluate([name, "loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)})
    assert result["results"]["others"] == before
    wrapped = Group.aggregate
    install_group_rows()
    assert Group.aggregate is wrapped


def test_items_that_came_from_other_processes_are_summarised_once(evaluate, options, tmp_path, capsys, monkeypatch):
    """Several processes hand each metric copies of its own; a run is told of once, however many metrics there are."""
    original = AuditTask.aggregation

    def aggregation(task):
        copied = original(task).items()
        return {name: lambda items, of=of: of(pickle.loads(pickle.dumps(list(items)))) for name, of in copied}

    monkeypatch.setattr(AuditTask, "aggregation", aggregation)
    evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)})
    assert capsys.readouterr().err.count("spvmia: custom: the attack: AUROC") == 1
