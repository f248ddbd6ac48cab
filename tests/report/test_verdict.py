"""The verdict in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.verdict import CANNOT_SHOW, judge, ranges
from spvmia_plugin.results import Audit, read_latest
from tests.results.builders import WARNING, fake_audit, fake_records, write_run


def judged(folder, strengths, **options):
    options.setdefault("findings", ())
    write_run(folder, [fake_audit(strengths, **options)])
    [audit] = read_latest(folder).audits
    return judge(audit)


@pytest.mark.parametrize(
    ("strength", "level", "words"),
    [
        (3.0, "evidence", "can often tell which records"),
        (1.0, "evidence", "clearly better than by chance"),
        (0.3, "evidence", "a little better than by chance"),
        (0.0, "none_found", "found no evidence"),
        (-1.5, "reversed", "score lower than others"),
        (None, "unresolved", "cannot say"),
    ],
)
def test_levels(tmp_path, strength, level, words):
    verdict = judged(tmp_path, {"spv": strength})
    assert verdict.level == level
    assert words in verdict.headline


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
    low, high = audit.strongest.interval
    sentence = plain(judge(audit).sentences[0])
    assert "strongest of 2 attacks (SPV-MIA)" in sentence
    assert f"({100 * low:.0f} to {100 * high:.0f})" in sentence
    assert "having chosen the strongest of 2" in ranges(audit)


def test_how_many_can_be_picked_out(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 2.0}, findings=(), records=fake_records(500, 500))])
    [audit] = read_latest(tmp_path).audits
    [task] = audit.tasks
    low, high = task.told["metrics"]["tpr_at_1pct_fpr"]["interval"]
    tpr = task.metrics["tpr_at_1pct_fpr"]
    assert low > 0.1
    expected = f"Of 100 training records, it can pick out about {100 * tpr:.0f} ({100 * low:.0f} to {100 * high:.0f}) "
    assert plain(judge(audit).sentences[1]).startswith(expected + "while wrongly accusing 1 in 100 others")


def test_few_others_explain_a_range_that_reaches_zero(tmp_path):
    verdict = judged(tmp_path, {"spv": 2.0}, records=fake_records(150, 150))
    assert "because only 150 others were audited; from 370 on" in plain(verdict.sentences[1])


def test_guessing_within_the_range_is_said(tmp_path):
    for strength, within in ((0.0, True), (3.0, False)):
        verdict = judged(tmp_path / str(strength), {"spv": strength}, records=fake_records(500, 500))
        assert ("Guessing picks out 1, which lies within that range." in plain(verdict.sentences[1])) == within


def test_too_few_others_for_one_percent_are_told(tmp_path):
    verdict = judged(tmp_path, {"spv": 2.0}, records=fake_records(60, 60))
    assert "cannot be told: 60 non-members cannot resolve an FPR of 1 %" in plain(verdict.sentences[1])


def test_another_attack_that_picks_out_more_is_named(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 2.0, "loss": 1.0}, findings=())])
    [audit] = read_latest(tmp_path).audits
    stronger = replace(audit.tasks[1], metrics={**audit.tasks[1].metrics, "tpr_at_1pct_fpr": 0.99})
    text = plain(judge(Audit([audit.tasks[0], stronger])).sentences[2])
    assert text.startswith("Another attack, Loss, picks out most at that rate: about 99")
    assert "too high on average" in text


def test_what_the_verdict_depends_on_makes_it_provisional(tmp_path):
    limits = replace(WARNING, code="too_few_nonmembers_0.1pct")
    doubtful = judged(tmp_path / "a", {"spv": 1.0}, findings=[WARNING, limits])
    assert doubtful.provisional == 1
    assert doubtful.headline.startswith("Provisionally, an outsider")
    sound = judged(tmp_path / "b", {"spv": 1.0}, findings=[limits])
    assert sound.provisional == 0
    assert sound.headline.startswith("An outsider")


def test_a_finding_about_one_attack_casts_doubt_where_that_is_the_strongest(tmp_path):
    overlap = replace(WARNING, code="candidate_overlaps_audited")
    strengths = {"spv": 1.0, "lira_candidate": 0.1}
    assert judged(tmp_path / "a", strengths, findings=[overlap]).provisional == 0
    assert judged(tmp_path / "b", {**strengths, "lira_candidate": 2.0}, findings=[overlap]).provisional == 1


@pytest.mark.parametrize(
    ("membership", "words"), [("manifest", "known from"), ("declared", "declare"), ("assumed", "only assumed")]
)
def test_how_membership_is_known(tmp_path, membership, words):
    verdict = judged(tmp_path, {"spv": 1.0}, membership=membership)
    assert words in verdict.membership
    assert ("supposed" in plain(verdict.sentences[1])) == (membership == "assumed")
