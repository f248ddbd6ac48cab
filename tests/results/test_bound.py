"""A bound held against what an audit found: within, exceeded, not shown, not evaluable."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timezone

import numpy as np
import pytest
from scipy.special import ndtri, stdtr
from typer.testing import CliRunner

from spvmia_plugin.checks.preconditions import Finding
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.metrics.intervals import estimate_auroc
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.metrics.power import needed
from spvmia_plugin.metrics.several import compare
from spvmia_plugin.metrics.tpr import tpr_interval
from spvmia_plugin.results import read_latest
from spvmia_plugin.results.bound import Bound, Held, hold
from tests.results.builders import DECLARED, fake_audit, fake_records, write_run

DAY_AND_TIME = DECLARED.replace("T", " ").replace("+00:00", " UTC")
NULL = {"loss": 0.0, "zlib": 0.0, "spv_wbc": 0.0}


def audit_of(folder, strengths, n=150, **options):
    write_run(folder, [fake_audit(strengths, records=fake_records(n, n), findings=[], **options)])
    return read_latest(folder).audits[0]


def only(verdict):
    (held,) = verdict.held
    return held


def test_null_records_are_within_and_a_leak_exceeds(tmp_path):
    null = hold(audit_of(tmp_path / "null", NULL, 1000), Bound({"auroc": 0.65}, DECLARED))
    assert null.outcome == "within"
    assert only(null).high < 0.65
    assert "of every attack it is at most" in only(null).in_words()
    assert null.when() == f"the bound was declared at {DAY_AND_TIME}"
    leak = hold(audit_of(tmp_path / "leak", {"loss": 0.0, "spv_wbc": 1.5}, 1000), Bound({"auroc": 0.65}))
    assert leak.outcome == "exceeded"
    assert only(leak).attack == "spv_wbc"
    assert only(leak).low > 0.65
    assert leak.when() == "the bound was given after the run"


@pytest.mark.parametrize(
    ("outcome", "end", "said"),
    [
        ("within", 0.6412, "at most 0.641, below 0.65"),
        ("within", 0.64996, "at most 0.64996, below 0.65"),
        ("exceeded", 0.650049, "at least 0.65005, above 0.65"),
        ("not_shown", 0.6502, "up to 0.6502 cannot be ruled out, 0.65 was declared"),
        ("not_shown", 0.65, "up to 0.650 cannot be ruled out, 0.65 was declared"),
        ("not_shown", 0.65 + 1e-12, "up to 0.650000000 cannot be ruled out"),
    ],
)
def test_no_number_is_rounded_across_the_limit(outcome, end, said):
    assert said in Held("auroc", 0.65, outcome, "loss", 0.6, end, end).in_words()


def test_it_is_held_against_the_interval_of_every_attack_at_once(tmp_path):
    """Of the attacks that were tried the one with the highest upper end decides, not the strongest's own interval."""
    audit = audit_of(tmp_path, {"loss": 0.1, "zlib": 0.1, "spv_wbc": 0.1}, 400)
    scores = {task.attack: audit.scores(task) for task in audit.model_attacks}
    leaders = compare(scores, audit.labels(), audit.clusters(), seed=0).leaders["auroc"]
    held = only(hold(audit, Bound({"auroc": 0.9})))
    assert held.high == pytest.approx(max(leader.high for leader in leaders.values()), abs=0.002)  # other draws
    assert held.low == pytest.approx(max(leader.low for leader in leaders.values()), abs=0.002)
    assert held.value == pytest.approx(max(leader.value for leader in leaders.values()))


def of_units(n, each, strengths, folder):
    """An audit of n units of each class, `each` records of every one."""
    found = [
        dataclasses.replace(record, unit=f"u{record.cluster}", cluster=f"u{record.cluster}")
        for record in fake_records(n * each, n * each, blocks=each)
    ]
    write_run(folder, [fake_audit(strengths, records=found, findings=[])])
    return read_latest(folder).audits[0]


def test_what_records_hide_their_persons_show(tmp_path):
    """One record gives away little, ten of one person much: a limit that records keep is broken by persons."""
    audit = of_units(120, 10, {"loss": 0.0, "spv_wbc": 0.4}, tmp_path)
    by_record, by_unit = hold(audit, Bound({"auroc": 0.7}, DECLARED)).held
    assert (by_record.outcome, by_record.by_unit) == ("within", False)
    assert (by_unit.outcome, by_unit.by_unit) == ("exceeded", True)
    assert hold(audit, Bound({"auroc": 0.7}, DECLARED)).outcome == "exceeded"
    assert by_unit.in_words().startswith("AUROC by unit is 0.")
    assert by_unit.low > 0.7 > by_record.high


def test_units_are_few_where_records_are_many(tmp_path):
    audit = of_units(20, 40, NULL, tmp_path)
    by_record, by_unit = hold(audit, Bound({"auroc": 0.75}, DECLARED)).held
    assert (by_record.outcome, by_unit.outcome) == ("within", "not_shown")
    assert "units of each class would show it" in by_unit.in_words()
    assert by_unit.needed > 20


