"""What to do now: each with a number of the results behind it, and nothing without one."""

from __future__ import annotations

import dataclasses
import json
import shlex

import numpy as np
import pytest

from spvmia_plugin.checks.preconditions import Finding
from spvmia_plugin.report.advice import advice, bound_sentence
from spvmia_plugin.report.command import command
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.html import render
from spvmia_plugin.report.numbers import Number, plain
from spvmia_plugin.report.verdict import judge
from spvmia_plugin.results import read_latest
from spvmia_plugin.results.bound import Bound, hold
from tests.report.pages import Page
from tests.results.builders import Few, fake_audit, fake_records, write_run

RECIPE = {"finetune": {"method": "lora", "epochs": 4.0}}


def advised(folder, strengths, *, n=150, findings=(), **options):
    records = fake_records(n, n)
    write_run(folder, [fake_audit(strengths, records=records, findings=list(findings), **options)])
    run = read_latest(folder)
    audit = run.audits[0]
    return run, audit, advice(run, audit, judge(audit))


def titles(found):
    return [each.title for each in found]


def test_a_leak_at_the_low_end(tmp_path, undrawn):
    run, _, found = advised(tmp_path, {"loss": 0.4, "spv_wbc": 2.0}, n=600, provenance=RECIPE)
    assert titles(found) == [
        "Look at the records that stand out, and take them out or reword them",
        "Try an earlier checkpoint",
    ]
    assert "The target read its records 4 times; Windows, SPV reference has AUROC" in plain(found[1].evidence)
    page = render(run)
    assert "What to do now" in page
    ids = Page(page).data[0]["ids"]
    assert f"first of all {ids[0]}, {ids[1]} and {ids[2]}; the table below has the others." in plain(found[0].evidence)
    assert "Try an earlier checkpoint" in page
    told = report_facts(run)["audits"][0]["advice"]
    assert [each["title"] for each in told] == titles(found)
    assert told[1]["evidence"] == plain(found[1].evidence)


def test_every_advice_has_a_number_of_the_results(tmp_path):
    repeated = Finding("repeated_members", "note", "some repeat", {"count": 7})
    *_, found = advised(tmp_path, {"spv_wbc": 2.0}, n=600, provenance=RECIPE, findings=[repeated])
    assert "Take repeated records out of the training data" in titles(found)
    for each in found:
        numbers = [part for part in each.evidence if isinstance(part, Number)]
        assert numbers
        assert all(number.source for number in numbers)


def test_nothing_found_with_few_records_asks_for_more(tmp_path):
    *_, found = advised(tmp_path, {"loss": 0.0, "spv_wbc": 0.0}, n=60)
    assert titles(found) == ["Audit more records before you conclude anything"]
    assert "An AUROC up to 0." in plain(found[0].evidence)
    assert found[0].command is None  # all that there are were audited
    assert "All that there are were audited" in found[0].how
    run, _, cut = advised(tmp_path / "cut", {"loss": 0.0}, n=60, settings={"mia_max_samples": 60})
    words = shlex.split(cut[0].command)
    count = next(part for part in cut[0].evidence if isinstance(part, Number) and part.style == "count")
    assert json.loads(words[words.index("--metadata") + 1])["mia_max_samples"] == count.value > 60
    assert [word for word in words if "mia_max_samples" not in word] == [
        word for word in command(run, mia_max_samples=1) if "mia_max_samples" not in word
    ]
    *_, enough = advised(tmp_path / "many", {"loss": 0.0}, n=2000)
    assert enough == []


def test_nobody_is_asked_for_fewer_records_than_there_are(tmp_path):
    """An estimate near the limit keeps it from being ruled out, however many records a null target would take."""
    *_, audit, found = advised(tmp_path, {"loss": 0.2, "spv_wbc": 0.2}, n=310)
    assert judge(audit).as_a_whole == "none_found"
    assert audit.strongest.auroc.high > 0.6
    [asked] = found
    assert "takes about" not in plain(asked.evidence)
    assert f"The estimate itself, {audit.strongest.auroc.value:.3f}, lies above guessing" in plain(asked.evidence)


