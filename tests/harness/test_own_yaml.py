"""YAMLs of the user's own: they include one of ours and change what they like, through the harness's own loader."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin import __version__
from spvmia_plugin.attacks import GROUPED
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness import enable

from .conftest import TASKS

Y = "include: {folder}/loss_mia_custom.yaml\n"


@pytest.fixture
def load(tmp_path, base, options):
    """Write a YAML, and load a name with lm_eval's TaskManager as the stock command does."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "own"
    folder.mkdir()

    def load(text: str, name: str, **more: Any) -> Any:
        (folder / "own.yaml").write_text(text.format(folder=TASKS))
        metadata = {"pretrained": str(base), **options, "mia_cache_dir": str(tmp_path / "cache"), **more}
        manager = TaskManager(metadata=metadata, include_path=[str(TASKS), str(folder)], include_defaults=False)
        return manager.load([name])

    return load


def only(loaded: Any) -> Any:
    (task,) = loaded["tasks"].values()
    return task


@pytest.mark.parametrize(
    ("text", "attack", "rank", "prompts"),
    [
        (Y + "task: own\nmetadata:\n  version: 2.0\n", "loss", 4, 12),
        (Y + "task: own\nmetadata:\n  mia_lora_dropout: 0.05\n", "loss", 4, 12),
        (Y + "task: own\ntag: mine\n", "loss", 4, 12),
        (Y + "task: own\nspvmia_attack: min_k\nmetadata:\n  note: text\n", "min_k", 4, 12),
        (Y + "task: own\nmetadata: a remark\n", "loss", 4, 12),
        (Y + "task: own\nmetadata:\n", "loss", 4, 12),
        # As versions before this one wrote them.
        (Y + "task: own\nmetadata:\n  spvmia_attack: min_k\n  spvmia_dataset: custom\n", "min_k", 4, 12),
    ],
)
def test_an_own_yaml_keeps_what_identifies_the_task(load, text, attack, rank, prompts) -> None:
    task = only(load(text, "own"))
    assert (task.attack.name, task.settings.lora_rank, task.settings.self_prompts) == (attack, rank, prompts)
    metadata = task.dump_config()["metadata"]
    assert (metadata["spvmia_attack"], metadata["spvmia_dataset"]) == (attack, "custom")
    assert metadata["spvmia_version"] == __version__
    assert metadata["version"] == (2.0 if "version: 2" in text else 1.0)
    assert task.config.task == "own"


def test_options_in_an_own_yaml_reach_the_task_and_the_command_line_wins(load) -> None:
    text = Y + "task: own\nmetadata:\n  mia_preset: quick\n  mia_top_k: 7\n"
    task = only(load(text, "own", mia_top_k=None, mia_lora_rank=None, mia_self_prompts=None))
    assert (task.settings.top_k, task.settings.preset) == (0, "quick")  # a null on the command line is "not given"
    assert (task.settings.lora_rank, task.settings.self_prompts) == (16, 250)


def test_a_relative_include_beside_our_files(load, tmp_path) -> None:
    (tmp_path / "own" / "_mine").write_text(f"include: {TASKS}/min_k_mia_custom.yaml\nmetadata:\n  mia_min_k: 0.3\n")
    assert only(load("include: _mine\ntask: own\n", "own")).attack.share == 0.3


@pytest.mark.parametrize("item", ["metadata:\n      mia_top_k: 9", "spvmia_attack: zlib"])
def test_a_group_of_the_users_own(load, item) -> None:
    """An entry of a group replaces keys just so: metadata as a whole."""
    text = (
        f"group: ours\ntask:\n  - min_k_mia_custom\n  - task: loss_mia_custom\n    {item}\nmetadata:\n  mia_top_k: 3\n"
    )
    tasks = load(text, "ours")["tasks"]
    changed = tasks["loss_mia_custom"]
    assert (changed.attack.name, changed.settings.top_k) == (("loss", 9) if "top_k" in item else ("zlib", 0))
    assert tasks["min_k_mia_custom"].attack.name == "min_k"


def test_a_group_that_includes_ours(load) -> None:
    tasks = load("include: {folder}/mia_custom.yaml\ngroup: ours\nmetadata:\n  version: 3.0\n", "ours")["tasks"]
    if version("lm_eval").startswith("0.5"):
        pytest.skip("0.5 does not read what a group includes, and says that the group is empty")
    assert len(tasks) == len(GROUPED)
    assert {task.attack.name for task in tasks.values()} >= {"spv", "loss", "bag_of_words"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "include: {folder}/_common_yaml\ntask: own\n",
            r"own\.yaml: expected 'spvmia_attack', got None; begin the file",
        ),
        ("include: {folder}/_common_yaml\ntask: own\nspvmia_attack: loss\n", "expected 'spvmia_dataset', got None"),
        (Y + "task: own\nspvmia_attack: [loss]\n", r"expected 'spvmia_attack', got \['loss'\]"),
        (Y + "task: own\nspvmia_attack: los\n", "did you mean 'loss'"),
        (
            Y + "task: own\nmetadatas:\n  mia_seed: 1\n",
            r"own\.yaml: metadatas: unknown key \(did you mean 'metadata'\?\)",
        ),
        (Y + "task: own\nmia_preset: quick\n", r"mia_preset: unknown key.*; options .* belong under metadata"),
        (Y + "task: own\nmetadata:\n  mia_presets: quick\n", "mia_presets: unknown option"),
    ],
)
def test_what_is_wrong_in_an_own_yaml_is_told_in_one_line(load, text, message) -> None:
    with pytest.raises(SpvmiaError, match=message):
        load(text, "own")


def test_an_own_yaml_over_files_of_another_version_says_so(load, tmp_path, caplog) -> None:
    enable._warn_once.cache_clear()
    old = (TASKS / "loss_mia_custom.yaml").read_text().replace(__version__, "0.0.1")
    (tmp_path / "own" / "old").write_text(old.replace("_common_yaml", str(TASKS / "_common_yaml")))
    load("include: old\ntask: own\nmetadata:\n  mia_seed: 3\n", "own")
    assert "task files were written by spvmia-plugin 0.0.1" in caplog.text


def test_an_own_yaml_runs(tmp_path: Path, evaluate, options, neighbour_tasks) -> None:
    path = neighbour_tasks / "own.yaml"
    path.write_text(f"include: {TASKS}/loss_mia_custom.yaml\ntask: loss_again\nmetadata:\n  mia_seed: 0\n")
    try:
        result = evaluate(["loss_again", "loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)})
    finally:
        path.unlink()
    rows = [result["results"][name] for name in ("loss_again", "loss_mia_custom")]
    assert rows[0]["auroc,none"] == rows[1]["auroc,none"]
    metadata = result["configs"]["loss_again"]["metadata"]
    assert (metadata["spvmia_attack"], metadata["mia_audit"]["attack"]["name"]) == ("loss", "loss")
    assert result["versions"]["loss_again"] == 1.0