def test_a_run_that_did_not_compare_units_shows_nothing_of_them(tmp_path):
    audit = of_units(60, 3, NULL, tmp_path)
    for task in audit.tasks:
        unit = dataclasses.replace(task.mia_audit.unit, together=None)
        object.__setattr__(task, "mia_audit", dataclasses.replace(task.mia_audit, unit=unit))
    _, by_unit = hold(audit, Bound({"auroc": 0.9}, DECLARED)).held
    assert by_unit.outcome == "not_evaluable"
    assert "run it again" in by_unit.reason


@pytest.mark.parametrize("strengths", [NULL, {"loss": 2.0}])
def test_one_record_of_nobody_does_not_let_a_bound_hold_by_unit(tmp_path, strengths):
    """Units were named, and a record has none: by unit nothing is known, which is said, and never `within`."""
    owned = [dataclasses.replace(record, unit=f"u{record.id}") for record in fake_records(600, 600)]
    records = [*owned[:5], dataclasses.replace(owned[5], unit=None), *owned[6:]]
    write_run(tmp_path, [fake_audit(strengths, records=records)])
    audit = read_latest(tmp_path).audits[0]
    assert audit.mia_audit.unit is None
    verdict = hold(audit, Bound({"auroc": 0.7}, DECLARED))
    by_record, by_unit = verdict.held
    assert (by_unit.by_unit, by_unit.outcome) == (True, "not_evaluable")
    assert "1 of 1200 records belong to no unit" in by_unit.in_words()
    assert by_record.outcome == ("exceeded" if strengths.get("loss") else "not_shown")
    assert verdict.outcome == ("exceeded" if by_record.outcome == "exceeded" else "not_evaluable")


def test_without_an_attacks_samples_nothing_is_within(tmp_path):
    """The strongest attack's file is gone: of the others alone it would be within."""
    audit = audit_of(tmp_path, {"loss": 0.0, "zlib": 0.0, "spv_wbc": 1.5}, 1000)
    (path,) = tmp_path.rglob("samples_spv_wbc*")
    path.unlink()
    held = only(hold(read_latest(tmp_path).audits[0], Bound({"auroc": 0.65})))
    assert held.outcome == "not_evaluable"
    assert "the samples of spv_wbc are not there" in held.reason
    assert audit.without_samples == []


def test_nor_while_a_condition_does_not_hold(tmp_path):
    finding = Finding("near_duplicates", "warning", "copies across the classes", {})
    few = Finding(TPR_1PCT.too_few, "warning", "few", {})
    for findings, outcome in (([finding], "not_shown"), ([few], "within")):
        write_run(tmp_path / outcome, [fake_audit(NULL, records=fake_records(1000, 1000), findings=findings)])
        held = only(hold(read_latest(tmp_path / outcome).audits[0], Bound({"auroc": 0.65})))
        assert held.outcome == outcome
        assert held.reason in (None, "a condition of the audit does not hold: copies across the classes")


def test_nor_where_an_attack_tells_them_apart_the_wrong_way_round(tmp_path):
    held = only(hold(audit_of(tmp_path, {"loss": 0.0, "spv_wbc": -2.0}, 1000), Bound({"auroc": 0.65})))
    assert held.outcome == "not_shown"
    assert "look for swapped labels" in held.reason


BELOW = "below a guess, and turned round may pick out more members than any TPR tells"


@pytest.mark.parametrize(
    ("strengths", "outcome"),
    [
        ({"loss": -4.0, "ratio": 0.1}, "not_evaluable"),
        ({"loss": -4.0, "ratio": 0.8}, "not_evaluable"),  # whatever another attack tells the right way
        ({"loss": -0.3, "ratio": 0.1}, "not_evaluable"),
        ({"loss": -4.0, "ratio": 3.0}, "exceeded"),
        ({"loss": -0.05, "ratio": 0.1}, "within"),
    ],
)
def test_a_limit_on_a_tpr_is_not_held_against_an_attack_below_a_guess(tmp_path, strengths, outcome):
    """Its TPR is that of the scores as they are, and nobody knows how many it picks out turned round."""
    audit = audit_of(tmp_path, strengths, 1000)
    held = only(hold(audit, Bound({"tpr_at_1pct_fpr": 0.15})))
    assert held.outcome == outcome
    if outcome != "not_evaluable":
        return
    turned = audit.strongest.turned_round
    assert held.reason.startswith(f"loss has AUROC {turned.value:.3f} ({turned.low:.3f} to {turned.high:.3f}), {BELOW}")
    assert held.reason.endswith("find out why (swapped labels? a reference that saw the members?), then audit again")
    assert gate(tmp_path, "--max-tpr-at-1pct", 0.15).exit_code == 3


