"""The table that a run ends with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spvmia_plugin.auditing.closing import closing
from spvmia_plugin.metrics.several import Compared, compare

LABELS = np.arange(400) < 200


def attack(strength: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(400) + strength * LABELS


def named(compared: Compared, **names: str) -> Compared:
    leaders = {
        key: {task: replace(leader, attack=names.get(task, task), task=task) for task, leader in of_attacks.items()}
        for key, of_attacks in compared.leaders.items()
    }
    return replace(compared, leaders=leaders)


def test_the_strongest_comes_first_and_each_says_whether_it_may_be_a_guess():
    found = compare({"loss": attack(0.0, 0), "spv": attack(1.5, 1)}, LABELS)
    head, first, second, page = closing(named(found)).splitlines()
    assert head.split()[0] == "attack"
    leader = found.leaders["auroc"]["spv"]
    assert first.startswith(f"  spv     {leader.value:.3f} ({leader.low:.3f} to {leader.high:.3f})  0.")
    assert first.endswith("  ruled out")
    assert second.startswith("  loss  ")
    assert second.endswith("  not ruled out")
    assert "spvmia report" in page


def test_a_dash_is_no_number():
    few = np.array([True] * 3 + [False] * 3)
    row = closing(named(compare({"loss": np.arange(6.0)}, few))).splitlines()[1]
    assert row.split()[-4:] == ["-", "not", "ruled", "out"]


def test_one_attack_run_twice_is_told_by_its_tasks():
    found = compare({"loss_a": attack(0.0, 0), "loss_b": attack(1.0, 1)}, LABELS)
    text = closing(named(found, loss_a="loss", loss_b="loss"))
    assert "  loss_b  " in text
    assert "  loss_a  " in text
