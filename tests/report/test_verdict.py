"""The verdict in words."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.evidence.folder import Signatory, write_evidence
from spvmia_plugin.leaderboard.board import loss
from spvmia_plugin.metrics.leaders import Leader
from spvmia_plugin.metrics.names import AUROC
from spvmia_plugin.report.advice import advice
from spvmia_plugin.report.claims import claims
from spvmia_plugin.report.html import render
from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.verdict import CANNOT_SHOW, _all_of_one, _of_units, judge, leads_as, ranges
from spvmia_plugin.results import Audit, read_latest
from spvmia_plugin.results.estimate import of_furthest
from tests.results.builders import WARNING, Few, fake_audit, fake_records, write_run


def judged(folder, strengths, **options):
    options.setdefault("findings", ())
    write_run(folder, [fake_audit(strengths, **options)])
    [audit] = read_latest(folder).audits
    return judge(audit)


@pytest.mark.parametrize(
    ("strength", "level", "words"),
    [
        (3.0, "evidence", "can often tell which records this model was trained on, and pick some out"),
        (1.2, "evidence", "clearly better than by chance"),
        (0.4, "evidence", "a little better than by chance"),
        (0.0, "none_found", "found no evidence"),
        (-1.5, "reversed", "score lower than others"),
        (None, "unresolved", "cannot say"),
    ],
)
def test_levels(tmp_path, strength, level, words):
    verdict = judged(tmp_path, {"spv": strength})
    assert verdict.level == level
    assert words in verdict.headline


@pytest.mark.parametrize(
    "strengths", [{"spv": -1.6, "wbc": -2.0, "loss": 0.0, "lira_base": -1.0}, {"wbc": -1.5, "loss": 0.0}]
)
def test_an_attack_that_finds_nothing_does_not_hide_that_another_is_the_wrong_way_round(tmp_path, strengths):
    write_run(tmp_path, [fake_audit(strengths, findings=(), records=fake_records(300, 300))])
    [audit] = read_latest(tmp_path).audits
    verdict = judge(audit)
    assert (verdict.level, verdict.as_a_whole) == ("reversed", "reversed")
    assert verdict.headline == (
        "Training records score lower than others under Windows, base reference. That points at the data, or at "
        "swapped labels."
    )
    said = plain(verdict.sentences[0])
    turned = audit.strongest.turned_round
    assert said.startswith("Shown one training record and one other, Windows, base reference names the training record")
    assert "who turns its answers round tells them apart" in said
    whole, _ = claims(audit, verdict)
    assert whole.tone == "doubt"
    assert "the furthest below guessing of" in plain(whole.sentence)
    assert "all of that is below the 50 of guessing" in plain(whole.certainty)
    assert float(plain(whole.big)) == pytest.approx(100 * turned.value, abs=0.5)


def test_an_attack_the_wrong_way_round_beside_one_that_finds_members_is_told_and_no_doubt(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 0.7, "wbc": -4.0}, findings=(), records=fake_records(300, 300))])
    [audit] = read_latest(tmp_path).audits
    verdict = judge(audit)
    assert verdict.level == "evidence"
    assert "others, often (by Windows, base reference, its answers turned round), and pick some" in verdict.headline
    said = plain(claims(audit, verdict)[0].certainty)
    assert "Windows, base reference tells more, its answers turned round: its AUROC, 0.0" in said
    turned = audit.strongest.turned_round
    told = (
        f" Turned round, Windows, base reference may pick out more: its AUROC, {turned.value:.3f} ({turned.low:.3f} to "
        f"{turned.high:.3f}), lies below guessing."
    )
    assert plain(verdict.sentences[1]).endswith(told)
    few = claims(audit, verdict)[1]
    assert plain(few.certainty).endswith(told)
    assert few.tone == "found"


def test_few_that_stand_out_beside_an_attack_the_wrong_way_round(tmp_path):
    """The AUROC of the one that finds them is a guess's, that of the other lies below: all are told, too."""
    strengths = {"spv": Few(0.06, 6.0), "wbc": -4.0}
    verdict = judged(tmp_path, strengths, records=fake_records(600, 600))
    assert (verdict.as_a_whole, verdict.most_exposed) == ("none_found", "evidence")
    assert verdict.headline == (
        "An outsider can pick out the most exposed of the training records; as a whole they score lower than others "
        "under Windows, base reference, which tells them apart for whoever turns its answers round."
    )