def test_nor_by_unit(tmp_path):
    audit = of_units(120, 10, {"loss": -0.3, "ratio": 0.0}, tmp_path)
    by_record, by_unit = hold(audit, Bound({"tpr_at_1pct_fpr": 0.5})).held
    assert (by_record.outcome, by_unit.outcome) == ("not_evaluable",) * 2
    of_units_alone = audit.mia_audit.unit.together.strongest.turned_round
    assert by_unit.reason.startswith(f"loss has AUROC {of_units_alone.value:.3f}")
    assert BELOW in by_unit.reason
    assert of_units_alone.value < audit.strongest.turned_round.value - 0.05


def test_more_documents_are_not_asked_for_where_they_would_not_help(tmp_path):
    """Turned round the estimate is beyond the limit; left out is left out; a condition stays broken."""
    low = only(hold(audit_of(tmp_path / "low", {"loss": -2.5, "ratio": 0.1}, 60), Bound({"auroc": 0.65})))
    assert (low.outcome, low.needed) == ("not_shown", None)
    assert "cannot be ruled out, 0.65 was declared; an attack may be as low as 0.0" in low.in_words()
    few = only(hold(audit_of(tmp_path / "few", NULL, 60, unscored_every=8), Bound({"auroc": 0.6})))
    assert (few.outcome, few.needed) == ("not_shown", None)
    assert "cannot be ruled out, 0.6 was declared; loss has no score for 15 of 120 records" in few.in_words()


@pytest.mark.parametrize(("codes", "helps"), [(["few_documents"], True), (["few_documents", "near_duplicates"], False)])
def test_which_conditions_more_documents_meet(tmp_path, codes, helps):
    findings = [Finding(code, "warning", f"this is {code}") for code in codes]
    write_run(tmp_path, [fake_audit(NULL, records=fake_records(40, 40), findings=findings)])
    audit = read_latest(tmp_path).audits[0]
    held = only(hold(audit, Bound({"auroc": 0.6})))
    assert (held.outcome, held.needed is not None) == ("not_shown", helps)
    assert ("this is near_duplicates" in held.in_words()) is not helps
    wide = only(hold(audit, Bound({"auroc": 0.95})))
    assert (wide.outcome, wide.needed) == ("not_shown", None)
    assert f"does not hold: this is {codes[-1]}" in wide.in_words()


def test_an_attack_that_may_lie_below_by_chance_is_no_sign_of_swapped_labels(tmp_path):
    held = only(hold(audit_of(tmp_path, {"loss": -0.2}, 80), Bound({"auroc": 0.64})))
    assert (held.outcome, held.high < 0.64) == ("not_shown", True)
    assert "an attack may be as low as 0.3" in held.in_words()
    assert "swapped" not in held.in_words()
    assert held.needed > 80
    wide = only(hold(audit_of(tmp_path / "wide", {"loss": 0.1}, 80), Bound({"auroc": 0.56})))
    assert (wide.outcome, wide.reason) == ("not_shown", None)
    both = only(hold(audit_of(tmp_path / "both", {"loss": 0.2, "zlib": -0.4}, 80), Bound({"auroc": 0.58})))
    assert (both.value < 0.58, both.high > 0.58, both.needed) == (True, True, None)
    assert "an attack may be as low as 0." in both.in_words()


def test_too_few_records_are_never_within(tmp_path):
    verdict = hold(audit_of(tmp_path, NULL, 30), Bound({"auroc": 0.65}))
    held = only(verdict)
    assert verdict.outcome == "not_shown"
    assert held.high > 0.65
    assert held.needed > 30
    assert f"about {held.needed:,} documents of each class would show it" in held.in_words()
    tpr = only(hold(audit_of(tmp_path / "tpr", NULL, 80), Bound({"tpr_at_1pct_fpr": 0.2})))
    assert (tpr.outcome, tpr.reason) == ("not_shown", tpr.reason)
    assert "80 non-members cannot resolve an FPR of 1 %" in tpr.in_words()
    assert tpr.needed >= 100


@pytest.mark.parametrize(
    "code", ["empty_class", "blind_above_chance", "membership_assumed", "document_in_both_classes"]
)
def test_a_broken_split_is_no_evidence(tmp_path, code):
    findings = [Finding(code, "warning", "this does not hold")]
    write_run(tmp_path, [fake_audit(NULL, records=fake_records(1000, 1000), findings=findings)])
    verdict = hold(read_latest(tmp_path).audits[0], Bound({"auroc": 0.65}))
    assert verdict.outcome == "not_evaluable"
    assert only(verdict).reason == "this does not hold"


def test_a_blind_baseline_alone_or_no_samples_is_not_evaluable(tmp_path):
    blind = hold(audit_of(tmp_path / "blind", {"bag_of_words": 0.0}), Bound({"auroc": 0.65}))
    assert (blind.outcome, only(blind).reason) == ("not_evaluable", "no attack on the model was run")
    bare = audit_of(tmp_path / "bare", NULL)
    for file in (tmp_path / "bare").rglob("samples_*.jsonl"):
        file.unlink()
    bare = read_latest(tmp_path / "bare").audits[0]
    assert "--log_samples" in only(hold(bare, Bound({"auroc": 0.65}))).reason
    nothing = hold(audit_of(tmp_path / "nothing", {"lira_candidate": None}), Bound({"auroc": 0.65}))
    assert only(nothing).reason == "no attack has scores of both classes"


