from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.leaders import Leader, Strongest, best, in_one_line
from spvmia_plugin.metrics.several import compare, strongest
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.util.schema import as_json

LABELS = np.arange(400) < 200


def attack(shift, seed):
    return np.random.default_rng(seed).standard_normal(400) + shift * LABELS


def width(leader):
    return leader.high - leader.low


def test_finds_the_largest_auroc_and_widens_its_interval():
    scores = {f"weak{k}": attack(0.0, k) for k in range(8)} | {"strong": attack(1.5, 9)}
    found = strongest(scores, LABELS)
    alone = summarise(scores["strong"], LABELS)
    assert found.auroc.attack == "strong"
    assert found.auroc.value == alone.auroc
    assert found.auroc.low < alone.auroc_interval[0]
    assert found.auroc.high > alone.auroc_interval[1]
    assert found.n_attacks == 9
    # between the single and the Bonferroni quantile of nine nearly independent attacks with three numbers each
    assert 2.8 < found.critical < 3.2


def test_one_attack_pays_for_its_three_numbers():
    scores = attack(1.0, 0)
    found, alone = strongest({"a": scores}, LABELS), summarise(scores, LABELS)
    assert 2.2 < found.critical < 2.45
    assert found.auroc.low < alone.auroc_interval[0]
    for metric, tpr in alone.tprs.items():
        leader = found.by_metric[metric.key]
        if metric.key == "tpr_at_0.1pct_fpr":
            assert "1000 are needed" in leader.reason
            continue
        assert leader.value == tpr.value
        assert leader.low <= tpr.interval[0] <= tpr.interval[1] <= leader.high


def test_copies_of_an_attack_cost_nothing():
    copies = strongest({f"a{k}": attack(1.0, 0) for k in range(10)}, LABELS)
    assert copies.critical == pytest.approx(strongest({"a": attack(1.0, 0)}, LABELS).critical, rel=0.02)


def test_each_metric_has_its_own_strongest_attack():
    """One tells all records apart a little, the other a tenth of the members for sure."""
    rng = np.random.default_rng(0)
    labels = np.arange(2000) < 1000
    tail = rng.standard_normal(2000) + 6 * (np.arange(2000) < 100)
    found = strongest({"whole": rng.standard_normal(2000) + 0.4 * labels, "tail": tail}, labels)
    assert found.auroc.attack == "whole"
    assert found.most_exposed.attack == "tail"
    assert found.low_end == "tpr_at_1pct_fpr"
    assert found.most_exposed.low > 0.05
    assert found.tpr_at_0_1pct_fpr.attack == "tail"
    assert strongest({"tail": tail[500:1500]}, labels[500:1500]).low_end == "tpr_at_1pct_fpr"
    fewer = np.r_[0:1000, 1000:1499]
    assert strongest({"tail": tail[fewer]}, labels[fewer]).low_end == "tpr_at_5pct_fpr"


def test_an_attack_told_apart_from_a_guess_goes_before_a_larger_number_that_is_not():
    sure, lucky = Leader("sure", 0.60, 0.52, 0.68), Leader("lucky", 0.65, 0.45, 0.80)
    assert best("auroc", [lucky, sure]) is sure
    assert best("auroc", [lucky, Leader("weak", 0.55, 0.49, 0.60)]) is lucky
    assert best("auroc", [Leader("none", reason="why")]).reason == "why"
    assert best("auroc", []).attack is None


def test_records_that_one_attack_cannot_score_are_left_out_of_that_attack_only():
    gaps = attack(2.0, 1)
    gaps[::7] = math.nan
    found = strongest({"gaps": gaps, "full": attack(0.0, 2), "constant": np.zeros(400)}, LABELS)
    kept = np.isfinite(gaps)
    alone = summarise(gaps[kept], LABELS[kept])
    assert found.auroc.attack == found.tpr_at_1pct_fpr.attack == "gaps"
    assert found.auroc.value == alone.auroc
    assert found.tpr_at_1pct_fpr.value == alone.tpr_at_1pct_fpr.value
    assert found.n_attacks == 3


def test_attacks_without_scores_of_both_classes_do_not_count():
    nothing = np.full(400, math.nan)
    one_class = np.where(LABELS, 1.0, math.nan)
    found = strongest({"nothing": nothing, "one_class": one_class}, LABELS)
    assert found.auroc.attack is None
    assert "no attack has scores of both classes" in found.auroc.reason
    assert found.n_attacks == 0
    written = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert [written["auroc"][key] for key in ("value", "low", "high")] == [None] * 3
    assert strongest({"nothing": nothing, "a": attack(1.0, 0)}, LABELS).n_attacks == 1


