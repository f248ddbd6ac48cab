"""A real model that was never trained on the members: no attack may find anything. Minutes, so slow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.demo.corpus import make_tickets
from spvmia_plugin.demo.model import write_demo_model
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.util.libraries import quiet_libraries

from .conftest import TASKS, write_jsonl

pytestmark = pytest.mark.slow

N = 120
BLIND = {"bag_of_words_mia_custom"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """SmolLM2-135M; SPVMIA_DEMO_MODEL names a folder that `spvmia demo-model` wrote, to spare the download."""
    folder = Path(os.environ.get("SPVMIA_DEMO_MODEL") or tmp_path_factory.mktemp("model") / "smollm2")
    write_demo_model(folder)
    return folder


@pytest.fixture(scope="module")
def audit(model, tmp_path_factory):
    """Audit two halves of one corpus on a target that was trained on a third part."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("null")
    texts = [ticket.text for ticket in make_tickets(2 * N + 180, 11)]
    other = write_jsonl(folder / "other.jsonl", texts[2 * N + 60 :])
    finetune(
        FinetuneConfig(
            model=str(model), data=other, output=folder / "target", members=40, nonmembers=20, prompts=20,
            block_size=0, epochs=1, lr=2e-4, batch_size=8, dtype="float32", quiet=True,
        )
    )  # fmt: skip
    metadata = {
        "mia_members": write_jsonl(folder / "members.jsonl", texts[:N]),
        "mia_nonmembers": write_jsonl(folder / "nonmembers.jsonl", texts[N : 2 * N]),
        "mia_prompts": write_jsonl(folder / "prompts.jsonl", texts[2 * N : 2 * N + 60]),
        "mia_block_size": 0,
        "mia_preset": "quick",
        "mia_self_prompts": 60,
        "mia_reference_epochs": 1,
        "mia_perturbations": 1,
        "mia_cache_dir": str(folder / "cache"),
    }
    (folder / "target" / "mia_manifest.json").unlink()  # the audited records are not the manifest's
    args = {"pretrained": str(model), "peft": str(folder / "target"), "dtype": "float32"}  # as fast on any CPU
    manager = TaskManager(metadata={**args, **metadata}, include_path=[str(TASKS)], include_defaults=False)
    with quiet_libraries():
        return lm_eval.simple_evaluate(
            model="hf", model_args=args, tasks=["mia_custom"], task_manager=manager, metadata={**args, **metadata},
            device="cpu", batch_size=8,
        )  # fmt: skip


def scored(audit, task):
    rows = [(json.loads(row["resps"][0][0])["score"], row["doc"]["is_member"]) for row in audit["samples"][task]]
    rows = [row for row in rows if row[0] is not None]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def test_the_99_percent_interval_of_every_attack_contains_chance(audit):
    for task in set(audit["samples"]) - BLIND:
        scores, labels = scored(audit, task)
        low, high = estimate_auroc(scores, labels, np.arange(len(scores))).interval(0.99)
        assert low <= 0.5 <= high, (task, low, high)


def test_over_random_resplits_the_95_percent_intervals_miss_as_often_as_they_say(audit):
    rng = np.random.default_rng(0)
    for task in set(audit["samples"]) - BLIND:
        scores, labels = scored(audit, task)
        missed = 0
        for _ in range(400):
            low, high = estimate_auroc(scores, rng.permutation(labels), np.arange(len(scores))).interval(0.95)
            missed += not low <= 0.5 <= high
        assert missed <= 0.08 * 400, (task, missed)
