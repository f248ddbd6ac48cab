"""What the benchmark over seeds of the reference says of made-up audits whose scores are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results import Audit, read_latest
from tests.results.builders import fake_audit, fake_records, write_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as `python benchmarks/x.py` has it

import reference_seeds


@pytest.fixture
def results(tmp_path):
    """Three audits of the same records, all scores drawn anew."""
    records = fake_records(100, 100)
    drawn = [fake_audit({"spv": 1.0, "loss": 1.0}, records=records, seed=10 * seed) for seed in range(3)]
    folders = [tmp_path / str(seed) for seed in range(3)]
    for folder, tasks in zip(folders, drawn, strict=True):
        write_run(folder, [tasks])
    return folders


def test_it_tells_the_noise_of_the_reference_from_that_of_the_records(results):
    """`loss` is that of the first audit in all of them, as it is where the reference alone differs."""
    found = [read_latest(folder).audits[0] for folder in results]
    told = reference_seeds.compare([Audit([audit.tasks[0], found[0].tasks[1]]) for audit in found])
    of_spv, of_loss = told["spv"], told["loss"]
    assert all(of_loss[name]["sd_over_seeds"] < 1e-12 for name in reference_seeds.NUMBERS)
    assert of_loss["in_common"] == {"1%": 1.0, "5%": 1.0}
    assert of_loss["rank_correlation"] == pytest.approx(1)
    aurocs = of_spv["AUROC"]["values"]
    assert of_spv["AUROC"]["sd_over_seeds"] == pytest.approx(np.std(aurocs, ddof=1))
    low, high = of_spv["AUROC"]["sd_interval"]
    assert low < of_spv["AUROC"]["sd_over_seeds"] < high
    assert 0.02 < of_spv["AUROC"]["stderr_over_records"] < 0.05
    assert abs(of_spv["rank_correlation"]) < 0.2
    assert of_spv["in_common"]["5%"] < 0.5
    assert set(told["every attack"]) == {"in_common"}


def test_the_list_over_all_attacks_is_of_those_in_common(results):
    """One audit had an attack more; the same scores of the other are the same list."""
    audit = read_latest(results[0]).audits[0]
    told = reference_seeds.compare([audit, Audit([audit.tasks[0]])])
    assert set(told) == {"spv", "every attack"}
    assert told["every attack"]["in_common"] == {"1%": 1.0, "5%": 1.0}


def test_it_prints_both(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reference_seeds.py", *map(str, results), "--json"])
    reference_seeds.main()
    told = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["reference_seeds.py", *map(str, results)])
    reference_seeds.main()
    printed = capsys.readouterr().out
    assert "3 seeds, 100 members, 100 non-members" in printed
    assert f"over seeds {told['spv']['AUROC']['sd_over_seeds']:.4f} (" in printed


def test_it_refuses_what_cannot_be_compared(results, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "other", [fake_audit({"spv": 1.0}, records=fake_records(90, 100))])
    with pytest.raises(SpvmiaError, match="audits of the same records"):
        reference_seeds.compare([read_latest(folder).audits[0] for folder in (results[0], tmp_path / "other")])
    monkeypatch.setattr(sys, "argv", ["reference_seeds.py", str(results[0])])
    with pytest.raises(SystemExit):
        reference_seeds.main()
    assert "two seeds or more" in capsys.readouterr().err