def test_nothing_found_is_no_relief_while_an_attack_lies_below_guessing(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 0.0, "wbc": -4.0}, findings=(), records=fake_records(600, 600))])
    [audit] = read_latest(tmp_path).audits
    _, few = claims(audit, judge(audit))
    assert few.tone == "doubt"


def with_strongest(folder, others=500, **changed):
    """An audit whose record of the strongest attacks is changed."""
    write_run(folder, [fake_audit({"spv": 1.2, "loss": 0.3}, findings=(), records=fake_records(500, others))])
    [audit] = read_latest(folder).audits
    strongest = replace(audit.mia_audit.strongest, **changed)
    return Audit([replace(task, mia_audit=replace(task.mia_audit, strongest=strongest)) for task in audit.tasks])


def test_a_few_exposed_records_are_evidence_whatever_the_auroc_says(tmp_path):
    """5 % memorised: the AUROC is a guess's, and yet an attack picks out 8 of 100."""
    audit = with_strongest(
        tmp_path,
        auroc=Leader("spv", 0.52, 0.48, 0.56, task="spv_mia_custom"),
        tpr_at_1pct_fpr=Leader("loss", 0.08, 0.05, 0.11, task="loss_mia_custom"),
    )
    verdict = judge(audit)
    assert (verdict.level, verdict.as_a_whole, verdict.most_exposed) == ("evidence", "none_found", "evidence")
    assert (
        "can pick out the most exposed of the training records, but not tell them apart as a whole" in verdict.headline
    )
    assert "cannot be ruled out" in plain(verdict.sentences[0])
    few = "Of 100 training records, the attack that picks out most (Loss) finds about 8 (5 to 11) while wrongly "
    assert plain(verdict.sentences[1]).startswith(few)


def test_an_auroc_without_a_tail_does_not_say_that_records_can_be_picked_out(tmp_path):
    audit = with_strongest(
        tmp_path,
        auroc=Leader("spv", 0.91, 0.88, 0.93, task="spv_mia_custom"),
        tpr_at_1pct_fpr=Leader("spv", 0.003, 0.0, 0.02, task="spv_mia_custom"),
    )
    verdict = judge(audit)
    assert (verdict.level, verdict.as_a_whole, verdict.most_exposed) == ("evidence", "evidence", "none_found")
    assert verdict.headline.startswith("As a whole, training records can be told from others, often; that single ones")
    assert verdict.headline.endswith("is not shown.")


@pytest.mark.parametrize("metric", ["auroc", "tpr_at_1pct_fpr"])
@pytest.mark.parametrize("missing", ["value", "low", "high"])
def test_an_interval_without_an_end_tells_nothing(tmp_path, undrawn, metric, missing):
    """Whoever shares a results file may have lost a number of it: the rest can't be drawn, and shows nothing."""
    write_run(tmp_path, [fake_audit({"spv": 1.2, "loss": 0.3}, findings=(), records=fake_records(500, 500))])
    [results] = tmp_path.rglob("results*.json")
    raw = json.loads(results.read_text())
    for config in raw["configs"].values():
        del config["metadata"]["mia_audit"]["strongest"][metric][missing]
    results.write_text(json.dumps(raw))
    run = read_latest(tmp_path)
    verdict = judge(run.audits[0])
    assert (verdict.as_a_whole if metric == "auroc" else verdict.most_exposed) == "unresolved"
    [claim] = [claim for claim in claims(run.audits[0], verdict) if claim.about == "The most exposed few"]
    assert claim.hundred == ["unknown"] * 100
    assert "cannot be told" in plain(claim.sentence)
    assert render(run)
    assert write_evidence(run, tmp_path / "evidence", Signatory())