def test_an_attack_that_leaves_out_many_records_shows_nothing(tmp_path):
    few = audit_of(tmp_path / "few", NULL, 1000, unscored_every=30)
    assert hold(few, Bound({"auroc": 0.7})).outcome == "within"
    many = hold(audit_of(tmp_path / "many", NULL, 1000, unscored_every=10), Bound({"auroc": 0.7}))
    assert many.outcome == "not_shown"
    assert "has no score for 200 of 2,000 records, which may be the exposed ones" in only(many).in_words()


def scored_members(records, rng):
    """High scores of every member, and of hardly any other record: those that have none are a choice."""
    members = np.array([record.is_member for record in records])
    return np.where(members | (rng.random(len(records)) < 0.02), rng.normal(size=len(records)) + 3 * members, math.nan)


def test_what_such_an_attack_alone_exceeds_is_not_shown(tmp_path):
    audit = audit_of(tmp_path / "alone", {"loss": 0.0, "spv_wbc": scored_members}, 600)
    found = hold(audit, Bound({"auroc": 0.6}))
    assert only(found).low > 0.6
    assert found.outcome == "not_shown"
    assert "spv_wbc has no score for" in only(found).in_words()
    beside = hold(audit_of(tmp_path / "beside", {"loss": 1.5, "spv_wbc": scored_members}, 600), Bound({"auroc": 0.7}))
    assert beside.outcome == "exceeded"


def with_a_few_beyond(records, rng):
    """Three in five members score high, and three of the others higher: a large TPR at 1 %, and no lower end."""
    members = np.array([record.is_member for record in records])
    scores = rng.normal(size=len(records)) + 10 * (members & (rng.random(len(records)) < 0.6))
    scores[np.flatnonzero(~members)[:3]] = 100.0
    return scores


def test_an_attack_stands_beside_its_own_lower_end_alone(tmp_path):
    """The one with the largest estimate may be sure of nothing: another's lower end was told as its own."""
    audit = audit_of(tmp_path, {"loss": with_a_few_beyond, "spv_wbc": 2.2}, 600, settings={"mia_max_tpr_at_1pct": 0.05})
    leaders = audit.compared.leaders["tpr_at_1pct_fpr"]
    assert leaders["loss"].value > leaders["spv_wbc"].value
    assert leaders["loss"].low < 0.05 < leaders["spv_wbc"].low
    told = f"TPR at 1 % FPR is {leaders['loss'].value:.3f} (loss); of spv_wbc it is at least "
    found = gate(tmp_path, "--junit", tmp_path / "x.xml", "--sarif", tmp_path / "x.sarif", "--json")
    assert found.exit_code == 1
    (held,) = json.loads(found.stdout)["audits"][0]["held"]
    assert (held["attack"], held["low_of"], held["low"]) == ("loss", "spv_wbc", leaders["spv_wbc"].low)
    said = f"{told}{held['low']:.3f}, above 0.05"
    for file in ("x.xml", "x.sarif"):
        assert said in (tmp_path / file).read_text()
    alone = audit_of(tmp_path / "alone", {"spv_wbc": 2.2}, 600)
    assert " (spv_wbc), at least 0." in only(hold(alone, Bound({"tpr_at_1pct_fpr": 0.05}))).in_words()


def test_what_is_exceeded_is_told_by_an_attack_that_shows_it(tmp_path):
    """Its lower end is larger, and it left records out: the one that shows the limit exceeded is another."""
    audit = audit_of(tmp_path, {"loss": 0.65, "spv_wbc": scored_members}, 600)
    leaders, held = audit.compared.leaders["auroc"], only(hold(audit, Bound({"auroc": 0.6})))
    assert (held.outcome, held.attack, held.low_of) == ("exceeded", "spv_wbc", "loss")
    assert held.low == leaders["loss"].low < leaders["spv_wbc"].low
    assert f"; of loss it is at least {held.low:.3f}, above 0.6" in held.in_words()


def with_low_by_unit(audit, low):
    """The audit with another largest lower end of the AUROC by unit than that of the leader."""
    tasks = []
    for task in audit.tasks:
        unit = task.mia_audit.unit
        extremes = [
            dataclasses.replace(each, low=low) if each.metric == "auroc" else each for each in unit.together.extremes
        ]
        together = dataclasses.replace(unit.together, extremes=extremes)
        of_unit = dataclasses.replace(unit, together=together)
        tasks.append(dataclasses.replace(task, mia_audit=dataclasses.replace(task.mia_audit, unit=of_unit)))
    return dataclasses.replace(audit, tasks=tasks)


