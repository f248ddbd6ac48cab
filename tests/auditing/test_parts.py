"""A large audit goes through its records some at a time: the numbers are those of all at once, and little is held."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import tracemalloc

import pytest

from spvmia_plugin.auditing import run as run_module
from spvmia_plugin.auditing.outcome import RecordResult, Results
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_plan import planned
from tests.auditing.test_run import EVERY, run
from tests.util.test_console import Terminal


@pytest.mark.parametrize("perturbation", ["causal", "embedding"])
def test_parts_change_no_number(tmp_path, monkeypatch, capsys, perturbation):
    data = make_data(candidate=3)
    options = {"data": data, "quiet": False, "mia_perturbation": perturbation}
    whole, _ = run(tmp_path / "whole", EVERY, **options)
    plan = planned(capsys.readouterr().err)
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", 7)
    parts, backend = run(tmp_path / "parts", EVERY, **options)
    assert parts.results == whole.results
    assert set(backend.scored.values()) == {1}
    assert {name: row[:3] for name, row in planned(capsys.readouterr().err).items()} == {
        name: row[:3] for name, row in plan.items()
    }
    assert parts.details["paraphrases"] == pytest.approx(whole.details["paraphrases"], nan_ok=True)
    assert list(parts.stages) == list(whole.stages)
    assert sum(cost.forward_tokens for cost in parts.stages.values()) == sum(
        cost.forward_tokens for cost in whole.stages.values()
    )


def test_bars_say_which_part_they_count(tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", 7)
    monkeypatch.setattr(sys, "stderr", screen)
    run(tmp_path, ["loss", "lowercase"], data=make_data(10), quiet=False)
    said = dict.fromkeys(re.findall(r"scoring: target(, part \d of 3|)", screen.getvalue().partition("\r")[2]))
    assert list(said) == [f", part {number} of 3" for number in (1, 2, 3)]


def test_a_text_in_two_parts_is_scored_once_and_long_records_are_counted_over_all(tmp_path, monkeypatch):
    data = make_data(12)
    twin = dataclasses.replace(data.records[0], id="twin")
    data = dataclasses.replace(data, records=(*data.records, twin))
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", 5)
    outcome, backend = run(tmp_path, ["loss", "ez", "recall"], data=data, backend=Windowed())
    assert set(backend.scored.values()) == {1}
    results = outcome.results["loss_mia_custom"]
    assert results["twin"] == results[data.records[0].id]
    assert any(note.startswith("25 of 25 records exceed") for note in outcome.notes)


class Windowed(FakeBackend):
    def _signals(self, role, item, moments):
        return dataclasses.replace(super()._signals(role, item, moments), windows=2)


class Forgetful(FakeBackend):
    """Does not count what it scored: it would hold every sequence."""

    def score(self, role, inputs, **options):
        found = super().score(role, inputs, **options)
        self.scored.clear()
        return found


def test_what_is_held_does_not_grow_with_the_signals(tmp_path, monkeypatch):
    """What 150 records more leave behind, and the peak: far less than one sequence of each, of which there are 15."""
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", 40)
    peaks = []
    for number, n in enumerate((40, 115)):
        data = make_data(n, tokens=64)
        tracemalloc.start()
        try:
            attacks = ["spv", "ez", "lowercase", "min_k_pp"]
            run(tmp_path / str(number), attacks, data=data, backend=Forgetful(), mia_perturbation="causal")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 150 * 4000


def test_results_hold_what_objects_hold():
    found = {
        "a": RecordResult(0.5, None, 3, -1.0, None),
        "b": RecordResult(None, "no tokens", None, None, None),
        "c": RecordResult(None, "short", 0, None, -2.0),
    }
    results = Results(found)
    assert results == found
    assert dict(results) == found
    results.add({"d": RecordResult(None, "short")})
    assert len(results) == 4
    assert results.unscored_by_reason() == {"short": 2, "no tokens": 1}
    assert list(results.unscored_by_reason()) == ["short", "no tokens"]
    assert "e" not in results
    with pytest.raises(KeyError):
        results["e"]
    assert all(value is None or math.isfinite(value) for each in results.values() for value in (each.score,))