def test_no_evidence_is_not_called_safe(tmp_path):
    verdict = judged(tmp_path, {"spv": 0.0, "loss": 0.0})
    text = plain(verdict.sentences[0])
    assert "no finding of safety" in text
    assert "cannot be ruled out" in text
    assert "safe" not in verdict.headline


def test_nothing_is_ever_proved(tmp_path):
    for strength in (3.0, 0.0):
        verdict = judged(tmp_path / str(strength), {"spv": strength})
        words = " ".join([verdict.headline, *map(plain, verdict.sentences)]).lower()
        assert not any(claim in words for claim in ("prove", "proof", "certain", "guarantee", "definitely"))
    assert "never proof" in CANNOT_SHOW


def test_the_strongest_is_named_with_the_interval_that_allows_for_choosing(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 1.2, "loss": 0.3}, findings=())])
    [audit] = read_latest(tmp_path).audits
    low, high = audit.strongest.auroc.low, audit.strongest.auroc.high
    sentence = plain(judge(audit).sentences[0])
    assert "strongest of 2 attacks (SPV-MIA)" in sentence
    assert f"({100 * low:.0f} to {100 * high:.0f})" in sentence
    assert "for both questions and for all 2 attacks at once" in ranges(audit)


def test_how_many_can_be_picked_out(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 2.0}, findings=(), records=fake_records(500, 500))])
    [audit] = read_latest(tmp_path).audits
    told = audit.told["strongest"]["tpr_at_1pct_fpr"]
    tpr, low, high = (100 * told[end] for end in ("value", "low", "high"))
    assert low > 10
    expected = f"Of 100 training records, the attack (SPV-MIA) finds about {tpr:.0f} ({low:.0f} to {high:.0f}) "
    assert plain(judge(audit).sentences[1]) == expected + "while wrongly accusing 1 in 100 others. Guessing finds 1."


def test_few_others_are_read_at_five_in_a_hundred_and_it_is_said(tmp_path):
    verdict = judged(tmp_path, {"spv": 2.0}, records=fake_records(150, 150))
    text = plain(verdict.sentences[1])
    assert "while wrongly accusing 5 in 100 others. Guessing finds 5." in text
    assert text.endswith("It is read at 5 in 100 because only 150 others were audited: 1 in 100 takes 500.")


def test_one_in_a_hundred_with_few_others_is_said(tmp_path):
    leader = Leader("spv", 0.08, 0.05, 0.11, task="spv_mia_custom")
    audit = with_strongest(tmp_path, others=150, low_end="tpr_at_1pct_fpr", tpr_at_1pct_fpr=leader)
    text = plain(judge(audit).sentences[1])
    assert text.endswith(
        "It is read at 1 in 100, where a guess is ruled out, although only 150 others were audited: "
        "as a rule that takes 500."
    )


def test_five_in_a_hundred_with_many_others_is_said(tmp_path):
    audit = with_strongest(tmp_path, low_end="tpr_at_5pct_fpr")
    text = plain(judge(audit).sentences[1])
    assert text.endswith("It is read at 5 in 100, where a guess is ruled out; at 1 in 100 it is not.")


def test_guessing_within_the_range_is_said(tmp_path):
    for strength, within in ((0.0, True), (3.0, False)):
        verdict = judged(tmp_path / str(strength), {"spv": strength}, records=fake_records(500, 500))
        assert ("Guessing finds 1, which lies within that range." in plain(verdict.sentences[1])) == within


def test_too_few_others_for_five_percent_are_told(tmp_path):
    verdict = judged(tmp_path, {"spv": 2.0}, records=fake_records(60, 15))
    assert "cannot be told: 15 non-members cannot resolve an FPR of 5 %" in plain(verdict.sentences[1])
    assert verdict.headline.endswith("that single ones can be picked out is not tested.")


def test_what_the_verdict_depends_on_makes_it_provisional(tmp_path):
    limits = replace(WARNING, code="too_few_nonmembers_0.1pct")
    doubtful = judged(tmp_path / "a", {"spv": 1.0}, findings=[WARNING, limits])
    assert doubtful.provisional == 1
    assert doubtful.headline.startswith("Provisionally, ")
    sound = judged(tmp_path / "b", {"spv": 1.0}, findings=[limits])
    assert sound.provisional == 0
    assert sound.headline[0].isupper()