def test_by_unit_a_lower_end_may_be_nobody_s_that_is_known(tmp_path):
    """The run records the leaders and the largest lower end, not whose that is."""
    audit = of_units(120, 3, {"loss": 0.3, "spv_wbc": 0.8}, tmp_path / "every")
    leader = audit.mia_audit.unit.together.strongest.auroc
    other = with_low_by_unit(audit, leader.low + 0.02)
    bound = Bound({"auroc": leader.low - 0.01})
    named, nobody_s = hold(other, bound).held[1], hold(other, Bound({"auroc": leader.low + 0.01})).held[1]
    assert (named.outcome, named.low_of, named.low) == ("exceeded", leader.attack, leader.low)
    assert (nobody_s.outcome, nobody_s.low_of) == ("exceeded", None)
    assert f"; of some attack it is at least {leader.low + 0.02:.3f}" in nobody_s.in_words()


def test_by_unit_nobody_is_an_attack_that_left_records_out(tmp_path):
    records = [dataclasses.replace(each, unit=f"u{each.cluster}") for each in fake_records(150, 150)]
    write_run(tmp_path, [fake_audit({"spv_wbc": 1.5, "loss": 1.0}, records=records, findings=[], unscored_every=10)])
    audit = read_latest(tmp_path).audits[0]
    leader = audit.mia_audit.unit.together.strongest.auroc
    for low, limit in ((leader.low + 0.02, leader.low + 0.01), (leader.low, leader.low - 0.01)):
        held = hold(with_low_by_unit(audit, low), Bound({"auroc": limit})).held[1]
        assert held.outcome == "not_shown"
        assert "has no score for 30 of 300 records" in held.reason


def test_an_attack_without_its_input_hides_nothing(tmp_path):
    audit = audit_of(tmp_path, {**NULL, "lira_candidate": None}, 1000)
    assert hold(audit, Bound({"auroc": 0.65})).outcome == "within"


def test_a_lower_bound_on_epsilon_breaks_a_limit_and_shows_none(tmp_path):
    leak = audit_of(tmp_path / "leak", {"spv_wbc": 4.0}, 200, canary=True)
    assert leak.tasks[0].metrics["epsilon_lb"] > 1
    exceeded = hold(leak, Bound({"epsilon_lb": 1.0}))
    assert exceeded.outcome == "exceeded"
    assert (only(exceeded).attack, only(exceeded).low) == ("spv_wbc", leak.tasks[0].metrics["epsilon_lb"])
    verdict = hold(leak, Bound({"epsilon_lb": 50.0}))
    assert verdict.outcome == "not_shown"
    assert "bounds epsilon from below" in only(verdict).in_words()
    write_run(
        tmp_path / "uneven", [fake_audit({"spv_wbc": 2.0}, records=fake_records(95, 5), canary=True, findings=[])]
    )
    uneven = hold(read_latest(tmp_path / "uneven").audits[0], Bound({"epsilon_lb": 2.0}))
    assert uneven.outcome == "not_evaluable"
    assert "95 of 100 canaries are included: fair coins do not give this" in only(uneven).in_words()
    without = hold(audit_of(tmp_path / "none", NULL), Bound({"epsilon_lb": 1.0}))
    assert (without.outcome, only(without).attack) == ("not_evaluable", None)


def test_an_audit_beside_one_of_canaries_does_not_say_that_none_was_run(tmp_path):
    settings = {"mia_max_epsilon": 1.0}
    canaries = fake_audit({"spv_wbc": 4.0}, records=fake_records(200, 200), canary=True, findings=[], settings=settings)
    write_run(tmp_path, [fake_audit(NULL, findings=[], settings=settings), canaries])
    found = gate(tmp_path)
    assert found.exit_code == 1
    first, second = (line for line in found.stdout.splitlines() if "lower bound on epsilon" in line)
    assert "not evaluable" in first
    assert "these records are no canaries: canary_audit_custom, of a target that was fine-tuned with" in first
    assert first.endswith("and is held against the limit by itself")
    assert "exceeded: lower bound on epsilon is" in second


def test_the_worst_of_several_limits_decides(tmp_path):
    audit = audit_of(tmp_path, NULL, 1000)
    verdict = hold(audit, Bound({"auroc": 0.65, "tpr_at_1pct_fpr": 0.0101, "epsilon_lb": 1.0}))
    assert [held.outcome for held in verdict.held] == ["within", "not_shown", "not_evaluable"]
    assert verdict.outcome == "not_evaluable"


def test_the_bound_stands_in_the_results(tmp_path):
    settings = {"mia_max_auroc": 0.65, "mia_max_tpr_at_1pct": 0.2}
    audit = audit_of(tmp_path, NULL, 1000, settings=settings)
    bound = Bound.of(audit)
    assert bound == Bound({"auroc": 0.65, "tpr_at_1pct_fpr": 0.2}, DECLARED)
    assert Bound.of(audit_of(tmp_path / "none", NULL)) is None


