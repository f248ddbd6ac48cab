"""The task files: as generated, complete, and each one loads by itself (the harness's index hides broken ones)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin import __version__
from spvmia_plugin.attacks import GROUPED, PLACES
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.harness.yamls import builtin_files, differences, generate, main, write_task

DATASETS = ("wikitext", "ag_news", "xsum", "custom")
METRICS = {
    "auroc": False,
    "tpr_at_1pct_fpr": False,
    "tpr_at_0.1pct_fpr": False,
    "asr": False,
    "blind_auroc": False,
    "epsilon_lb": False,
    "privacy_score": True,
}
ATTACK_TASKS = [f"{name}_mia" for name in PLACES]
TASKS = [f"{attack}_{dataset}" for attack in ATTACK_TASKS for dataset in DATASETS] + ["canary_audit_custom"]
GROUPS = [f"mia_{dataset}" for dataset in DATASETS] + ["spv_mia"]


def load(name: str, *, resolve: bool = False) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    loaded: dict[str, Any] = load_yaml(tasks_folder() / f"{name}.yaml", resolve_func=resolve)
    return loaded


@pytest.fixture(scope="module")
def manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks_folder()), include_defaults=False)


def test_the_files_are_as_generated() -> None:
    assert differences(tasks_folder(), builtin_files()) == [], "python -m spvmia_plugin.harness.yamls"


def test_every_name_of_the_design_has_a_file_and_no_other_is_there() -> None:
    assert {path.stem for path in tasks_folder().glob("*.yaml")} == {*TASKS, *GROUPS}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_loads(name: str) -> None:
    from spvmia_plugin.harness.task import AuditTask

    config = load(name, resolve=True)

    assert config["task"] == name
    assert config["class"] is AuditTask
    assert config["tag"] == "privacy"
    assert {metric["metric"]: metric["higher_is_better"] for metric in config["metric_list"]} == METRICS
    assert config["metadata"] == {"version": 1.0}  # what else identifies it, an own YAML's metadata cannot remove
    assert config["spvmia_version"] == __version__
    if name != "canary_audit_custom":
        assert name == f"{config['spvmia_attack']}_mia_{config['spvmia_dataset']}"


@pytest.mark.parametrize("name", GROUPS)
def test_each_group_loads(name: str) -> None:
    from lm_eval.config.group import GroupConfig

    group = GroupConfig(**load(name))

    assert group.group == name
    assert all(not metric.weight_by_size for metric in group.aggregate_metric_list)
    left_out = {"epsilon_lb"} if name == "spv_mia" else {"epsilon_lb", "privacy_score"}
    assert {metric.metric for metric in group.aggregate_metric_list} == {*METRICS} - left_out


def test_groups_hold_what_their_names_say() -> None:
    for dataset in DATASETS:
        of_group = [f"{name}_mia_{dataset}" for name in GROUPED]
        assert sorted(load(f"mia_{dataset}")["task"]) == sorted(of_group)
    assert load("spv_mia")["task"] == ["spv_mia_wikitext", "spv_mia_ag_news", "spv_mia_xsum"]


def test_the_harness_indexes_them(manager: Any) -> None:
    assert set(manager.all_subtasks) == set(TASKS)
    assert set(manager.all_groups) == set(GROUPS)
    assert manager.all_tags == ["privacy"]
    assert manager._index["privacy"].tags == set(TASKS)


def test_the_index_imports_nothing_of_ours(manager: Any) -> None:
    assert all(isinstance(entry.cfg["class"], str) for entry in manager._index.values() if "class" in (entry.cfg or {}))


def test_the_generator_writes_checks_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tasks"
    assert main(["--folder", str(folder)]) == 0
    assert main(["--folder", str(folder), "--check"]) == 0
    (folder / "spv_mia_custom.yaml").write_text("task: broken\n")
    (folder / "left_over_mia_custom.yaml").touch()
    capsys.readouterr()

    assert main(["--folder", str(folder), "--check"]) == 1
    assert capsys.readouterr().out.split() == ["left_over_mia_custom.yaml", "spv_mia_custom.yaml"]
    assert main(["--folder", str(folder)]) == 0
    assert differences(folder, builtin_files()) == []


def test_generates_for_other_attacks_and_data_sets() -> None:
    files = generate(["mine"], ["theirs"])
    assert set(files) == {
        *("_common_yaml", "mine_mia_theirs.yaml", "mine_mia_custom.yaml", "mia_theirs.yaml", "mia_custom.yaml"),
        *("spv_mia.yaml", "canary_audit_custom.yaml"),
    }


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("spvmia_plugin.harness.yamls.tasks_folder", lambda: tmp_path)
    with pytest.raises(SpvmiaError, match=r"--output: cannot write .*; name another folder"):
        write_task("spv", "custom", tmp_path / "file")
