"""Numbers with their uncertainty: by which attack a model speaks."""

from __future__ import annotations

import json

import pytest

from spvmia_plugin.results import read_latest
from spvmia_plugin.results.estimate import NO_SAMPLES, of_blind, of_furthest, of_strongest, of_turned_round
from tests.results.builders import fake_audit, write_run


def audit_of(folder, strengths):
    write_run(folder, [fake_audit(strengths, findings=())])
    [audit] = read_latest(folder).audits
    return audit


def test_the_attack_counts_that_reaches_furthest_from_a_guess_on_either_side(tmp_path):
    audit = audit_of(tmp_path, {"wbc": -0.4, "loss": 0.0})
    found = of_furthest(audit)
    assert (of_strongest(audit).attack, found.attack, of_turned_round(audit)) == ("loss", "wbc", None)
    assert found.low < 0.5 < found.high
    assert found.chosen_among == 2
    assert of_furthest(audit, "tpr_at_5pct_fpr") == of_strongest(audit, "tpr_at_5pct_fpr")


def test_one_that_rules_a_guess_out_from_below_is_turned_round(tmp_path):
    audit = audit_of(tmp_path, {"wbc": -2.0, "loss": 0.0})
    assert of_furthest(audit) == of_turned_round(audit)
    assert of_turned_round(audit).high < 0.5


def test_without_what_the_run_recorded_and_without_samples_nothing_counts(tmp_path):
    tasks = fake_audit({"loss": -0.2, "spv": 0.0}, findings=())
    for task in tasks:
        del task.config["metadata"]["mia_audit"]["strongest"]
    write_run(tmp_path, [tasks], with_samples=False)
    [audit] = read_latest(tmp_path).audits
    assert of_furthest(audit).reason == NO_SAMPLES
    assert of_turned_round(audit) is None
    assert of_blind(audit).value == 0.51


@pytest.mark.parametrize(("strengths", "reads"), [({"wbc": -0.4, "loss": 0.0}, True), ({"wbc": 1.0}, False)])
def test_results_that_do_not_tell_of_the_lowest_attack_are_computed_anew_where_there_may_be_one(
    tmp_path, strengths, reads
):
    path = write_run(tmp_path, [fake_audit(strengths, findings=())])
    before = read_latest(tmp_path).audits[0].strongest.lowest
    raw = json.loads(path.read_text())
    for config in raw["configs"].values():
        config["metadata"]["mia_audit"]["strongest"].pop("lowest", None)
    path.write_text(json.dumps(raw))
    [audit] = read_latest(tmp_path).audits
    assert audit.needs_samples == reads
    assert audit.strongest.lowest.low == pytest.approx(before.low, nan_ok=True)