def test_single_documents_leave_no_interval():
    found = strongest({"a": attack(1.0, 0)}, LABELS, np.where(LABELS, 0, np.arange(400)))
    for leader in (found.auroc, found.most_exposed):
        assert leader.attack == "a"
        assert "two documents" in leader.reason
        assert math.isnan(leader.low)


def few_records(labels, n=1):
    """Scores of so many members and of so many others."""
    scores = np.full(len(labels), np.nan)
    for side in (labels, ~labels):
        scores[np.flatnonzero(side)[:n]] = np.arange(n) + 2.5 * side[0]
    return scores


@pytest.mark.parametrize(("n", "why"), [(1, "two documents"), (3, "too few documents with a score to be compared")])
def test_an_attack_that_scored_hardly_anything_takes_nothing_from_the_others(n, why):
    """It has no interval; theirs are what they are without it."""
    rng = np.random.default_rng(3)
    labels = np.arange(400) < 200
    scores = {"a": rng.normal(size=400) + labels, "b": rng.normal(size=400)}
    alone, beside = (compare(each, labels) for each in (scores, {"few": few_records(labels, n), **scores}))
    assert beside.critical == alone.critical
    for metric, of_attacks in alone.leaders.items():
        assert {name: beside.leaders[metric][name] for name in scores} == of_attacks
        assert math.isnan(beside.leaders[metric]["few"].high)
    found = beside.strongest()
    assert found.auroc == alone.strongest().auroc
    assert found.n_attacks == 3
    assert why in beside.extremes("auroc").reason
    nothing = strongest({"few": few_records(labels, n), "b": scores["b"]}, labels)
    assert (nothing.auroc.attack, math.isnan(nothing.auroc.high)) == ("b", False)


def test_attacks_on_few_documents_are_compared_with_each_other():
    rng = np.random.default_rng(3)
    labels = np.arange(12) < 6
    found = compare({"a": rng.normal(size=12) + labels, "b": few_records(labels, 4)}, labels)
    assert all(not math.isnan(leader.high) for leader in found.leaders["auroc"].values())


def test_documents_widen_the_interval():
    base = attack(1.0, 0)
    copies, labels = np.repeat(base, 4), np.repeat(LABELS, 4)
    by_document = strongest({"a": copies, "b": np.repeat(attack(0.0, 1), 4)}, labels, np.repeat(np.arange(400), 4))
    unaware = strongest({"a": copies, "b": np.repeat(attack(0.0, 1), 4)}, labels)
    assert width(by_document.auroc) > 1.8 * width(unaware.auroc)
    assert width(by_document.tpr_at_5pct_fpr) > 1.4 * width(unaware.tpr_at_5pct_fpr)


def test_in_one_line():
    sure = in_one_line(strongest({"a": attack(1.5, 0), "b": attack(0.0, 1)}, LABELS))
    assert sure.startswith("the strongest of 2 attacks: AUROC 0.8")
    assert "by a, a guess is ruled out; TPR at 5 % FPR 0." in sure
    assert "no evidence against a guess, 0.5" in in_one_line(strongest({"a": attack(0.0, 5)}, LABELS))
    assert "has no number: no attack has scores" in in_one_line(strongest({}, LABELS))


@pytest.mark.parametrize(
    ("low", "printed", "told"), [(0.5003, "0.5003", "a guess is ruled out"), (0.4998, "0.4998", "no evidence against")]
)
def test_what_is_said_of_a_guess_is_what_the_digits_say(low, printed, told):
    few = Leader("loss", 0.12, low / 10, 0.3)
    words = in_one_line(
        Strongest(auroc=Leader("loss", 0.556, low, 0.611), tpr_at_5pct_fpr=few, n_attacks=1, confidence=1)
    )
    assert f"AUROC 0.556 ({printed} to 0.611) by loss, {told}" in words
    assert f"TPR at 5 % FPR 0.120 ({float(printed) / 10:g} to 0.300) by loss, {told}" in words


def test_how_far_all_attacks_reach_to_either_side():
    found = compare({"a": attack(1.0, 0), "b": attack(-1.0, 1), "none": np.full(400, math.nan)}, LABELS)
    reach, leaders = found.extremes("auroc"), found.leaders["auroc"]
    assert (reach.value, reach.least) == (leaders["a"].value, leaders["b"].value)
    assert found.turned_round == leaders["b"]