def test_a_run_whose_scores_were_all_known_says_so(tmp_path):
    settings = {"mia_max_auroc": 0.65}
    audit = audit_of(tmp_path / "new", NULL, 1000, settings=settings)
    assert hold(audit, Bound.of(audit)).when() == f"the bound was declared at {DAY_AND_TIME}"
    known = audit_of(tmp_path / "known", NULL, 1000, settings=settings, stored=True)
    late = ", when all scores of loss, zlib, spv_wbc were known already: they came from an earlier run"
    assert hold(known, Bound.of(known)).when() == f"the bound was declared at {DAY_AND_TIME}{late}"
    assert "known already" not in hold(known, Bound({"auroc": 0.65})).when()


@pytest.mark.parametrize(
    ("stored", "told"),
    [(("loss",), ", when all scores of loss were known already"), (("zlib",), ", when all scores of zlib were known")],
)
def test_scores_that_were_known_are_told_attack_by_attack(tmp_path, stored, told):
    """`loss` came from the store, and a bound was declared as another attack was added: its number was known."""
    audit = audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65}, stored=stored)
    verdict = hold(audit, Bound.of(audit))
    assert verdict.known_before == stored
    assert told in verdict.when()


@pytest.mark.parametrize("known", [0.5, 0.01])
def test_scores_that_were_known_in_part(tmp_path, known):
    audit = audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65})
    first, *others = audit.tasks
    attacker = dataclasses.replace(first.mia_audit.attacker, known=known)
    first = dataclasses.replace(first, mia_audit=dataclasses.replace(first.mia_audit, attacker=attacker))
    verdict = hold(dataclasses.replace(audit, tasks=[first, *others]), Bound.of(audit))
    assert (verdict.known_before, verdict.known_in_part) == ((), (first.attack,))
    assert f"when some scores of {first.attack} were known already" in verdict.when()


@pytest.mark.parametrize("computed", [0, 7])
def test_older_results_tell_of_the_whole_run_alone(tmp_path, computed):
    audit = audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65})
    spent = {"scoring: target": {"forward_tokens": computed, "generated_tokens": 0, "training_tokens": 0}}
    older = [
        dataclasses.replace(task, mia_audit=dataclasses.replace(task.mia_audit, cost=spent, attacker=None))
        for task in audit.tasks
    ]
    verdict = hold(dataclasses.replace(audit, tasks=older), Bound.of(audit))
    assert verdict.known_before == (() if computed else tuple(NULL))


# How many it takes
def shown_within(n, rng, metric, limit, truths, audits):
    """In which share of drawn audits with n documents of each class all attacks' intervals end inside the limit.

    At the reach of the audits themselves, which holds over all attacks and metrics; that of one stands for all.
    """
    labels, codes = np.arange(2 * n) < n, np.arange(2 * n)

    def scores(truth):
        drawn = rng.standard_normal(2 * n)
        if metric == AUROC:
            return drawn + labels * math.sqrt(2) * ndtri(truth)
        drawn[labels & (rng.random(2 * n) < (truth - metric.fpr) / (1 - metric.fpr))] = 9.0
        return drawn

    critical = compare({str(k): scores(truth) for k, truth in enumerate(truths)}, labels).critical
    pointwise = 2 * stdtr(2 * n - 2, critical) - 1
    shown = 0
    for _ in range(audits):
        for truth in truths:
            if metric == AUROC:
                low, high = estimate_auroc(scores(truth), labels, codes).interval_at(critical)
                high = max(high, 1 - low)  # turned round
            else:
                high = tpr_interval(scores(truth), labels, codes, metric.fpr, pointwise)[1]
            if high >= limit:
                break
        else:
            shown += 1
    return shown / audits


