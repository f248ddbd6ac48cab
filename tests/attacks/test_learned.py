"""`learned`: its features against a second implementation, its scores against the formula, and what it must not see."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.attacks.base import NO_MOMENTS, SCORED_TOGETHER, AuditAttack
from spvmia_plugin.attacks.calibrated import SpvWbc
from spvmia_plugin.attacks.learned import LEAST_RECORDS, TOO_FEW, Learned, standardised
from spvmia_plugin.attacks.pooled import FEATURE_NAMES, NAMES, NOT_FINITE, features_of
from spvmia_plugin.attacks.reference_free import Loss
from spvmia_plugin.attacks.weights import FILE, VARIANTS, Card, Variant, Weights, names_of, shipped, write_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, TokenSignals, Unscored, View
from tests.attacks import naive_pooled
from tests.attacks.simulated import EVERY, simulate

TEXT = View.TEXT


def without(record: RecordSignals, *roles: Role) -> RecordSignals:
    return replace(record, tokens={key: value for key, value in record.tokens.items() if key[0] not in roles})


def with_role(record: RecordSignals, role: Role, signals: TokenSignals) -> RecordSignals:
    return replace(record, tokens={**record.tokens, (role, TEXT): signals})


@pytest.mark.parametrize("length", [1, 2, 3, 5, 18, 64, 1000])
@pytest.mark.parametrize("absent", [(), (Role.REFERENCE,), (Role.CANDIDATE,), (Role.REFERENCE, Role.CANDIDATE)])
def test_features_equal_a_second_implementation(length, absent):
    records, _ = simulate(3, length, seed=length)
    for record in (without(each, *absent) for each in records):
        expected = naive_pooled.features(record)
        blocks = [name for name, roles in (("reference", Role.REFERENCE), ("candidate", Role.CANDIDATE))
                  if roles not in absent]  # fmt: skip
        there = {"target", "base", *blocks, *(["both"] if len(blocks) == 2 else [])}
        assert expected.keys() == {name for block in there for name in NAMES[block]}
        found = Learned().features(record)
        for name, value in zip(FEATURE_NAMES, found, strict=True):
            assert value == pytest.approx(expected.get(name, math.nan), rel=1e-9, abs=1e-9, nan_ok=True), name


def test_features_under_a_mask_are_those_of_the_tokens_that_count():
    (record, *_), _ = simulate(2, 64)
    counted = np.arange(64) % 3 == 0
    masked = replace(record, tokens={key: each.where(counted) for key, each in record.tokens.items()})
    expected = naive_pooled.features(masked)
    assert Learned().features(masked) == pytest.approx([expected[name] for name in FEATURE_NAMES], rel=1e-9, abs=1e-9)


def test_degenerate_tokens():
    """Nothing differs; no wrong token; no spread; a window whose sum is exactly 0 is no vote."""
    flat = TokenSignals(np.zeros(8, np.float32), np.ones(8, bool), np.zeros(8, np.float32), np.zeros(8, np.float32))
    same = RecordSignals("a", {(role, TEXT): flat for role in EVERY})
    expected = naive_pooled.features(same)
    assert Learned().features(same) == pytest.approx([expected[name] for name in FEATURE_NAMES])
    assert expected["base.ratio"] == 1
    assert expected["target_base.window_4"] == 0
    assert expected["target_base.errors"] == 0.5
    assert expected["target_base.band_0_positive"] == 0.5


def test_a_record_has_the_same_bits_whatever_others_there_are():
    records = [*simulate(60, 24, seed=1)[0], *simulate(40, (1, 40), seed=2)[0]]
    records[3], records[70] = without(records[3], Role.REFERENCE), without(records[70], Role.CANDIDATE)
    together = Learned().rows(records)
    assert len({len(record.tokens[Role.TARGET, TEXT]) for record in records}) > 20
    for record, row in zip(records, together, strict=True):
        assert np.array_equal(Learned().features(record).astype(np.float32), row, equal_nan=True)
        assert np.array_equal(Learned().rows([record])[0], row, equal_nan=True)
        assert np.array_equal(AuditAttack.rows(Learned(), [record])[0], row, equal_nan=True)


def test_long_records_are_pooled_some_at_a_time(monkeypatch):
    records, _ = simulate(9, 50)
    whole = features_of(records)
    monkeypatch.setattr("spvmia_plugin.attacks.pooled.TOKENS_AT_A_TIME", 120)
    assert all(np.array_equal(one, other) for one, other in zip(features_of(records), whole, strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: without(r, Role.TARGET), "no text signals of the target model"),
        (lambda r: without(r, Role.BASE), "no text signals of the base model"),
        (lambda r: replace(without(r, Role.BASE), missing={(Role.BASE, TEXT): "the target is the base"}),
         "the target is the base"),
        (lambda r: with_role(r, Role.TARGET, replace(r.of(Role.TARGET), mean=None)), NO_MOMENTS),
        (lambda r: with_role(r, Role.TARGET, replace(r.of(Role.TARGET), std=None)), NO_MOMENTS),
        (lambda r: with_role(r, Role.REFERENCE, r.of(Role.BASE).where(np.arange(30) < 9)),
         "the two models tokenise the text differently"),
        (lambda r: with_role(r, Role.BASE, r.of(Role.BASE).where(np.arange(30) < 9)),
         "the two models tokenise the text differently"),
        (lambda r: with_role(r, Role.CANDIDATE, replace(r.of(Role.BASE), logprob=np.full(30, np.nan, np.float32))),
         NOT_FINITE),
        (lambda r: with_role(r, Role.BASE, replace(r.of(Role.BASE), logprob=np.full(30, -np.inf, np.float32))),
         NOT_FINITE),
    ],
)  # fmt: skip
def test_records_of_which_nothing_can_be_said(change, reason):
    records, _ = simulate(40, 30)
    records[5] = change(records[5])
    assert Learned().rows(records)[5] == Unscored(reason)
    with pytest.raises(MissingSignal, match=reason):
        Learned().features(records[5])
    scores = Learned().score_many(records)
    assert scores[5] == Unscored(reason)
    assert all(isinstance(score, float) for number, score in enumerate(scores) if number != 5)
    rest = Learned().score_many([record for number, record in enumerate(records) if number != 5])
    assert rest == [score for number, score in enumerate(scores) if number != 5]


def test_features_beyond_a_float_are_told():
    (record, *others), _ = simulate(30, 4)
    huge = record.of(Role.TARGET)
    moment = np.full(4, -3e38, np.float32)
    changed = with_role(record, Role.TARGET, TokenSignals(huge.logprob, huge.top1, moment, np.zeros(4, np.float32)))
    assert Learned().score_many([changed, *others])[0] == Unscored("a feature is infinite")
    assert AuditAttack.rows(Learned(), [changed]) == [Unscored("a feature is infinite")]


def test_the_score_is_the_weighted_sum_of_standardised_features():
    records, _ = simulate(101, (8, 40))
    table = np.array(Learned().rows(records))
    variant = shipped().variants["both"]
    expected = np.zeros(101)
    for name, weight in zip(variant.names, variant.weights, strict=True):
        column = table[:, FEATURE_NAMES.index(name)].astype(float)
        below = [sum(other < value for other in column) for value in column]
        alike = [sum(other == value for other in column) for value in column]
        ranks = [(less + equal / 2) / 101 for less, equal in zip(below, alike, strict=True)]
        expected += weight * math.sqrt(12) * (np.array(ranks) - 0.5)
    assert Learned().score_audit(table) == pytest.approx(list(expected), rel=1e-6, abs=1e-9)
    assert Learned().score_many(records) == Learned().score_audit(table)


def test_a_feature_counts_by_its_rank():
    column = np.arange(100.0)
    z = standardised(column)
    assert z.mean() == pytest.approx(0, abs=1e-12)
    assert z.std() == pytest.approx(1, abs=1e-3)
    assert np.array_equal(z, standardised(3 * column + 7))  # any scale
    wild = column.copy()
    wild[99] = 1e9
    assert np.array_equal(standardised(wild), z)  # it is the largest, as before, and no more
    alike = standardised(np.array([2.0, 1.0, 2.0, 3.0]))
    assert alike == pytest.approx(np.sqrt(12) * (np.array([0.5, 0.125, 0.5, 0.875]) - 0.5))
    assert standardised(np.full(7, 0.1)).tolist() == [0] * 7
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(standardised(column[order]), z[order])


def test_scores_do_not_depend_on_the_order():
    records, _ = simulate(150, (3, 30), seed=4)
    order = np.random.default_rng(1).permutation(150)
    straight = Learned().score_many(records)
    assert Learned().score_many([records[i] for i in order]) == [straight[i] for i in order]


def fitted(*variants: str) -> Weights:
    return Weights(Card("made"), {name: Variant(names_of(name), (0.1,) * len(names_of(name))) for name in variants})


def attack_with(weights: Weights, folder) -> Learned:
    write_weights(folder / FILE, weights)
    return Learned(shadow=str(folder))


@pytest.mark.parametrize(
    ("roles", "variant"),
    [
        (EVERY, "both"),
        ((Role.TARGET, Role.BASE, Role.CANDIDATE), "candidate"),
        ((Role.TARGET, Role.BASE, Role.REFERENCE), "reference"),
        ((Role.TARGET, Role.BASE), "base"),
    ],
)
def test_the_variant_goes_by_the_models_that_there_are(roles, variant, tmp_path):
    records, _ = simulate(40, 20, roles=roles)
    attack = attack_with(fitted(*VARIANTS), tmp_path)
    table = np.array(attack.rows(records))
    assert attack.told(table) == {
        "weights": "shadow", "digest": attack.weights.digest, "variant": variant, "card": "made",
    }  # fmt: skip
    assert all(isinstance(score, float) for score in attack.score_audit(table))
    # The features of models that are not there count for nothing.
    alone = attack_with(fitted(variant), tmp_path)
    assert alone.score_many(records) == attack.score_many(records)
    assert Learned().told(table)["weights"] == "shipped"
    assert "fitted_on" not in Learned().told(table)


def test_the_card_may_name_the_shadows_that_weights_were_fitted_on(tmp_path):
    weights = fitted("base")
    named = replace(weights, card=replace(weights.card, settings={"shadows": ["a", "b"]}))
    attack = attack_with(named, tmp_path)
    assert attack.fitted_on == ("a", "b")
    assert attack.told(np.zeros((0, len(FEATURE_NAMES)), dtype=np.float32))["fitted_on"] == ["a", "b"]


def test_a_base_that_stands_in_for_the_reference_is_no_reference():
    records, _ = simulate(40, 20)
    stands_in = [with_role(record, Role.REFERENCE, record.of(Role.BASE)) for record in records]
    table = np.array(Learned().rows(stands_in))
    assert Learned().variant(table) == "candidate"
    lacking = [without(record, Role.REFERENCE) for record in records]
    assert Learned().score_many(stands_in) == Learned().score_many(lacking)


def test_weights_of_other_models_are_told(tmp_path):
    records, _ = simulate(40, 20, roles=(Role.TARGET, Role.BASE))
    attack = attack_with(fitted("both", "reference"), tmp_path)
    assert attack.score_many(records) == [Unscored("the weights are for other models: both, reference")] * 40
    assert attack.told(np.array(attack.rows(records)))["variant"] is None
    both, _ = simulate(40, 20)
    assert attack_with(fitted("reference", "base"), tmp_path).variant(np.array(attack.rows(both))) == "reference"


def test_a_record_without_a_model_that_the_others_have_is_unscored():
    records, _ = simulate(60, 20)
    records[7], records[8] = without(records[7], Role.REFERENCE), without(records[8], Role.CANDIDATE)
    scores = Learned().score_many(records)
    assert scores[7] == Unscored("no signals of the reference, which other records have")
    assert scores[8] == Unscored("no signals of the candidate reference, which other records have")
    rest = [score for number, score in enumerate(scores) if number not in (7, 8)]
    assert rest == Learned().score_many([record for number, record in enumerate(records) if number not in (7, 8)])


def test_a_table_with_a_hole_leaves_that_record_out():
    records, _ = simulate(40, 20)
    table = np.array(Learned().rows(records))
    rest = Learned().score_audit(np.delete(table, 3, axis=0))
    table[3, FEATURE_NAMES.index("target_base.q50")] = np.nan
    scores = Learned().score_audit(table)
    assert scores.pop(3) == Unscored(NOT_FINITE)
    assert scores == rest


def test_too_few_records_have_no_score():
    records, _ = simulate(LEAST_RECORDS, 20)
    assert all(isinstance(score, float) for score in Learned().score_many(records))
    assert Learned().score_many(records[1:]) == [Unscored(TOO_FEW)] * (LEAST_RECORDS - 1)
    assert Learned().score(records[0]) == Unscored(SCORED_TOGETHER)
    assert Learned().score_many([]) == []
    with pytest.raises(MissingSignal, match=SCORED_TOGETHER):
        Learned().score_record(records[0])


def test_needs():
    assert Learned().needs == {Need(role, moments=role is Role.TARGET) for role in EVERY}


# What the shipped weights must and must not see, on drawn audits.


@pytest.mark.parametrize(
    ("tokens", "scale", "learnt"), [(64, 1.0, 0.25), (128, 2.0, 0.15), ((20, 300), 0.5, 0.25), (12, 1.0, 0.6)]
)
def test_members_of_audits_of_other_length_and_strength_are_told(tokens, scale, learnt):
    records, labels = simulate(400, tokens, seed=11, scale=scale, learnt=learnt)
    scores = np.array(Learned().score_many(records))
    assert auroc(scores, labels) > auroc(np.array(SpvWbc().score_many(records)), labels) > 0.6
    assert abs(np.median(scores)) < scores.std()


@pytest.mark.parametrize("roles", [EVERY, EVERY[:3], (*EVERY[:2], Role.CANDIDATE), EVERY[:2]])
def test_a_target_that_was_not_trained_on_members_stays_at_chance(roles):
    found = []
    for seed in range(12):
        records, labels = simulate(200, 48, seed=seed, trained=False, roles=roles)
        found.append(auroc(np.array(Learned().score_many(records)), labels))
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found, ddof=1) / math.sqrt(12) + 0.005


def test_of_texts_alone_it_sees_less_than_the_loss():
    """Members are harder texts, and nobody trained on them: the score is of the models, not of the text."""
    found = {Learned: [], Loss: []}
    for seed in range(4):
        records, labels = simulate(200, 48, seed=seed, trained=False, harder=0.3)
        for attack, values in found.items():
            values.append(auroc(np.array(attack().score_many(records)), labels))
    assert abs(np.mean(found[Loss]) - 0.5) > 0.15
    assert abs(np.mean(found[Learned]) - 0.5) < abs(np.mean(found[Loss]) - 0.5) / 2


def test_config_is_json_and_names_the_shadow(tmp_path):
    assert json.loads(json.dumps(Learned().config())) == {"shadow": None}
    attack = attack_with(fitted("base"), tmp_path)
    assert attack.config() == {"shadow": str(tmp_path)}
    assert attack == Learned(shadow=str(tmp_path))


@pytest.mark.parametrize("value", ["", " ", 3, True, ["a"], "a\0b"])
def test_a_shadow_that_is_no_folder_is_refused(value):
    with pytest.raises(SpvmiaError, match=r"^mia_shadow: expected a folder that 'spvmia shadow' made, got .*; the def"):
        Learned(shadow=value)