def few_exposed(others, seed=0, members=400, exposed=16):
    """4 % of the members far above everybody, which an FPR of 1 % shows and one of 5 % hardly does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(members + others) < members
    scores = rng.standard_normal(members + others)
    scores[:exposed] += 5
    return scores, labels


def test_the_most_exposed_are_read_where_enough_others_stand_behind_the_attack():
    scores, labels = few_exposed(600)
    assert strongest({"spv": scores, "loss": scores - 9.0 * (labels == 0)}, labels).low_end == "tpr_at_1pct_fpr"
    nothing = np.random.default_rng(1).standard_normal(1000)
    for others, key in ((500, "tpr_at_1pct_fpr"), (499, "tpr_at_5pct_fpr")):
        few = np.where(np.cumsum(~labels) > others, math.nan, nothing)
        assert strongest({"loss": few}, labels).low_end == key
    # By those behind the leader, however many another attack has scored.
    few = np.where(np.cumsum(~labels) > 120, math.nan, nothing + labels)
    assert strongest({"spv": few, "loss": nothing}, labels).low_end == "tpr_at_5pct_fpr"


def test_what_one_percent_alone_shows_is_not_denied():
    scores, labels = few_exposed(400)
    attacks = {"spv": scores, **{f"a{k}": np.random.default_rng(k).standard_normal(800) for k in range(1, 5)}}
    found = strongest(attacks, labels)
    assert not found.tpr_at_5pct_fpr.excludes(0.05)
    assert found.tpr_at_1pct_fpr.excludes(0.01)
    assert (found.low_end, found.most_exposed.attack) == ("tpr_at_1pct_fpr", "spv")


def test_what_five_percent_alone_shows_is_not_denied_either():
    """A tenth of the members a little above the others' best twentieth, and none above their best hundredth."""
    rng = np.random.default_rng(0)
    labels = np.arange(1200) < 600
    scores = rng.random(1200)
    scores[:120] = rng.uniform(0.955, 0.985, 120)
    found = strongest({"loss": scores}, labels)
    assert not found.tpr_at_1pct_fpr.excludes(0.01)
    assert found.tpr_at_5pct_fpr.excludes(0.05)
    assert found.low_end == "tpr_at_5pct_fpr"


def test_an_attack_that_is_the_wrong_way_round_is_told_whatever_another_one_finds():
    found = strongest({"spv": attack(-1.6, 1), "wbc": attack(-2.0, 2), "loss": attack(0.0, 3)}, LABELS)
    assert found.auroc.attack == "loss"
    assert (found.turned_round.attack, found.turned_round.is_turned_round()) == ("wbc", True)
    assert found.turned_round.value < 0.1
    assert "by wbc: members score lower, as with swapped labels" in in_one_line(found)
    assert as_json(found)["turned_round"]["attack"] == "wbc"
    without = strongest({"spv": attack(1.6, 1), "loss": attack(0.0, 3)}, LABELS)
    assert without.turned_round.attack is None
    assert "turned_round" not in as_json(without)
    assert "swapped" not in in_one_line(without)


def test_of_attacks_that_rule_nothing_out_the_interval_that_reaches_furthest_from_a_guess_counts():
    """A model whose attack lies at .43 gives away no less than one whose attack lies at .54."""
    found = strongest({"spv": attack(-0.2, 1), "loss": attack(0.0, 3)}, LABELS)
    assert (found.auroc.attack, found.turned_round.attack) == ("loss", None)
    assert found.lowest.low < 0.5 - (found.auroc.high - 0.5)
    assert found.furthest == ("lowest", found.lowest)
    assert found.lowest.reach == 1 - found.lowest.low
    assert as_json(found)["lowest"]["attack"] == "spv"
    older = replace(found, lowest=Leader())
    assert older.furthest == ("auroc", older.auroc)
    reversed_ = strongest({"spv": attack(-1.0, 1), "loss": attack(0.0, 3)}, LABELS)
    assert replace(reversed_, lowest=Leader()).furthest == ("turned_round", reversed_.turned_round)
    above = strongest({"spv": attack(1.0, 1), "loss": attack(0.3, 3)}, LABELS)
    assert above.furthest == ("auroc", above.auroc)
    assert "lowest" not in as_json(above)


def test_the_seed_decides_the_draws():
    scores = {"a": attack(1.0, 0), "b": attack(0.5, 1)}
    # By what is written: from Python 3.13 a NaN of a dataclass is not equal to itself.
    assert repr(strongest(scores, LABELS, seed=1)) == repr(strongest(scores, LABELS, seed=1))
    assert strongest(scores, LABELS, seed=1).critical != strongest(scores, LABELS, seed=2).critical


def test_lengths_have_to_match():
    with pytest.raises(SpvmiaError, match="got shapes"):
        strongest({"a": [1.0]}, LABELS)