@pytest.mark.parametrize(
    ("metric", "limit", "value", "attacks"),
    [
        (AUROC, 0.6, None, 8),
        (AUROC, 0.6, None, 1),
        (AUROC, 0.65, 0.58, 5),
        (AUROC, 0.65, None, 1),
        (TPR_1PCT, 0.05, None, 1),
        (TPR_1PCT, 0.1, 0.04, 2),
    ],
)
def test_so_many_documents_are_enough_in_four_of_five_audits_and_fewer_are_not(metric, limit, value, attacks):
    """Of a target that gives nothing away every attack guesses; else the strongest has the value, the others guess."""
    n = needed(metric, limit, value, attacks=attacks)
    truths = [metric.guess if value is None else value, *[metric.guess] * (attacks - 1)]
    rng = np.random.default_rng(0)
    assert 0.72 < shown_within(n, rng, metric, limit, truths, 150) < 0.96
    assert shown_within(n // 2, rng, metric, limit, truths, 120) < 0.6


def test_what_no_number_of_documents_shows():
    assert needed(AUROC, 0.6, 0.65) is None
    assert needed(AUROC, 0.50001) is None


def test_beyond_the_bound_within_is_rare():
    """Of audits whose target lies just beyond the bound at most 5 % say within, with several attacks in the set."""

    rng = np.random.default_rng(0)
    n, limit, wrong, shown = 150, 0.6, 0, 0
    labels = np.arange(2 * n) < n
    for _ in range(200):
        shared = rng.standard_normal(2 * n)
        effects = [math.sqrt(2) * ndtri(limit + 0.001), 0.0, 0.0]
        scores = {
            f"attack {k}": (shared + rng.standard_normal(2 * n)) / math.sqrt(2) + effect * labels
            for k, effect in enumerate(effects)
        }
        leaders = compare(scores, labels).leaders["auroc"]
        wrong += max(leader.high for leader in leaders.values()) < limit
        shown += max(leader.low for leader in leaders.values()) > 0.5
    assert wrong <= 10
    assert shown > 20  # the records say something


# The command
def gate(*arguments):
    return CliRunner().invoke(make_app("gate"), ["gate", *map(str, arguments)])


def test_which_of_several_audits_was_judged_is_told(tmp_path):
    """The newest may be of another model than was meant."""
    for day, strengths in enumerate(({"loss": 2.0}, NULL), 1):
        audit = fake_audit(strengths, records=fake_records(1000, 1000), settings={"mia_max_auroc": 0.65}, findings=[])
        write_run(tmp_path, [audit], model=f"./m{day}", date=datetime(2026, 1, day, tzinfo=timezone.utc))
    found = gate(tmp_path)
    assert found.exit_code == 0
    first, second = found.output.splitlines()[-2:]
    assert first.startswith("judged: ./m2, results_2026-01-02")
    assert second.startswith("1 older audit of this folder is passed over, of whatever models: name a results_")
    (other,) = tmp_path.rglob("results_2026-01-01*.json")
    alone = gate(other, "--json")
    assert alone.exit_code == 1
    assert json.loads(alone.stdout)["older"] == 0


@pytest.mark.parametrize(
    ("strengths", "n", "limit", "status", "word"),
    [
        (NULL, 1000, 0.65, 0, "within"),
        ({"loss": 2.0}, 150, 0.65, 1, "exceeded"),
        (NULL, 40, 0.6, 3, "not shown"),
        ({"bag_of_words": 0.0}, 150, 0.65, 3, "not evaluable"),
    ],
)
def test_exit_status(tmp_path, strengths, n, limit, status, word):
    audit_of(tmp_path, strengths, n, settings={"mia_max_auroc": limit})
    found = gate(tmp_path)
    assert found.exit_code == status, found.output
    assert found.stdout.startswith(f"custom: {word} (the bound was declared at {DAY_AND_TIME})")
    after = gate(tmp_path, "--max-auroc", limit)
    assert after.exit_code == status
    assert "the bound was given after the run" in after.stdout


@pytest.mark.parametrize(
    ("given", "laxer"),
    [
        (("--max-tpr-at-1pct", 0.99), None),
        (("--max-auroc", 0.999), "is laxer than the declared one (AUROC: 0.999, declared 0.6), which still counts"),
        (("--max-auroc", 0.55), None),
    ],
)
def test_a_bound_that_is_given_replaces_none_that_was_declared(tmp_path, given, laxer):
    audit_of(tmp_path, {"loss": 2.0}, 600, settings={"mia_max_auroc": 0.6})
    found = gate(tmp_path, *given)
    assert found.exit_code == 1
    first, *_ = lines = found.stdout.splitlines()
    assert first == f"custom: exceeded (the bound was declared at {DAY_AND_TIME})"
    (after,) = (line for line in lines if "given after the run" in line)
    assert ("laxer" in after) is (laxer is not None)
    assert laxer is None or laxer in after


def test_a_stricter_one_than_was_declared_counts_too(tmp_path):
    audit_of(tmp_path, NULL, 600, settings={"mia_max_auroc": 0.65})
    assert gate(tmp_path).exit_code == 0
    assert gate(tmp_path, "--max-auroc", 0.5001).exit_code == 3


def test_both_bounds_are_told_to_machines(tmp_path):
    from xml.etree import ElementTree

    audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65})
    found = gate(
        tmp_path, "--max-auroc", 0.65, "--junit", tmp_path / "x.xml", "--sarif", tmp_path / "x.sarif", "--json"
    )
    assert found.exit_code == 0
    assert [verdict["declared"] for verdict in json.loads(found.stdout)["audits"]] == [DECLARED, None]
    cases = ElementTree.parse(tmp_path / "x.xml").getroot().findall("testsuite/testcase")
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 2
    results = json.loads((tmp_path / "x.sarif").read_text())["runs"][0]["results"]
    assert ["given after the run" in result["message"]["text"] for result in results] == [False, True]


