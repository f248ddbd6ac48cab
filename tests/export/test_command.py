"""`spvmia export` and `spvmia leaderboard` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.export import FORMATS
from tests.leaderboard.models import audited, model


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    model(folder, "org/one", audited({"spv": 1.0}))
    return folder


def spvmia(*arguments: object) -> Any:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


@pytest.mark.parametrize("to", FORMATS)
def test_export_names_the_files_it_wrote(results: Path, tmp_path: Path, to: str) -> None:
    found = spvmia("export", results, "--to", to, "--output", tmp_path / "out", "--benchmark", "acme/privacy")
    assert found.exit_code == 0
    assert [Path(line).is_file() for line in found.stdout.splitlines()] == [True]
    quiet = spvmia("export", results, "--to", to, "--output", tmp_path / "o", "--benchmark", "acme/privacy", "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (0, "")


def test_programs_get_json_alone(results: Path, tmp_path: Path) -> None:
    found = spvmia("export", results, "--to", "model-index", "--output", tmp_path / "out", "--json")
    assert json.loads(found.stdout) == {"format": "model-index", "files": [str(tmp_path / "out" / "model-index.md")]}
    board = spvmia("leaderboard", results, "--json", "--output", tmp_path / "board.json")
    assert json.loads(board.stdout) == json.loads((tmp_path / "board.json").read_text())
    assert spvmia("leaderboard", results, "--quiet").stdout == ""


def test_export_refuses_in_one_line(results: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    found = spvmia("export", results, "--to", "every-eval-ever", "--output", taken)
    assert found.exit_code == 1
    assert found.stderr.startswith("--output: expected a folder that can be written")
    assert found.stderr.count("\n") == 1
    assert spvmia("export", results, "--to", "other", "--output", tmp_path).exit_code == 2
    assert spvmia("export", tmp_path / "nowhere", "--to", "model-index", "--output", tmp_path).exit_code == 1


@pytest.mark.parametrize("ending", ["html", "md", "csv", "json", "HTML"])
def test_leaderboard_writes_what_the_ending_names(results: Path, tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"board.{ending}"
    found = spvmia("leaderboard", results, "--output", output)
    assert (found.exit_code, found.stdout) == (0, f"{output}: 1 row in 1 table\n")
    starts = {"html": "<!doctype html>", "md": "# Capability", "csv": "table,", "json": "{"}
    assert output.read_text(encoding="utf-8").startswith(starts[ending.lower()])


def test_leaderboard_prints_markdown_where_there_is_no_terminal(results: Path) -> None:
    found = spvmia("leaderboard", f"mine={results}", "--attack", "spv", "--metric", "tpr_at_1pct_fpr")
    assert found.exit_code == 0
    assert found.stdout.startswith("# Capability and privacy of 1 model\n")
    assert "| 1 | mine |" in found.stdout


@pytest.mark.parametrize("output", ["board.pdf", "board", "missing/board.md", "folder.md"])
def test_leaderboard_refuses_an_output_before_it_reads(tmp_path: Path, output: str) -> None:
    (tmp_path / "folder.md").mkdir()
    found = spvmia("leaderboard", tmp_path / "nowhere", "--output", tmp_path / output)
    assert found.exit_code == 1
    assert found.stderr.startswith("--output: expected a file")


def test_leaderboard_says_what_is_wrong_with_the_results(results: Path, tmp_path: Path) -> None:
    model(tmp_path / "plain", "org/two")
    broken = tmp_path / "results_broken.json"
    broken.write_text("{")
    for place in (tmp_path / "plain", tmp_path / "nowhere", broken):
        found = spvmia("leaderboard", place)
        assert found.exit_code == 1
        assert found.stderr.startswith("RESULTS: expected ")
        assert found.stderr.count("\n") == 1
    assert spvmia("leaderboard", results, "--metric", "nonsense").exit_code == 2


def test_an_export_and_a_leaderboard_agree(results: Path, tmp_path: Path) -> None:
    spvmia("leaderboard", results, "--output", tmp_path / "board.json")
    spvmia("export", results, "--to", "every-eval-ever", "--output", tmp_path)
    (row,) = json.loads((tmp_path / "board.json").read_text())["tables"][0]["rows"]
    (path,) = (tmp_path / "data").rglob("*.json")
    record = json.loads(path.read_text())
    scores = {
        result["metric_config"]["metric_name"]: result["score_details"]
        for result in record["evaluation_results"]
        if ".strongest." in result["evaluation_name"]
    }
    assert scores["AUROC"]["score"] == row["number"]["value"]
    interval = scores["AUROC"]["uncertainty"]["confidence_interval"]
    assert [interval["lower"], interval["upper"]] == row["number"]["interval"]
    assert scores["TPR at 5% FPR"]["score"] == row["further"]["TPR at 5 % FPR"]["value"]


def test_every_format_is_on_the_command_line_and_in_the_documentation() -> None:
    from spvmia_plugin.cli.results import Format

    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    assert sorted(set(FORMATS) ^ {each.value for each in Format}) == [], (
        "FORMATS of export/__init__.py and Format of cli/results.py"
    )
    assert [name for name in FORMATS if f"--to {name}" not in page] == [], "docs/export.md: the command"
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == [], "docs/export.md: where a failure goes"