def test_a_finding_about_one_attack_casts_doubt_where_that_is_the_strongest(tmp_path):
    overlap = replace(WARNING, code="candidate_overlaps_audited")
    strengths = {"spv": 1.0, "lira_candidate": 0.1}
    assert judged(tmp_path / "a", strengths, findings=[overlap]).provisional == 0
    assert judged(tmp_path / "b", {**strengths, "lira_candidate": 2.0}, findings=[overlap]).provisional == 1


def test_an_attack_that_leaves_out_many_records_makes_the_verdict_provisional_where_it_is_the_strongest(tmp_path):
    """Their scores are a choice of records; and nobody may take them for the model's doing."""

    def half_of_them(records, rng):
        members = np.array([record.is_member for record in records])
        scores = rng.normal(size=len(records)) + 2 * members
        return np.where(rng.random(len(records)) < 0.5, scores, math.nan)

    records = fake_records(300, 300)
    leads = judged(tmp_path / "a", {"spv": half_of_them, "loss": 0.1}, records=records)
    assert leads.provisional == 1
    assert leads.headline.startswith("Provisionally, ")
    page = render(read_latest(tmp_path / "a"))
    assert "spv has no score for 3" in page
    beside = judged(tmp_path / "b", {"spv": lambda *of: half_of_them(*of) * 0, "loss": 2.0}, records=records)
    assert beside.provisional == 0


def test_a_range_of_the_most_exposed_below_guessing_does_not_include_it(tmp_path):
    write_run(tmp_path, [fake_audit({"loss": -1.2}, findings=(), records=fake_records(600, 600))])
    [audit] = read_latest(tmp_path).audits
    assert audit.strongest.most_exposed.high < 0.01
    _, few = claims(audit, judge(audit))
    assert "all of that is below the 1 of guessing, so nothing was found." in plain(few.certainty)


def test_the_strongest_of_those_that_rule_a_guess_out_is_called_that(tmp_path):
    """Another attack's estimate is larger, of so few records that it tells nothing."""

    def few_records(records, rng):
        members = np.array([record.is_member for record in records])
        scores = rng.normal(size=len(records)) + members
        return np.where(np.arange(len(records)) < 24, scores, math.nan)

    write_run(tmp_path, [fake_audit({"loss": few_records, "spv": 0.5}, records=fake_records(600, 600), findings=())])
    [audit] = read_latest(tmp_path).audits
    assert audit.strongest.auroc.attack == "spv"
    assert audit.tasks[0].metrics["auroc"] > audit.strongest.auroc.value
    verdict = judge(audit)
    assert "other, the strongest that rules a guess out, of 2 attacks (SPV-MIA)" in plain(verdict.sentences[0])
    assert "one, the strongest that rules a guess out, of 2 attacks (SPV-MIA)" in plain(
        claims(audit, verdict)[0].sentence
    )


def test_the_strongest_that_rules_nothing_out_is_not_said_to(tmp_path):
    """Its own row, summed in another order, was larger by one bit in results of earlier versions."""
    write_run(tmp_path, [fake_audit({"loss": 0.2, "spv": -0.1}, records=fake_records(60, 60), findings=())])
    [audit] = read_latest(tmp_path).audits
    leader = audit.strongest.auroc
    assert not leader.excludes(0.5)
    for less in (0.0, 1e-16):
        assert leads_as(audit, AUROC, replace(leader, value=leader.value - less)) == ""
    assert ", the strongest of 2 attacks (" in plain(judge(audit).sentences[0])


def test_one_that_leads_by_its_interval_alone_is_said_to(tmp_path):
    """The other scored too few records for one, and has a larger estimate."""

    def five_records(records, rng):
        members = np.array([record.is_member for record in records])
        return np.where(np.arange(len(records)) < 10, members + 0.1 * rng.normal(size=len(records)), math.nan)

    write_run(tmp_path, [fake_audit({"loss": five_records, "spv": 0.0}, records=fake_records(600, 600), findings=())])
    [audit] = read_latest(tmp_path).audits
    assert (audit.strongest.auroc.attack, audit.tasks[0].metrics["auroc"]) == ("spv", 1.0)
    assert ", the strongest that has an interval, of 2 attacks (" in plain(judge(audit).sentences[0])