def of_one_document(offset):
    """Scores of noise, lower by `offset` in all that belongs to one document, which holds half of the members."""

    def scores(records, rng):
        return rng.normal(size=len(records)) - offset * np.array([record.cluster == "big" for record in records])

    return scores


def uneven(n=500):
    records = list(fake_records(n, n))
    members = [place for place, record in enumerate(records) if record.is_member]
    for place in members[: n // 2]:
        records[place] = dataclasses.replace(records[place], cluster="big")
    return records


def test_an_estimate_below_guessing_is_not_called_one_above(tmp_path):
    """As many documents as it takes, but one of them has half of the members: others are needed, not more."""
    write_run(tmp_path, [fake_audit({"loss": of_one_document(1.0)}, records=uneven(), findings=())])
    run = read_latest(tmp_path)
    audit = run.audits[0]
    assert audit.strongest.auroc.value < 0.5 < 0.6 < audit.strongest.auroc.high
    (found,) = advice(run, audit, judge(audit))
    assert found.title == "Audit other documents before you conclude anything"
    # (250 + 250)^2 / (250^2 + 250 * 1^2) = 3.98
    assert "they tell no more than about 3 equally large ones" in plain(found.evidence)
    assert "above guessing" not in plain(found.evidence)


def test_without_any_score_it_asks_why(tmp_path):
    nobody = {"loss": lambda records, rng: np.full(len(records), np.nan)}
    *_, (found,) = advised(tmp_path, nobody, n=600)
    assert found.title == "Find out why no record has a score"
    assert plain(found.evidence).startswith("None of 1,200 records has a score: ")


def test_what_advises_another_training_is_what_was_found(tmp_path):
    """Few records were memorised: the AUROC shows nothing, and is no evidence for anything."""
    _, audit, found = advised(tmp_path, {"spv_wbc": Few(0.05, 6.0)}, n=600)
    assert not audit.strongest.auroc.excludes(0.5)
    (less,) = (each for each in found if each.title == "Try a training that tells less")
    assert plain(less.evidence).startswith("Windows, SPV reference has TPR at 1 % FPR 0.0")


def test_a_broken_split_comes_first_and_alone(tmp_path):
    findings = [
        Finding("blind_above_chance", "warning", "the blind baseline sees the classes"),
        Finding("length_shift", "warning", "members and non-members differ in length: and more"),
    ]
    *_, found = advised(tmp_path, {"spv_wbc": 2.0}, n=600, provenance=RECIPE, findings=findings)
    assert titles(found) == ["Draw members and non-members anew"]
    assert "members and non-members differ in length" in found[0].how


def test_a_bound_that_is_not_shown(tmp_path, undrawn):
    run, audit, found = advised(tmp_path, {"loss": 0.0}, n=100, settings={"mia_max_auroc": 0.56})
    assert titles(found)[0] == "Audit more records, to show the bound on the AUROC"
    sentence, [held] = bound_sentence(audit), hold(audit, Bound.of(audit)).held
    assert sentence.startswith("The declared bound is not shown: AUROC")
    assert "The declared bound" in (page := render(run))
    assert held.in_words() in page
    assert bound_sentence(advised(tmp_path / "none", {"loss": 0.0})[1]) is None


def test_canaries_above_the_bound(tmp_path):
    *_, found = advised(tmp_path, {"spv_wbc": 4.0}, n=200, canary=True)
    assert "Train with differential privacy" in titles(found)
    assert "above 1." in plain(next(each for each in found if "differential" in each.title).evidence)
    allowed = advised(tmp_path / "allowed", {"spv_wbc": 4.0}, n=200, canary=True, settings={"mia_max_epsilon": 50})
    assert "Train with differential privacy" not in titles(allowed[2])


@pytest.mark.parametrize("epochs", [1.0, None, "many"])
def test_one_pass_or_an_unknown_recipe_advises_no_checkpoint(tmp_path, epochs):
    *_, found = advised(tmp_path, {"spv_wbc": 2.0}, n=600, provenance={"finetune": {"epochs": epochs}})
    assert "Try an earlier checkpoint" not in titles(found)


def test_names_of_findings_are_text(tmp_path, undrawn):
    evil = [
        Finding("blind_above_chance", "warning", "x"),
        Finding("length_shift", "warning", "<img src=x>: more"),
    ]
    run, *_ = advised(tmp_path, {"spv_wbc": 2.0}, findings=evil)
    assert "<img" not in render(run)


def test_advice_is_a_value(tmp_path):
    *_, found = advised(tmp_path, {"loss": 0.0}, n=60)
    assert dataclasses.replace(found[0]) == found[0]


@pytest.mark.parametrize(
    ("strengths", "n", "settings", "title", "evidence"),
    [
        ({"spv_wbc": 2.0}, 300, {"mia_max_auroc": 0.6}, "the declared bound is exceeded", "below 0.6 was declared"),
        (
            {"loss": 0.3},
            150,
            {"mia_max_auroc": 0.56},
            "Train it to tell less, to show the bound",
            "is not below the 0.56",
        ),
        (
            {"loss": 0.0},
            150,
            {"mia_max_epsilon": 2},
            "Make it possible to hold the bound on epsilon",
            "these records are no canaries",
        ),
    ],
)
def test_every_bound_that_is_not_shown_to_hold_asks_for_something(
    tmp_path, undrawn, strengths, n, settings, title, evidence
):
    run, audit, found = advised(tmp_path, strengths, n=n, settings=settings)
    [held] = hold(audit, Bound.of(audit)).held
    assert held.outcome != "within"
    asked = next(each for each in found if title in each.title)
    assert evidence in plain(asked.evidence)
    assert "Nothing that these numbers ask for" not in render(run)


def test_canaries_ask_for_no_change_of_records(tmp_path):
    _, audit, found = advised(tmp_path, {"spv_wbc": 4.0}, n=200, canary=True, provenance=RECIPE)
    assert titles(found) == ["Train with differential privacy"]
    assert "which canaries this model was trained on" in judge(audit).headline


def test_epsilon_below_its_bound_is_shown_by_no_audit(tmp_path):
    *_, found = advised(tmp_path, {"spv_wbc": 1.0}, n=200, canary=True, settings={"mia_max_epsilon": 50})
    assert "Show the bound on epsilon by the training" in titles(found)


def test_a_leak_of_an_unknown_recipe_is_not_left_without_a_word(tmp_path):
    """Found as a whole, of nobody in particular."""
    *_, audit, found = advised(tmp_path, {"spv_wbc": 0.8}, n=60)
    assert judge(audit).as_a_whole == "evidence"
    assert "Try a training that tells less" in titles(found)


def test_a_command_stands_once(tmp_path):
    *_, found = advised(tmp_path, {"spv_wbc": 2.0}, n=600)
    assert [each.title[:4] for each in found] == ["Look", "Try "]
    assert found[0].command
    assert found[1].command is None


def test_members_below_guessing_ask_for_a_look_at_the_labels(tmp_path):
    *_, audit, found = advised(tmp_path, {"spv_wbc": -2.0, "loss": -2.0}, n=300)
    assert judge(audit).as_a_whole == "reversed"
    assert titles(found) == ["Check which records are members"]


def test_a_bound_above_which_the_estimate_lies_asks_for_no_more_records(tmp_path):
    *_, found = advised(tmp_path, {"loss": 0.3}, n=150, settings={"mia_max_auroc": 0.56})
    assert titles(found)[0] == "Train it to tell less, to show the bound on the AUROC"
    assert not any(title.startswith("Audit more") for title in titles(found))
    assert found[0].how.startswith("Train fewer passes")  # nothing stands out that could be taken out
