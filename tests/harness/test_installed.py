"""What is decided about the installed lm_eval, by what is there: 0.4.13, 0.5, and one with plugins for tasks."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.harness import installed
from spvmia_plugin.harness.installed import finds_tasks, known_tasks_only

HAS_SCORERS = importlib.util.find_spec("lm_eval.scorers") is not None


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    for folder in ("tasks/arc", "api"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "__init__.py").touch()
    return tmp_path


READS = (
    "from importlib.metadata import entry_points\n\ndef plugins():\n    return entry_points(group='lm_eval.tasks')\n"
)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("tasks/manager.py", READS, True),
        ("api/registry.py", "GROUP = 'lm_eval.tasks'\nload_plugins(GROUP, paths)\n", True),
        ("plugins.py", READS, True),
        ("tasks/manager.py", "# entry points of lm_eval.tasks are not read\n", False),
        ("tasks/manager.py", '"""The package lm_eval.tasks."""\nimport lm_eval.tasks\n', False),
        ("api/registry.py", "import logging\nlog = logging.getLogger('lm_eval.tasks')\n", False),
        ("tasks/manager.py", "entry_points(group='lm_eval.tasks'\n", False),
        ("tasks/arc/utils.py", READS, False),
    ],
)
def test_an_lm_eval_that_reads_the_group_finds_the_tasks(
    harness: Path, module: str, source: str, expected: bool
) -> None:
    (harness / module).write_text(source)
    assert finds_tasks(harness) is expected


def test_the_installed_one_finds_what_it_says() -> None:
    """Against the real index: if the sources name the group, a manager without our folder must know our tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    if not finds_tasks(Path(lm_eval.__file__).parent):
        assert "spv_mia_custom" not in TaskManager(include_defaults=False).all_tasks
    elif (Path(installed.__file__).parents[1] / "tasks").is_dir():
        assert "spv_mia_custom" in TaskManager().all_tasks


def test_a_name_that_is_no_task_is_no_match(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: json\noutput_type: generate_until\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    original = TaskManager.match_tasks
    with known_tasks_only():
        assert manager.match_tasks(["mine"]) == ["mine"]
        assert manager.match_tasks(["mi*"]) == ["mine"]
        assert manager.match_tasks(["mien"]) == []
        assert manager.match_tasks(["m?x"]) == []
    assert TaskManager.match_tasks is original


def test_predict_only_gives_answers_and_no_metric(evaluate, options, tmp_path) -> None:
    result = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path)}, predict_only=True)
    assert "auroc,none" not in result["results"]["loss_mia_custom"]
    assert result["results"]["loss_mia_custom"]["bypass,none"] == 999
    assert all("score" in row["resps"][0][0] for row in result["samples"]["loss_mia_custom"])


@pytest.mark.skipif(not HAS_SCORERS, reason="an error of lm_eval 0.4.13: a task alone and in a group")
def test_a_task_alone_and_in_a_group_is_one_task_under_its_own_name(evaluate, options, tmp_path, caplog) -> None:
    caplog.set_level(logging.ERROR)
    result = evaluate(["mia_custom", "loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "cache")})
    alone = evaluate(["loss_mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "cache")})
    assert not [name for name in (*result["results"], *result["samples"]) if "::" in name]
    together = evaluate(["mia_custom"], {**options, "mia_cache_dir": str(tmp_path / "cache")})
    for name, other in (("loss_mia_custom", alone), ("mia_custom", together)):
        np.testing.assert_equal(result["results"][name], other["results"][name])  # NaN is as good as NaN
    assert caplog.records == []
