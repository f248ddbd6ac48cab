"""`spvmia run` and `spvmia tasks`: which folders lm_eval is given, and that everything else passes through."""

from __future__ import annotations

import functools
import logging
import sys
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.harness import enable as module
from spvmia_plugin.harness.enable import tasks_folder


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the harness's command line would have executed, by option."""
    from lm_eval.__main__ import HarnessCLI

    seen: dict[str, Any] = {}
    monkeypatch.setattr(HarnessCLI, "execute", lambda self, options: seen.update(vars(options)))
    monkeypatch.setattr(module, "enabled", lambda: "no")
    return seen


def run(*arguments: str) -> None:
    result = CliRunner().invoke(make_app(), ["run", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_includes_our_tasks_and_passes_the_rest_through(given: dict[str, Any]) -> None:
    run(
        "--model",
        "hf",
        "-a",
        "pretrained=x",
        "--tasks",
        "spv_mia_custom,arc_easy",
        "--metadata",
        '{"mia_seed": 1}',
        "-s",
    )

    assert given["include_path"] == [str(tasks_folder())]
    assert (given["command"], given["model"]) == ("run", "hf")
    assert given["model_args"] == {"pretrained": "x"}
    assert given["tasks"] == ["spv_mia_custom", "arc_easy"]
    assert given["metadata"] == {"mia_seed": 1}
    assert given["log_samples"] is True


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "-1"], "--limit: expected a number of records, or a share of them below 1, got -1; correct it"),
        (["--limit", "nan"], "--limit: expected a number of records, or a share of them below 1, got nan; correct it"),
        (["--output_path", "/dev/full"], "expected a folder that results can be written to, got /dev/full (a file is"),
        (["--output_path", "/proc/x/y.json"], "expected a folder that results can be written to, got /proc/x/y.json ("),
    ],
)
def test_what_the_harness_would_stumble_over_is_refused_before_any_work(
    given: dict[str, Any], tmp_path: Path, more: list[str], message: str
) -> None:
    """A limit with a traceback, an output path at the end, when everything is computed and lost."""
    result = CliRunner().invoke(make_app(), ["run", "--tasks", "x", *more])
    assert message in str(result.exception or result.output) + result.output
    assert not given
    config = tmp_path / "run.yaml"
    config.write_text(f"tasks: x\n{more[0].removeprefix('--')}: {more[1].replace('nan', '.nan')}\n")
    result = CliRunner().invoke(make_app(), ["run", "--config", str(config)])
    assert message in str(result.exception or result.output) + result.output


@pytest.mark.parametrize(
    "command", [["ls", "tasks"], ["validate", "--tasks", "spv_mia_custom"], ["run", "--tasks", "x"]]
)
def test_works_for_every_subcommand_of_lm_eval(given: dict[str, Any], command: list[str]) -> None:
    run(*command)
    assert given["command"] == command[0]
    assert given["include_path"] == [str(tasks_folder())]


def test_keeps_the_users_folder(given: dict[str, Any]) -> None:
    run("--tasks", "x", "--include_path", "mine")
    assert given["include_path"] == ["mine", str(tasks_folder())]


def test_keeps_the_folder_of_a_config_file(given: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("tasks: [x]\ninclude_path: theirs\n")
    run("run", "--config", str(config))
    assert given["include_path"] == ["theirs", str(tasks_folder())]


def test_names_our_folder_once(given: dict[str, Any]) -> None:
    run("--tasks", "x", "--include_path", str(tasks_folder()))
    assert given["include_path"] == [str(tasks_folder())]


@pytest.mark.parametrize(("arguments", "expected"), [([], None), (["--include_path", "mine"], ["mine"])])
def test_includes_nothing_twice_when_enabled(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: object
) -> None:
    monkeypatch.setattr(module, "enabled", lambda: "current")
    run("--tasks", "x", *arguments)
    assert given["include_path"] == expected


def test_an_outdated_copy_is_replaced_without_a_warning_for_each_task(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.__main__ import HarnessCLI

    log = logging.getLogger("lm_eval.tasks._index")
    handler = BufferingHandler(capacity=10)

    def index(self: object, options: object) -> None:
        for path in (tasks_folder() / "spv_mia_custom.yaml", Path("elsewhere/spv_mia_custom.yaml")):
            log.warning("Task '%s' from %s overrides existing task from %s", "spv_mia_custom", path, "old")

    monkeypatch.setattr(HarnessCLI, "execute", index)
    monkeypatch.setattr(module, "enabled", lambda: "outdated")
    log.addHandler(handler)
    run("--tasks", "x")
    log.removeHandler(handler)

    (warning,) = handler.buffer
    assert warning.getMessage().startswith("Task 'spv_mia_custom' from elsewhere/spv_mia_custom.yaml")
    assert log.filters == []


def test_the_harness_words_its_warning_as_the_filter_expects() -> None:
    from lm_eval.tasks import _index

    assert module._OVERRIDES in Path(_index.__file__).read_text(encoding="utf-8")


def test_leaves_sys_argv_alone(given: dict[str, Any]) -> None:
    before = list(sys.argv)
    run("--tasks", "x")
    assert sys.argv == before


def tasks(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(), ["tasks", *arguments])


def test_tasks_prints_the_folder_and_nothing_else() -> None:
    folder = Path(tasks().stdout.removesuffix("\n"))
    assert (folder / "spv_mia_wikitext.yaml").is_file()


def test_tasks_writes_no_second_copy_of_a_built_in_task(tmp_path: Path) -> None:
    result = tasks("--write", "spv", "custom", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith("--write: spv_mia_custom is one of the package's own tasks")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [(("lira_bas", "custom"), "did you mean 'lira_base'?"), (("spv", "ag_new"), "did you mean 'ag_news'?")],
)
def test_tasks_says_which_name_was_meant(tmp_path: Path, names: tuple[str, str], message: str) -> None:
    result = tasks("--write", *names, "--output", str(tmp_path))
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_misspelt_task_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    ours_alone = functools.partialmethod(TaskManager.__init__, include_defaults=False)  # not the harness's 10,000
    monkeypatch.setattr(TaskManager, "__init__", ours_alone)
    arguments = ["run", "--model", "dummy", "--tasks", "spv_mia_costum,no_such_thing"]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 1
    assert "got 'spv_mia_costum' (did you mean 'spv_mia_custom'?), 'no_such_thing'" in " ".join(result.stderr.split())


def test_other_errors_of_the_harness_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.__main__ import HarnessCLI

    def broken(*_: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(HarnessCLI, "execute", broken)
    with pytest.raises(ValueError, match=r"^something else$"):
        CliRunner().invoke(make_app(), ["run", "--tasks", "x"], catch_exceptions=False)
