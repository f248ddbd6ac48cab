"""What to mend before anything is concluded: failed conditions, and a base that tells members as well."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from spvmia_plugin.checks import Finding
from spvmia_plugin.report.advice import advice
from spvmia_plugin.report.base import told_by_base
from spvmia_plugin.report.claims import claims
from spvmia_plugin.report.numbers import Number, plain
from spvmia_plugin.report.verdict import judge
from spvmia_plugin.results import read_latest
from tests.leaderboard.models import audit_of, audited
from tests.results.builders import fake_audit, fake_records, write_run


def advised(folder, strengths, *findings, n=150, **options):
    write_run(folder, [fake_audit(strengths, records=fake_records(n, n), findings=findings, **options)])
    run = read_latest(folder)
    [audit] = run.audits
    return advice(run, audit, judge(audit))


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("look_shift", "Draw members and non-members anew"),
        ("source_mix", "Draw members and non-members anew"),
        ("exact_duplicates", "Take what stands in both classes out of one of them"),
        ("blind_below_chance", "Take what stands in both classes out of one of them"),
        ("prompts_overlap_audited", "Take what is audited out of the held-out texts"),
        ("membership_assumed", "Make sure who was a member"),
        ("tokenizer_changed", "Let the target read the records as in its training"),
        ("a_plugins_own", "Mend the condition that did not hold"),
    ],
)
def test_a_condition_that_did_not_hold_is_mended_before_the_training_is_changed(tmp_path, code, title):
    finding = Finding(code, "warning", "60 of 60 non-members are members: AUROC too low")
    first, *others = advised(tmp_path, {"spv_wbc": 0.8}, finding)
    assert first.title == title
    assert plain(first.evidence) == "Of 300 audited records: 60 of 60 non-members are members."
    assert any(isinstance(part, Number) for part in first.evidence)
    assert not any(each.title.startswith("Try ") for each in others)


def test_conditions_of_one_kind_are_one_advice(tmp_path):
    shifts = [Finding(code, "warning", f"{code}: more") for code in ("length_shift", "look_shift")]
    found = advised(tmp_path, {"spv_wbc": 0.8}, *shifts)
    assert [plain(each.evidence) for each in found if each.title.startswith("Draw")] == [
        "Of 300 audited records: length_shift; look_shift."
    ]


def test_records_without_a_score_ask_why(tmp_path):
    assert "Find out why records have no score" in [
        each.title for each in advised(tmp_path, {"spv_wbc": 0.8}, unscored_every=10)
    ]


def test_conditions_that_the_intervals_allow_for_or_that_touch_other_numbers_are_no_advice(tmp_path):
    few = Finding("few_documents", "warning", "one class has records of 15 documents")
    other = Finding("too_few_nonmembers_0.1pct", "warning", "150 cannot resolve 0.1 %")
    *_, less = found = advised(tmp_path, {"spv_wbc": 0.8}, few, other)
    assert less.title == "Try a training that tells less"
    assert not any("condition" in each.title for each in found)


def test_an_estimate_that_may_be_a_guess_is_not_said_to_need_another_training(tmp_path):
    found = advised(tmp_path, {"loss": 0.0}, n=60, settings={"mia_max_auroc": 0.52})
    assert found[0].title == "Audit more records, to tell whether the bound on the AUROC holds"
    assert "is not below the 0.52 that was declared, and may be a guess's: its range begins at 0.4" in plain(
        found[0].evidence
    )
    assert not any(each.title.startswith("Train it") for each in found)


def test_advice_on_a_bound_says_what_the_gate_says(tmp_path):
    auroc, tpr, *_ = advised(
        tmp_path, {"wbc": -1.0, "loss": 0.0}, n=500, settings={"mia_max_auroc": 0.6, "mia_max_tpr_at_1pct": 0.05}
    )
    assert "and not shown to hold: an attack may be as low as" in plain(auroc.evidence)
    assert "and can't be shown to hold: wbc has AUROC" in plain(tpr.evidence)
    assert plain(tpr.evidence).endswith("(swapped labels? a reference that saw the members?).")
    assert tpr.how == "Then audit again with the same bound."
    run = read_latest(tmp_path)
    bound = next(claim for claim in claims(run.audits[0], judge(run.audits[0])) if "bound" in claim.about)
    assert plain(bound.big) == "in part not tested"


def with_base(folder, strengths):
    """A target beside an audit of its base on the same records."""
    records = fake_records(300, 300)
    target = audited({"spv_wbc": 0.8, "loss": 0.3}, weights="tuned", records=records, findings=())
    base = audited(strengths, weights="base", records=records, findings=())
    for task in base:
        audit_of(task)["models"]["target"]["weights"] = audit_of(target[0])["models"]["base"]["weights"]
    write_run(
        folder,
        [base],
        model="./base",
        model_args={"pretrained": "./base"},
        date=datetime(2026, 11, 2, tzinfo=timezone.utc),
    )
    write_run(folder, [target], model="org/tuned")
    run = read_latest(folder)
    [audit] = run.audits
    [claim, *_] = claims(audit, judge(audit), run.base_of(audit))
    return plain(claim.terms[-1]), plain(claim.certainty), advice(run, audit, judge(audit))


def test_a_base_speaks_by_the_attack_that_reaches_furthest_as_on_the_board(tmp_path):
    """Its largest AUROC was told alone, below that of the target; the other one, turned round, lies above it."""
    terms, certainty, found = with_base(tmp_path, {"loss": -1.0, "spv_wbc": 0.3})
    assert terms.startswith("The base by itself, on the same records: AUROC 0.2")
    assert ") by Loss, the furthest from guessing of 2 attacks; turned round 0.7" in terms
    assert "The base tells them apart, too, before any of the fine-tuning" in certainty
    assert found[0].title == "Find out why the base tells members from others"
    assert terms.partition("AUROC")[2] in plain(found[0].evidence)


def test_a_base_that_tells_nothing_is_told_without_doubt(tmp_path):
    terms, certainty, found = with_base(tmp_path, {"loss": -0.2})
    assert terms.startswith("The base by itself, on the same records: AUROC 0.")
    assert " by Loss" in terms
    assert "The base" not in certainty
    assert not any("base" in each.title for each in found)
    assert told_by_base(None) == ()
