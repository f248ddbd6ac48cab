"""The benchmark of reports at scale runs, and its limits are applied."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as `python benchmarks/x.py` has it

import report_scale


@pytest.mark.slow
def test_it_measures_every_command(tmp_path, monkeypatch, capsys):
    found = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["report_scale.py", "--small", "--json", str(found)])
    assert report_scale.main() == 0
    told = json.loads(found.read_text())
    assert all(0 < told[command]["memory_mb"] < 2000 for command in report_scale.COMMANDS)
    assert 0.05 < told["page_mb"] < 2
    assert "page: " in capsys.readouterr().out
    monkeypatch.setattr(report_scale, "MAX_MEMORY", 1)
    monkeypatch.setattr(sys, "argv", ["report_scale.py", "--records", "20", "--attacks", "2", "--only", "export"])
    assert report_scale.main() == 1
