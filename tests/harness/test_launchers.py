"""The commands under the launchers that people use, on a CPU: every process takes its share of the records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import TASKS
from .test_ranks import ALL, assert_same, audit_of

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
TOLD = {"ACCELERATE_USE_CPU": "true"}
STOCK, OURS = ("lm_eval", "run", "--include_path", str(TASKS)), ("spvmia_plugin", "run")


@pytest.fixture
def launch(base, adapter, tmp_path):
    """Run a command line in two processes; what one of them wrote (None if they failed), and what they said."""

    def run(launcher, command, tasks, metadata, environment=(), arguments=()):
        own = {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "datasets"), "PYTHONWARNINGS": "ignore"}
        ended = subprocess.run(
            [
                *(sys.executable, "-m", *launcher, "-m", *command, "--model", "hf", "--device", "cpu"),
                *("--model_args", f"pretrained={base},peft={adapter},dtype=float32", "--batch_size", "8"),
                *("--tasks", *tasks, "--metadata", json.dumps(metadata)),
                *("--output_path", str(tmp_path / "output"), "--log_samples", *arguments),
            ],
            env={**os.environ, **own, **dict(environment)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
            timeout=580,
        )
        if ended.returncode:
            return None, ended.stderr
        (path,) = (tmp_path / "output").rglob("results_*.json")  # one process writes
        samples = {
            file.name.removeprefix("samples_").rpartition("_")[0]: [
                json.loads(line) for line in file.read_text().splitlines()
            ]
            for file in path.parent.glob("samples_*.jsonl")
        }
        return {**json.loads(path.read_text()), "samples": samples}, ended.stderr

    return run


@pytest.fixture
def one_thread():
    """As launchers set it: sums of several threads may be other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_written(value):
    """Numbers of a samples file are texts."""
    return [as_written(each) for each in value] if isinstance(value, (list, tuple)) else str(value)


@pytest.mark.slow
def test_torchrun_shares_audits_out_and_leaves_other_tasks_alone(
    launch, evaluate, neighbour_tasks, options, one_thread, tmp_path
):
    """All attacks, on a number of records that does not divide; accelerate knows of no ranks."""
    tasks, given = [ALL, "other_choice", "other_sample"], {**options, "mia_max_samples": 20}
    more = ("--include_path", str(neighbour_tasks), "--limit", "39")
    two, said = launch(TORCHRUN, OURS, tasks, {**given, "mia_cache_dir": str(tmp_path / "two")}, arguments=more)
    assert two is not None, said
    one = evaluate(tasks, {**given, "mia_cache_dir": str(tmp_path / "one")}, limit=39)
    own = {task for task in one["samples"] if not task.startswith("other_")}
    assert len(own) > 15
    audits = [{**each, "samples": {task: each["samples"][task] for task in own}} for each in (one, two)]
    assert_same(*audits, 5e-5)  # DetectGPT divides by what two paraphrases differ by
    for task in ("other_choice", "other_sample"):
        assert two["results"][task] == one["results"][task]
        answers = [[as_written(row["resps"]) for row in each["samples"][task]] for each in (two, one)]
        assert answers[0] == answers[1]
    together, alone = audit_of(two), audit_of(one)
    assert together["stages"]["reference"]["trained"]
    assert together["stages"]["paraphrases"] == pytest.approx(alone["stages"]["paraphrases"])
    assert together["n"] == json.loads(json.dumps(alone["n"]))
    assert said.count("spvmia: 20 records of") == 1  # one plan, of the first's share
    assert said.count("tokens scored, ") == 1


@pytest.mark.slow
def test_accelerate_launch_shares_audits_out_and_trains_in_all_processes(launch, evaluate, options, tmp_path):
    given = {**options, "mia_max_samples": 20}
    metadata = {**given, "mia_reference_parallel": True, "mia_cache_dir": str(tmp_path / "two")}
    tasks = ["spv_wbc_mia_custom", "learned_mia_custom"]
    two, said = launch(ACCELERATE, STOCK, tasks, metadata, TOLD)
    assert two is not None, said
    record = audit_of(two, tasks[0])
    assert record["stages"]["reference"]["processes"] == 2
    reference = tmp_path / "two" / "references" / record["stages"]["reference"]["folder"]
    one = evaluate(tasks[:1], {**given, "mia_reference": str(reference), "mia_cache_dir": str(tmp_path / "one")})
    learned = two["samples"].pop("learned_mia_custom")
    assert len(learned) == 40
    assert all(json.loads(row["resps"][0][0])["score"] is not None for row in learned)
    assert_same(one, two, 1e-5)


@pytest.mark.slow
def test_all_processes_train_under_torchrun_too(launch, options, tmp_path):
    """Of whose processes accelerate knows nothing; the Trainer has to."""
    metadata = {**options, "mia_max_samples": 20, "mia_reference_parallel": True, "mia_cache_dir": str(tmp_path / "s")}
    two, said = launch(TORCHRUN, STOCK, ["spv_wbc_mia_custom"], metadata)
    assert two is not None, said
    assert audit_of(two, "spv_wbc_mia_custom")["stages"]["reference"]["processes"] == 2


@pytest.mark.slow
def test_more_processes_than_records_are_refused(launch, options, tmp_path):
    metadata = {**options, "mia_cache_dir": str(tmp_path / "store")}
    none, said = launch(TORCHRUN, STOCK, ["loss_mia_custom"], metadata, arguments=("--limit", "1"))
    assert none is None
    assert "--limit: expected at least one record for each of 2 processes, got 1; raise the limit" in said
