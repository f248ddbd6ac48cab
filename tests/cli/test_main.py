"""The frame of the command line: exit codes, one-line errors, speed of `--help`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.startup import COMMANDS, once
from spvmia_plugin import __version__
from spvmia_plugin.cli import main
from spvmia_plugin.cli.gate import EXIT
from spvmia_plugin.cli.main import Command, make_app
from spvmia_plugin.data.formats import RowFormat
from spvmia_plugin.errors import SpvmiaError


def spvmia(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, in a wide terminal so that lines stay whole."""
    return subprocess.run(
        [sys.executable, "-m", "spvmia_plugin", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.mark.parametrize(
    ("words", "status"), [("gate nowhere --max-auroc 0.9", 2), ("leaderboard nowhere", 1), ("plugins", 1)]
)
@pytest.mark.parametrize("stream", [">&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.parametrize("buffered", [True, False])
def test_where_nothing_can_be_written_gate_has_no_outcome(
    words: str, status: int, stream: str, *, buffered: bool
) -> None:
    """1 is an outcome of gate: of a bound that is exceeded, never of a full disk."""
    # What is left in a buffer fails at the interpreter's end.
    environment = "unset PYTHONUNBUFFERED;" if buffered else "PYTHONUNBUFFERED=1"
    shell = f"{environment} {shlex.quote(sys.executable)} -m spvmia_plugin {words} {stream}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if (words, stream) == ("plugins", "2>/dev/full") else status)
    assert "Traceback" not in done.stderr
    if words == "plugins" and stream != "2>/dev/full":
        assert done.stderr.startswith("stdout: expected to write what the command prints, got ")


def test_gate_says_no_outcome_whatever_breaks(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["spvmia", "gate", "results"])
    monkeypatch.setattr(main, "_main", fails_with(ZeroDivisionError("ours")))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "ZeroDivisionError: ours" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["spvmia", "report", "results"])
    with pytest.raises(ZeroDivisionError):
        main.main()


def fails_with(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def run_app(command: Callable[[], None]) -> Any:
    app = make_app()
    app.command("try")(command)
    return CliRunner().invoke(app, ["try"])


PANELS = {
    "Start here": ["demo", "demo-model", "enable", "disable"],
    "Audit": ["finetune", "manifest", "prepare", "shadow", "run", "tasks", "check"],
    "Results": ["report", "combine", "leaderboard", "export", "gate", "compare", "evidence"],
    "Upkeep": ["plugins", "cache"],
}
"""What users find: headings of `spvmia --help`, and the commands below each."""


def test_help_names_every_command_under_its_heading_and_an_example() -> None:
    result = spvmia("--help")
    assert result.returncode == 0
    found: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        words = line.strip("╭╮─│ ").split("  ")[0]
        if line.startswith("╭"):
            found[words] = names = []
        elif line.startswith("│ ") and line[2] != " ":
            names.append(words)
    assert {heading: found[heading] for heading in PANELS} == PANELS
    assert set(found) == {*PANELS, "Options"}
    assert "spvmia demo" in result.stdout


@pytest.mark.parametrize("name", [name for names in PANELS.values() for name in names])
def test_every_command_has_help(name: str) -> None:
    """Built alone, as the command line builds it, and among all others."""
    for app in (make_app(name), make_app()):
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert f"{name} " in result.output.partition("Usage: ")[2].partition("\n")[0]
    (only, *others) = [one.name for one in (*make_app(name).registered_commands, *make_app(name).registered_groups)]
    assert (only, others) == (name, [])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_what_is_only_listed_reads_as_what_would_run(arguments: list[str]) -> None:
    """Without a subcommand on the command line their options are not built: the listing takes half as long."""
    listed, whole = (CliRunner().invoke(app, arguments) for app in (make_app(only_listed=True), make_app()))
    assert (listed.exit_code, listed.output) == (whole.exit_code, whole.output)
    assert all(name in listed.output for names in PANELS.values() for name in names)


def test_a_flag_that_is_not_given_is_false() -> None:
    seen: list[object] = []

    def command(flag: Annotated[bool | None, typer.Option("--flag")] = None) -> None:
        seen.append(flag)

    app = make_app("plugins")
    app.command("try", cls=Command)(command)
    for arguments in ([], ["--flag"]):
        assert CliRunner().invoke(app, ["try", *arguments]).exit_code == 0
    assert seen == [False, True]


def test_version() -> None:
    assert spvmia("--version").stdout == f"spvmia-plugin {__version__}\n"


@pytest.mark.parametrize("arguments", [["enabel"], ["tasks", "--wirte"], ["tasks", "--write", "one"], ["disable", "x"]])
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    result = spvmia(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_bad_input_of_the_gate_is_none_of_its_outcomes(tmp_path: Path) -> None:
    assert set(EXIT.values()) == {0, 1, 3}
    for path in (tmp_path / "none", Path("~no_such_user/results")):
        result = CliRunner().invoke(make_app(), ["gate", str(path), "--max-auroc", "0.6"])
        assert result.exit_code == 2
        assert result.stderr.startswith("RESULTS: ")


@pytest.mark.parametrize("command", ["finetune", "manifest"])
def test_help_names_all_formats_of_rows(command: str) -> None:
    help_text = " ".join(CliRunner().invoke(make_app(), [command, "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert [name for name in get_args(RowFormat) if not re.search(rf"\b{name}\b", help_text)] == []


def test_bad_input_is_one_line_and_1() -> None:
    result = run_app(fails_with(SpvmiaError("mia_members: expected\na file, got none")))
    assert result.exit_code == 1
    assert result.stderr == "mia_members: expected a file, got none\n"
    assert result.stdout == ""


def test_ctrl_c_is_one_line_and_130() -> None:
    result = run_app(fails_with(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert result.stderr.count("\n") == 1
    assert "kept" in result.stderr


def test_a_bug_is_not_hidden() -> None:
    assert isinstance(run_app(fails_with(ZeroDivisionError())).exception, ZeroDivisionError)


def test_a_traceback_shows_no_local_variables() -> None:
    assert make_app().pretty_exceptions_enable is False


def test_no_color_is_respected() -> None:
    assert "\x1b[1m" in spvmia("--help", FORCE_COLOR="1", TERM="xterm-256color").stdout
    # Emphasis may stay (no-color.org speaks of colour), but no colour code.
    plain = spvmia("--help", NO_COLOR="1", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert not any(f"\x1b[{code}m" in plain for code in range(30, 50))


def test_help_costs_little_more_than_the_libraries_that_draw_it() -> None:
    """Most of its processor time is theirs, on any machine: in pairs, since machines differ."""
    libraries, ours = "import typer.rich_utils, rich.markdown", COMMANDS["spvmia --help"]
    ratios = [once(ours)[1] / once(libraries)[1] for _ in range(3)]
    assert min(ratios) < 1.8


@pytest.mark.parametrize(("line", "offered"), [("spvmia en", ["enable"]), ("spvmia plugins --j", ["--json"])])
def test_the_installed_command_completes_names_and_options_in_the_shell(line: str, offered: list[str]) -> None:
    command = Path(sys.executable).with_name("spvmia")
    question = {"_SPVMIA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = subprocess.run([command], capture_output=True, text=True, check=True, env={**os.environ, **question})
    assert result.stdout.split() == offered