def test_what_is_possible_where_nothing_was_found_is_what_board_and_evidence_say(tmp_path):
    """.44 of an attack that rules nothing out may be .66 for whoever turns its answers round."""
    write_run(tmp_path, [fake_audit({"spv_wbc": -0.4, "loss": 0.0}, findings=())])
    [audit] = read_latest(tmp_path).audits
    assert audit.strongest.turned_round.attack is None
    upper = 1 - audit.compared.extremes("auroc").lowest
    assert upper > audit.compared.extremes("auroc").high
    verdict = judge(audit)
    said = f"up to {100 * upper:.0f}"
    by = ", the answers of Windows, SPV reference turned round,"
    assert f"{said} times in 100{by} cannot be ruled out" in plain(verdict.sentences[0])
    assert f"{said}{by} is possible." in plain(claims(audit, verdict)[0].certainty)
    assert loss(of_furthest(audit), "auroc").high == pytest.approx(upper - 0.5)
    write_run(tmp_path / "one", [fake_audit({"loss": -0.3}, findings=())])
    [audit] = read_latest(tmp_path / "one").audits
    assert ", its answers turned round, is possible." in plain(claims(audit, judge(audit))[0].certainty)


def units_of(count, blocks):
    """Records of customers, `blocks` of each."""
    records = fake_records(count, count, blocks=blocks)
    named = (replace(record, unit=f"u{record.cluster}", cluster=f"u{record.cluster}") for record in records)
    return tuple(named)


def test_what_all_records_of_one_show_together_is_evidence_although_records_one_by_one_show_none(tmp_path):
    """No "no evidence" above a card that says so, and no advice to audit more before anything is concluded."""
    write_run(tmp_path, [fake_audit({"spv_wbc": 0.35, "loss": 0.0}, records=units_of(100, 5), findings=(), seed=2)])
    run = read_latest(tmp_path)
    [audit] = run.audits
    together = audit.mia_audit.unit.together.strongest
    verdict = judge(audit)
    assert (verdict.as_a_whole, verdict.most_exposed, verdict.by_unit) == ("none_found", "none_found", "evidence")
    assert together.auroc.low > 0.5
    assert verdict.level == "evidence"
    assert "found no evidence that an outsider can tell training records from others; from all" in verdict.headline
    assert "records of one customer together one can tell whether they are among these, a little" in verdict.headline
    assert "all of another, the strongest of 2 attacks (Windows, SPV reference) names the" in plain(
        verdict.sentences[2]
    )
    titles = [each.title for each in advice(run, audit, verdict)]
    assert titles[0] == "Look at all records of one customer, not at single ones alone"
    assert not any(title.startswith("Audit more") for title in titles)
    few = replace(together, auroc=replace(together.auroc, low=0.4), tpr_at_5pct_fpr=replace(together.auroc, low=0.2))
    assert _all_of_one("customer", few).startswith("the most exposed can be picked out from all records of one")
    assert "wrongly accusing 5 in 100 others. Guessing finds 5." in plain(_of_units(audit, "customer", few))


def test_how_many_others_stand_behind_it_is_how_many_have_a_score(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 0.0}, records=fake_records(500, 500), findings=(), unscored_every=300)])
    [audit] = read_latest(tmp_path).audits
    others = audit.tasks[0].mia_audit.metrics.n_nonmembers
    assert others < 500
    assert f"because only {others} others have a score: 1 in 100 takes 500." in plain(judge(audit).sentences[1])


@pytest.mark.parametrize(
    ("membership", "words"), [("manifest", "known from"), ("declared", "declare"), ("assumed", "only assumed")]
)
def test_how_membership_is_known(tmp_path, membership, words):
    verdict = judged(tmp_path, {"spv": 1.0}, membership=membership)
    assert words in verdict.membership
    assert ("supposed" in plain(verdict.sentences[1])) == (membership == "assumed")
