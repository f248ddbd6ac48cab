"""Paths that no file can have, numbers that no machine holds, and a full disk behind stdout: one line, no traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.store.store import Store
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.util.files import as_path, label
from tests.results.builders import fake_audit, write_run

LONG = "a longer name than the file system takes"
IMPOSSIBLE = {
    "~nosuchuser/x.jsonl": "a home folder of a user who is not known",
    "x" * 256 + ".jsonl": LONG,
    "/".join(["folder"] * 1000): LONG,
    "a\0b.jsonl": "a NUL character",
    "a\ud800b.jsonl": "half a surrogate pair",
    "hf:" + "x" * 300: LONG,
}
NOT_UTF8 = os.fsdecode(b"/nowhere/caf\xe9")
FILES = ("members", "nonmembers", "prompts", "candidate", "dataset_path", "manifest")
FOLDERS = ("base_model", "reference", "mask_model", "cache_dir")


def run_here(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from spvmia_plugin.cli.main import make_app

    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


def told(error: pytest.ExceptionInfo[SpvmiaError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("option", [*FILES, *FOLDERS])
def test_every_option_that_takes_a_path_says_what_is_wrong_with_it(option: str, value: str) -> None:
    with pytest.raises(SpvmiaError) as error:
        AuditConfig.from_metadata({f"mia_{option}": value})
    assert told(error) == f"mia_{option}: expected a path or a name, got {IMPOSSIBLE[value]}; correct it in --metadata"


def test_files_may_have_other_bytes_in_their_names_and_folders_of_models_not() -> None:
    for option in FILES:
        AuditConfig.from_metadata({f"mia_{option}": NOT_UTF8})
    for option in FOLDERS:
        with pytest.raises(
            SpvmiaError, match=f"^mia_{option}: expected a path or a name, got one that is not in UTF-8"
        ):
            AuditConfig.from_metadata({f"mia_{option}": NOT_UTF8})


def test_what_a_path_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/x", "o") == tmp_path / "x"
    (tmp_path / "file").write_text("")
    for there in ("org/model", "hf:org/data:en:test[:10%]", str(tmp_path / "file" / "below"), "t5-base", "*.jsonl"):
        assert as_path(there, "o") == Path(there)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SpvmiaError, match="got Too many levels of symbolic links"):
        as_path(tmp_path / "loop", "o")
    assert label(os.fsdecode(b"caf\xe9 \xc3\xa9")) == "caf\\xe9 é"
    assert label("\ud800") == "\\ud800"


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_python_callers_are_told_alike(tmp_path: Path, value: str) -> None:
    calls = {
        "mia_cache_dir": lambda: Store(value),
        "mia_manifest": lambda: read_manifest(value),
        "--output": lambda: finetune(FinetuneConfig("m", "d.jsonl", value)),
    }
    if not value.startswith("hf:"):
        calls["--data"] = lambda: finetune(FinetuneConfig("m", value, tmp_path / "o"))
    for option, call in calls.items():
        with pytest.raises(SpvmiaError) as error:
            call()
        expected = f"{option}: expected the path of a file or folder, got {IMPOSSIBLE[value]}; correct the path"
        assert told(error) == expected


def test_a_target_that_could_not_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"^--output: .*, got one that is not in UTF-8"):
        finetune(FinetuneConfig("m", "d.jsonl", NOT_UTF8))


def test_a_model_called_impossibly_has_no_manifest_beside_it(tmp_path: Path) -> None:
    for value in IMPOSSIBLE:
        with pytest.raises(SpvmiaError, match=r"^mia_members: expected a file of records the target was trained on"):
            load_audit_data(AuditConfig(), "custom", registry=None, tokenizer=lambda: None, target_dirs=[Path(value)])


# --- numbers ---

NUMBERS = [f.name for f in dataclasses.fields(AuditConfig) if f.type in ("int", "float", "int | None")]


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "1" + "0" * 400, "-1" + "0" * 400])
@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_that_no_machine_holds(option: str, text: str) -> None:
    with pytest.raises(SpvmiaError, match=f"^mia_{option}: expected ") as error:
        AuditConfig.from_metadata({f"mia_{option}": json.loads(text)})
    told(error)


ODD: list[Any] = [float("inf"), float("nan"), 10**400, -(10**400), True, [], {}, "", "x" * 300, "\0", "\ud800", -1, 1.5]
ODD += [[value] for value in ODD] + [[1, [2]], [None]]


def test_options_of_attacks_take_odd_values_in_one_line() -> None:
    registry = load_registry()
    for option in sorted(registry.attack_options):
        for value in ODD:
            for name in registry.attacks:
                said = option
                try:
                    registry.attack(name, AuditConfig.from_metadata({option: value}, registry.attack_options))
                except SpvmiaError as error:
                    said = str(error)
                assert said.startswith(option)
                assert said.isprintable()


# --- the command line ---


def spvmia(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spvmia_plugin", *arguments]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [("plugins",), ("plugins", "--json"), ("--version",), ("tasks", "--help"), ("tasks",)]
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = spvmia(*arguments, stdout=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1
    assert done.stderr == "stdout: expected to write what the command prints, got No space left on device\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = spvmia("plugins", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("report", "{}"), "RESULTS"),
        (("report", ".", "--output", "{}"), "--output"),
        (("report", ".", "--figures", "{}"), "--figures"),
        (("leaderboard", "{}"), "RESULTS"),
        (("leaderboard", "name={}"), "RESULTS"),
        (("leaderboard", ".", "--output", "{}"), "--output"),
        (("combine", ".", "--shadow", ".", "--shadow", "{}"), "--shadow"),
        (("export", ".", "--to", "model-index", "--output", "{}"), "--output"),
        (("demo", "--output", "{}"), "--output"),
        (("demo-model", "{}"), "DIRECTORY"),
        (("demo-model", "d", "--from", "{}"), "--from"),
        (("tasks", "--write", "loss", "custom", "--output", "{}"), "--output"),
        (("finetune", "--model", "m", "--data", "d.jsonl", "--output", "{}"), "--output"),
        (("finetune", "--model", "m", "--data", "{}", "--output", "o"), "--data"),
        (("cache", "show", "--cache-dir", "{}"), "mia_cache_dir"),
    ],
)
def test_every_command_says_which_path_cannot_be(
    tmp_path: Path, arguments: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from spvmia_plugin.cli.main import make_app

    monkeypatch.chdir(tmp_path)
    for value, why in (("~nosuchuser/x", "a home folder of a user who is not known"), ("x" * 300, LONG)):
        done = CliRunner().invoke(make_app(), [argument.format(value) for argument in arguments])
        assert done.exit_code == 1
        expected = f"{option}: expected the path of a file or folder, got {why}; correct the path"
        assert done.stderr.splitlines()[-1] == expected


# --- outputs ---


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_an_output_takes_the_place_of_no_audit(tmp_path: Path, command: str) -> None:
    results = write_run(tmp_path / "r", [fake_audit({"spv": 1.0, "loss": 0.3})])
    before = {path: path.read_bytes() for path in results.parent.iterdir()}
    (tmp_path / "link.json").symlink_to(results)
    for output in [*before, tmp_path / "link.json"]:
        found = run_here(command, tmp_path / "r", "--output", output)
        assert found.exit_code == 1
        assert found.stderr.startswith("--output: expected a file that ")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_an_output_takes_the_place_of_no_pipe(tmp_path: Path, command: str) -> None:
    write_run(tmp_path / "r", [fake_audit({"spv": 1.0, "loss": 0.3})])
    pipe, target, link = tmp_path / "pipe.html", tmp_path / "target.html", tmp_path / "link.html"
    os.mkfifo(pipe)
    found = run_here(command, tmp_path / "r", "--output", pipe)
    assert (found.exit_code, pipe.is_fifo()) == (1, True)
    assert found.stderr == f"--output: expected a regular file, got {pipe}, which is a device, a pipe or a socket\n"
    target.write_text("a record of somebody's")
    refused = run_here(command, tmp_path / "r", "--output", target)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("--output: expected a file that may be replaced, got ")
    assert target.read_text() == "a record of somebody's"
    target.write_text("")
    link.symlink_to(target)
    for _ in range(2):  # an empty file may be replaced, and an earlier page
        assert run_here(command, tmp_path / "r", "--output", link).exit_code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["mia_perturbations", "mia_lora_rank", "mia_self_prompts", "mia_reference_batch"])
def test_counts_that_no_memory_holds(option: str) -> None:
    with pytest.raises(SpvmiaError, match=rf"^{option}: expected a whole number >= 1 and <= \d+, got {2**60};"):
        AuditConfig.from_metadata({option: 2**60})