@pytest.mark.parametrize(("strengths", "status"), [(NULL, 3), ({"loss": 3.0}, 3)])
def test_an_audit_without_a_bound_beside_one_with_is_no_pass(tmp_path, strengths, status):
    from xml.etree import ElementTree

    records = fake_records(1000, 1000)
    held = fake_audit(NULL, records=records, findings=[], settings={"mia_max_auroc": 0.65})
    unheld = fake_audit(strengths, records=records, findings=[], dataset="wikitext")
    write_run(tmp_path, [held, unheld])
    found = gate(tmp_path, "--junit", tmp_path / "x.xml", "--sarif", tmp_path / "x.sarif")
    assert found.exit_code == status
    assert "wikitext: not evaluable (no bound was declared with the run, and none was given)" in found.stdout
    suites = {suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "x.xml").getroot()}
    assert (suites["wikitext"].get("tests"), suites["wikitext"].get("errors")) == ("1", "1")
    run = json.loads((tmp_path / "x.sarif").read_text())["runs"][0]
    result = run["results"][1]
    assert (result["ruleId"], result["kind"], result["level"]) == ("spvmia/bound", "fail", "warning")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "spvmia/bound"
    after = gate(tmp_path, "--max-auroc", 0.65)
    assert after.exit_code == (0 if strengths == NULL else 1)
    assert after.stdout.count("given after the run") == 2


def test_two_audits_of_one_data_set_have_tests_of_their_own(tmp_path):
    """Of two tests of one name a reader may keep the one that passed."""
    from xml.etree import ElementTree

    weak = fake_audit(NULL, records=fake_records(300, 300), findings=[], settings={"mia_max_auroc": 0.65})
    settings = {"mia_max_auroc": 0.65, "mia_min_k": 0.5}
    strong = fake_audit({"min_k": 3.0}, records=fake_records(300, 300), findings=[], settings=settings)
    write_run(tmp_path, [weak, strong])
    assert gate(tmp_path, "--junit", tmp_path / "x.xml").exit_code == 1
    first, second = ElementTree.parse(tmp_path / "x.xml").getroot()
    assert (first.get("name"), second.get("name")) == ("custom", "custom, audit 2")
    names = [suite.find("testcase").get("classname") for suite in (first, second)]
    assert names == ["spvmia.custom", "spvmia.custom.audit_2"]
    assert second.find("testcase/failure") is not None


def test_files_for_machines(tmp_path):
    from xml.etree import ElementTree

    settings = {"mia_max_auroc": 0.65, "mia_max_tpr_at_1pct": 0.5, "mia_max_epsilon": 3}
    audit_of(tmp_path, {"loss": 1.0, "zlib": 0.0}, 300, settings=settings)
    found = gate(tmp_path, "--junit", tmp_path / "gate.xml", "--sarif", tmp_path / "ci" / "gate.sarif", "--json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    outcomes = [held["outcome"] for held in told["audits"][0]["held"]]
    assert (told["outcome"], outcomes[0], outcomes[2]) == ("exceeded", "exceeded", "not_evaluable")
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("errors")) == ("3", "1")
    first = suite.find("testcase")
    assert first.get("name") == "AUROC below 0.65"
    assert first.find("failure").get("type") == "exceeded"
    log = json.loads((tmp_path / "ci" / "gate.sarif").read_text())
    assert log["version"] == "2.1.0"
    results = log["runs"][0]["results"]
    assert [result["level"] for result in results][::2] == ["error", "warning"]
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in results] == [result["ruleId"] for result in results]


def test_files_for_ci_replace_each_other_and_nothing_else(tmp_path):
    audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65})
    members = tmp_path / "members.xml"
    members.write_text('{"text": "SECRET"}')
    files = {"--junit": tmp_path / "x.xml", "--sarif": tmp_path / "x.sarif"}
    for option, path in files.items():
        for _ in range(2):
            assert gate(tmp_path, option, path).exit_code == 0
        refused = gate(tmp_path, option, members)
        assert refused.exit_code == 2
        assert f"{option}: expected a file that may be replaced, got" in refused.output
    assert gate(tmp_path, "--junit", files["--sarif"]).exit_code == 2
    assert members.read_text() == '{"text": "SECRET"}'


def test_sarif_fits_its_schema(tmp_path):
    """The parts that readers ask for (SARIF 2.1.0, 3.13 to 3.27)."""
    audit_of(tmp_path, NULL, 1000, settings={"mia_max_auroc": 0.65})
    assert gate(tmp_path, "--sarif", tmp_path / "x.sarif").exit_code == 0
    (result,) = json.loads((tmp_path / "x.sarif").read_text())["runs"][0]["results"]
    assert (result["kind"], result["level"]) == ("pass", "none")
    assert set(result) >= {"ruleId", "message", "locations"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RESULTS: expected a bound declared with the run .*, got none in .*--max-auroc"),
        (["--max-auroc", "0.4"], "--max-auroc: expected a number > 0.5 and <= 1, got 0.4"),
        (["--max-tpr-at-1pct", "2"], "--max-tpr-at-1pct: expected a number > 0.01 and <= 1, got 2.0"),
        (["--max-epsilon", "0"], "--max-epsilon: expected a number > 0, got 0.0"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    import re

    audit_of(tmp_path, NULL)
    found = gate(tmp_path, *arguments)
    assert found.exit_code == 2  # 1 would be: exceeded
    assert re.fullmatch(f"{message}.*", found.stderr.strip()), found.stderr
