"""The benchmark of `spvmia check` runs the command itself, and its limit is applied."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as `python benchmarks/x.py` has it

import check_time

from spvmia_plugin.harness.command_line import Command


def test_its_command_is_one_that_check_takes(tmp_path):
    found = Command.parse(check_time.command(tmp_path, None, 30))
    assert found.tasks == ["mia_custom"]
    for name in ("mia_members", "mia_nonmembers", "mia_prompts"):
        assert len(Path(found.metadata[name]).read_text().splitlines()) == 30


def test_what_it_tells_is_beyond_importing_torch(monkeypatch, capsys):
    """The smallest of the rounds, of the clock and of the processor each."""
    seconds = iter([(5.0, 4.0), (9.0, 12.0), (4.0, 4.5), (11.0, 8.0)])
    ran = []
    monkeypatch.setattr(check_time, "once", lambda code: ran.append(code) or next(seconds))
    monkeypatch.setattr(sys, "argv", ["check_time.py", "--records", "30", "--rounds", "2", "--json"])
    assert check_time.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seconds"], told["processor_seconds"]) == (5.0, 4.0)
    assert ran[0] == ran[2] == "import torch"
    assert "'check', *['lm_eval'" in ran[1]


def test_a_check_that_takes_too_long_fails(monkeypatch, capsys):
    seconds = iter([(5.0, 4.0), (30.0, 24.5)])
    monkeypatch.setattr(check_time, "once", lambda code: next(seconds))
    monkeypatch.setattr(sys, "argv", ["check_time.py", "--records", "30", "--rounds", "1"])
    assert check_time.main() == 1
    assert "25.0 s (processor 20.5 s, at most 20)" in capsys.readouterr().out


@pytest.mark.slow
def test_it_times_the_command_itself(monkeypatch, capsys):
    """How long it takes is the machine's; that it exits 1 beyond the limit is held above."""
    monkeypatch.setattr(sys, "argv", ["check_time.py", "--records", "40", "--rounds", "1", "--json"])
    code = check_time.main()
    told = json.loads(capsys.readouterr().out)
    assert told["processor_seconds"] > 0
    assert code == int(told["processor_seconds"] > told["most"])
