"""A stranger's distribution, installed by pip and run through the harness's own command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.example_install import install_example


@pytest.mark.slow
def test_a_third_partys_attack_and_perturbation_run_through_lm_eval(base, adapter, options, tmp_path):
    env = install_example(tmp_path / "site")
    command = [sys.executable, "-W", "ignore", "-m", "spvmia_plugin", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={base},peft={adapter},dtype=float32"]
    command += ["--tasks", "quantile_mia_custom,neighbour_mia_custom"]
    command += ["--include_path", str(tmp_path / "site" / "spvmia_example" / "tasks")]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    metadata = {**options, "mia_perturbation": "word_swap", "mia_cache_dir": str(tmp_path / "cache")}
    command += ["--metadata", json.dumps(metadata)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())
    assert 0 <= found["results"]["quantile_mia_custom"]["auroc,none"] <= 1
    audit = found["configs"]["neighbour_mia_custom"]["metadata"]["mia_audit"]
    assert audit["stages"]["paraphrases"]["kind"] == "word_swap"
    assert audit["n"]["scored"] == 80
