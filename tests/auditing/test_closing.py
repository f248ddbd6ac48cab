"""The table that a run ends with."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np

from spvmia_plugin.auditing.closing import show_closing
from spvmia_plugin.metrics.leaders import Compared
from spvmia_plugin.metrics.several import compare
from tests.util.test_console import Terminal

LABELS = np.arange(400) < 200


def attack(strength: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(400) + strength * LABELS


def named(compared: Compared, **names: str) -> Compared:
    leaders = {
        key: {task: replace(leader, attack=names.get(task, task), task=task) for task, leader in of_attacks.items()}
        for key, of_attacks in compared.leaders.items()
    }
    return replace(compared, leaders=leaders)


def said(compared, capsys):
    show_closing(compared)
    return capsys.readouterr().err


def test_the_strongest_comes_first_and_each_says_whether_it_may_be_a_guess(capsys):
    found = compare({"loss": attack(0.0, 0), "spv": attack(1.5, 1)}, LABELS)
    head, first, second = said(named(found), capsys).splitlines()
    assert head.split()[0] == "attack"
    leader = found.leaders["auroc"]["spv"]
    assert first.startswith(f"  spv     {leader.value:.3f} ({leader.low:.3f} to {leader.high:.3f})  0.")
    assert first.endswith("  ruled out")
    assert second.startswith("  loss  ")
    assert second.endswith("  not ruled out")


def test_an_attack_the_wrong_way_round_is_no_guess(capsys):
    _, first, second = said(
        named(compare({"loss": attack(0.0, 0), "spv": attack(-1.5, 1)}, LABELS)), capsys
    ).splitlines()
    assert first.endswith("  not ruled out")
    assert second.startswith("  spv  ")
    assert second.endswith("  ruled out, but members score lower")


def test_a_dash_is_no_number(capsys):
    few = np.array([True] * 3 + [False] * 3)
    row = said(named(compare({"loss": np.array([0.0, 3.0, 5.0, 1.0, 2.0, 4.0])}, few)), capsys).splitlines()[1]
    assert row.split()[-4:] == ["-", "not", "ruled", "out"]


def test_one_attack_run_twice_is_told_by_its_tasks(capsys):
    found = compare({"loss_a": attack(0.0, 0), "loss_b": attack(1.0, 1)}, LABELS)
    text = said(named(found, loss_a="loss", loss_b="loss"), capsys)
    assert "  loss_b  " in text
    assert "  loss_a  " in text


def test_a_terminal_shows_the_same_cells_and_marks_what_was_found(monkeypatch, capsys):
    found = named(compare({"loss": attack(0.0, 0), "spv": attack(1.5, 1)}, LABELS))
    plain = [re.split(r"  +", line.strip()) for line in said(found, capsys).splitlines()]
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_closing(found)
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines() if re.search(r"\w", line)]
    assert [re.split(r"  +", line.strip()) for line in lines] == plain
    assert "\x1b[1;31m" in screen.getvalue().partition("spv")[2].partition("\n")[0]
