"""Units and groups on the page, in the facts and in results files that other people wrote."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.report.advice import advice
from spvmia_plugin.report.claims import claims
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.verdict import judge
from spvmia_plugin.results import read_latest
from tests.report.conftest import reported
from tests.report.pages import Page
from tests.results.builders import fake_audit, fake_records, write_run


def records_of(n=60, each=3, groups=("north", "<b>süd</b>\u202e")):
    """Records of n units of each class, `each` of every unit, in two groups."""
    found = []
    for record in fake_records(n * each, n * each, blocks=each):
        unit = f"u{record.cluster.replace(':', '').replace('records.jsonl', ''):0>12}"
        place = int(record.cluster.rpartition(":")[2]) % 2
        found.append(replace(record, unit=unit, cluster=unit, group=groups[place] if groups else None))
    return found


STRONG = {"spv": 1.2, "loss": 0.1, "bag_of_words": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return reported(tmp_path_factory.mktemp("units"), fake_audit(STRONG, records=records_of()))


def told(run, task="spv_mia_custom"):
    return run.raw["configs"][task]["metadata"]["mia_audit"]


def test_results_hold_units_and_groups_and_readers_read_them(run):
    audit = run.run.audits[0].mia_audit
    unit = audit.unit
    assert (unit.members, unit.nonmembers, unit.median_records, unit.most_records) == (60, 60, 3, 3)
    assert unit.metrics.auroc > audit.metrics.auroc + 0.05
    assert unit.by_number == 0.5
    assert unit.together.attack == "spv"
    assert [point.records for point in unit.together.given] == [1, 2, 3, 5]
    assert unit.together.given[2].auroc == pytest.approx(unit.metrics.auroc)
    assert len(unit.together.exposed) == 20
    assert unit.together.exposed[0].above == 0
    auroc, tpr = unit.together.extremes
    assert (auroc.metric, auroc.attack, auroc.value) == ("auroc", "spv", unit.together.strongest.auroc.value)
    assert (auroc.low, auroc.high) == (unit.together.strongest.auroc.low, unit.together.strongest.auroc.high)
    assert tpr.metric == "tpr_at_1pct_fpr"
    assert auroc.least < auroc.value
    assert audit.groups.worst is None
    assert sorted(group.members + group.nonmembers for group in audit.groups.groups) == [180, 180]
    assert audit.groups.groups[0].auroc.task == "spv_mia_custom"
    # What all tasks share is one object: the first one's record has it too.
    assert told(run)["unit"]["together"] == told(run, "loss_mia_custom")["unit"]["together"]
    assert told(run)["unit"]["metrics"] != told(run, "loss_mia_custom")["unit"]["metrics"]


def test_the_top_of_the_page_says_what_several_records_of_one_tell(run):
    [audit] = run.run.audits
    whole, _, of_one = claims(audit, judge(audit))
    strongest = audit.mia_audit.unit.together.strongest
    assert of_one.about == "All records of one customer"
    assert of_one.tone == whole.tone
    assert float(plain(of_one.big)) == round(100 * strongest.auroc.value) > float(plain(whole.big))
    assert plain(of_one.terms[0]) == (
        f"AUROC {strongest.auroc.value:.3f} ({strongest.auroc.low:.3f} to {strongest.auroc.high:.3f})"
    )
    assert plain(of_one.terms[1]).startswith(f"TPR at 5 % FPR {strongest.most_exposed.value:.3f}")
    assert plain(of_one.sentence) in " ".join(Page(run.page).text.split())
    none = replace(audit, tasks=[replace(t, mia_audit=replace(t.mia_audit, unit=None)) for t in audit.tasks])
    assert len(claims(none, judge(none))) == 2


def test_whose_records_tell_more_together_is_advised(run):
    [audit] = run.run.audits
    found = {each.title: plain(each.evidence) for each in advice(run.run, audit, judge(audit))}
    strongest = audit.mia_audit.unit.together.strongest.auroc
    assert found["Look at all records of one customer, not at single ones alone"] == (
        f"By customer the AUROC is {strongest.value:.3f} ({strongest.low:.3f} to {strongest.high:.3f}), by record "
        f"{audit.strongest.auroc.value:.3f}."
    )


def test_too_few_units_are_said_to_be_unknown(tmp_path):
    few = reported(tmp_path, fake_audit({"loss": 1.0}, records=records_of(n=1, each=30)))
    [audit] = few.run.audits
    of_one = claims(audit, judge(audit))[2]
    assert (of_one.tone, plain(of_one.big)) == ("doubt", "unknown")
    assert plain(of_one.sentence).startswith("Nothing can be concluded: ")


def _points(run):
    """The heads of the rows of the curve."""
    table = run.page.partition("Records of each unit")[2].partition("</table>")[0]
    return re.findall(r'<th scope="row" class="n">(\w+)</th>', table)


def test_the_page_shows_them_and_every_number_leads_back(run):
    page = Page(run.page)
    headings = [text for _, text in page.headings]
    assert {"Whom records belong to", "Most exposed units", "Groups"} <= set(headings)
    assert 'The column "customer" says whom a record belongs to: 60 units of members' in page.text
    assert (
        "No group is shown to be exposed more than all others; how exposed they all are, the table says." in page.text
    )
    assert "<b>süd</b>\\u202e" in page.text
    assert told(run)["unit"]["together"]["exposed"][0]["unit"] in page.text
    assert ", ".join(_points(run)) == "1, 2, 3, 5, all"
    sources = [source for _, source, _ in page.numbers if "/unit/" in source or "/groups/" in source]
    assert len(sources) > 50
    for value, source, _ in page.numbers:
        if "/unit/" not in source and "/groups/" not in source:
            continue
        _, task, *path = source.split("/")
        found = told(run, task)
        for step in path:
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert float(value) == found


def test_the_facts_have_them(run):
    facts = report_facts(run.run)["audits"][0]
    assert facts["attacks"][0]["unit"]["metrics"]["auroc"] == told(run)["unit"]["metrics"]["auroc"]
    assert facts["groups"]["n_attacks"] == 2


def test_the_worst_group_and_unequal_numbers_are_told(tmp_path, undrawn):
    records = [
        replace(record, group="hot" if record.is_member and place % 2 else "cold" if record.is_member else None)
        for place, record in enumerate(records_of(groups=None))
    ]
    records = [
        record if record.group else replace(record, group=("hot", "cold")[place % 2])
        for place, record in enumerate(records)
    ]
    shorter = [record for record in records if record.is_member or not record.id.endswith("#1")]
    audit = fake_audit({"spv": 1.0}, records=shorter)
    worse = audit[0].config["metadata"]["mia_audit"]["groups"]
    worse["worst"] = "hot"
    page = Page(reported(tmp_path, audit).page)
    assert "hot is exposed more than every other group" in page.text
    assert "How many records a unit has tells the classes apart by itself: AUROC 1.000" in page.text


def test_without_units_nothing_of_them_is_written(plain_run):
    audit = plain_run.raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]
    assert audit.keys().isdisjoint({"unit", "groups"})
    assert "Whom records belong to" not in plain_run.page
    assert "groups" not in report_facts(plain_run.run)["audits"][0]


def test_a_run_that_was_cut_off_has_no_statement_of_all_attacks(tmp_path, undrawn):
    audit = fake_audit(STRONG, records=records_of())
    for task in audit:
        found = task.config["metadata"]["mia_audit"]
        found["strongest"], found["groups"], found["unit"]["together"] = {}, {}, {}
    run = reported(tmp_path, audit)
    assert run.run.audits[0].mia_audit.unit.together is None
    assert run.run.audits[0].mia_audit.groups is None
    text = Page(run.page).text
    assert "Whom records belong to" in text
    assert "Most exposed units" not in text


def test_no_attack_with_a_score_by_unit(tmp_path, undrawn):
    run = reported(tmp_path, fake_audit({"lira_candidate": None}, records=records_of()))
    assert run.run.audits[0].mia_audit.unit.together.given == ()
    assert "No attack has a number by unit: no attack has scores of both classes." in Page(run.page).text


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["unit"]["together"]["strongest"]["auroc"].update(value=7),
        lambda told: told["unit"]["together"]["strongest"].update(low_end="auroc"),
        lambda told: told["groups"]["groups"][0]["auroc"].update(low=-1),
        lambda told: told["groups"]["groups"][0].update(low_end="nothing"),
        lambda told: told["unit"].update(column=3),
        lambda told: told.update(unit=[]),
    ],
)
def test_what_they_cannot_be_is_refused(tmp_path, change):
    audit = fake_audit({"spv": 1.0}, records=records_of())
    path = write_run(tmp_path, [audit])
    raw = json.loads(path.read_text())
    change(raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"])
    path.write_text(json.dumps(raw))
    with pytest.raises(SpvmiaError):
        read_latest(tmp_path)
