"""Kills one audit of 40 records by `kill -9`, at random moments of every stage, and resumes it each time.

    python -m tests.harness.kills --model ./smollm2-135m --adapter ./adapter --work ./kills

The slow tests do it on a tiny model. Here, with any model: a line for each kill says in which stage it was, whether the
resumed run ended with the same bits, and what was done twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.conftest import write_jsonl
from tests.harness.recorder import STAGES, Pass, read_log, repeated
from tests.tiny import tiny_texts

TASKS = ("spv", "spv_ez", "min_k_pp", "lowercase", "rmia")
OPTIONS = {
    "mia_block_size": 0,
    "mia_self_prompts": 140,  # more than one batch of them
    "mia_reference_lr": 1e-3,
    "mia_reference_epochs": 1.0,
    "mia_lora_rank": 4,
    "mia_perturbation": "causal",
    "mia_perturbations": 2,
}
TEXTS = tiny_texts(40, seed=7, words=(50, 80))
PROMPTS = tiny_texts(20, seed=8, words=(20, 30))
"""Enough for several batches in every stage: of 2048 tokens, and in self-prompting of 128 texts."""


LONGEST_DELAY = 0.5
"""Seconds after a pass, at most, so that a kill after the last one still comes before the results are written."""


@dataclass(frozen=True)
class Kill:
    """What became of one kill.

    Attributes:
        stage: in which the process was.
        same: whether all metrics and scores of the resumed run are those of the run that nobody killed.
        twice: by stage, the batches (of the training: steps) that were done twice.
    """

    stage: str
    same: bool
    twice: Mapping[str, int]


def kills(folder: Path, model_args: str, more: Mapping[str, object], per_stage: int) -> Iterator[Kill]:
    """Run the audit once; then kill it so often in every stage, and resume it."""
    with Runs(folder, command(folder, model_args, more)) as runs:
        started = time.monotonic()
        expected, whole = runs.run(folder / "whole")
        longest = min((time.monotonic() - started) / len(whole), LONGEST_DELAY)
        for number, (kill_at, delay) in enumerate(moments(whole, random.Random(5), per_stage, longest)):
            cache = folder / f"cache{number}"
            _, first = runs.run(cache, kill_at, delay)
            results, second = runs.run(cache)
            yield Kill(first[-1].stage, results == expected, repeated(whole, [*first, *second]))


def command(folder: Path, model_args: str, more: Mapping[str, object]) -> Callable[[Path, Path], list[str]]:
    """Writes the data; returns what makes the arguments of `spvmia run` from the store's folder and the output's."""
    files = {
        "mia_members": write_jsonl(folder / "members.jsonl", TEXTS[:20]),
        "mia_nonmembers": write_jsonl(folder / "nonmembers.jsonl", TEXTS[20:]),
        "mia_prompts": write_jsonl(folder / "prompts.jsonl", PROMPTS),
    }

    def arguments(cache: Path, output: Path) -> list[str]:
        metadata = json.dumps({**OPTIONS, **more, **files, "mia_cache_dir": str(cache)})
        tasks = ["--tasks", ",".join(f"{name}_mia_custom" for name in TASKS), "--device", "cpu", "--batch_size", "8"]
        model = ["--model", "hf", "--model_args", model_args]
        return [*model, *tasks, "--metadata", metadata, "--output_path", str(output), "--log_samples"]

    return arguments


def moments(
    passes: Sequence[Pass], draw: random.Random, per_stage: int, longest_delay: float
) -> list[tuple[int, float]]:
    """(pass to kill after, delay in seconds), so that every stage is hit as often."""
    found = []
    for stage in STAGES:
        places = [i + 1 for i, each in enumerate(passes) if each.stage == stage]
        found += [(draw.choice(places), draw.uniform(0, longest_delay)) for _ in range(per_stage)]
    draw.shuffle(found)
    return found


class Runs:
    """Runs of `spvmia run`, each in a process of its own that may be killed."""

    def __init__(self, folder, arguments):
        self._folder, self._arguments = folder, arguments
        self._count = itertools.count()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.recorder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(timeout=600)
        self._server.stdout.close()

    def run(self, cache, kill_at=None, delay=0.0):
        """Exit status, results, passes with the second each was seen, of one run, killed after its n-th pass or not."""
        place = self._folder / f"run{next(self._count)}"
        place.mkdir()
        log = place / "log"
        log.touch()
        order = {"arguments": self._arguments(cache, place / "out"), "log": str(log), "said": str(place / "said")}
        print(json.dumps(order), file=self._server.stdin, flush=True)
        child = int(self._server.stdout.readline())
        if kill_at is not None:
            with log.open() as lines:
                for _ in range(kill_at):
                    while not lines.readline().endswith("\n"):
                        time.sleep(0.0005)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        status = int(self._server.stdout.readline())
        said = (place / "said").read_text()
        assert status == (0 if kill_at is None else -signal.SIGKILL), said
        return read_results(place / "out") if status == 0 else None, read_log(log)


def read_results(folder):
    """Metrics, and the scores as they stand in the samples files, of a run of lm_eval."""
    (path,) = Path(folder).rglob("results_*.json")
    metrics = json.loads(path.read_text())["results"]
    scores = {}
    for path in Path(folder).rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        scores[path.name.rpartition("_")[0]] = {row["doc"]["id"]: row["resps"] for row in rows}
    assert len(scores) == len(TASKS)
    return metrics, scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--adapter", required=True, help="folder of a LoRA adapter for it: the target")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--per-stage", type=int, default=5, help="kills in each of the four stages (5)")
    parser.add_argument("--option", action="append", default=[], metavar="mia_KEY=VALUE", help="of the audit")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    more = {key: json.loads(value) for key, _, value in (item.partition("=") for item in options.option)}
    differing = 0
    for kill in kills(options.work, f"pretrained={options.model},peft={options.adapter}", more, options.per_stage):
        differing += not kill.same
        print(f"{kill.stage}: {'the same bits' if kill.same else 'OTHER BITS'}, twice: {dict(kill.twice)}", flush=True)
    return min(differing, 1)


if __name__ == "__main__":
    sys.exit(main())
