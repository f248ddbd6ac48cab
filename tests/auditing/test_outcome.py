"""The strongest attack of a run, from the results of all its tasks."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.reference_free import Loss, Zlib
from spvmia_plugin.auditing.outcome import Comparison, RecordResult, Results
from spvmia_plugin.metrics.several import strongest
from spvmia_plugin.records import Record
from spvmia_plugin.util.schema import as_json

RECORDS = [Record(f"d:{i // 2}#{i % 2 + 1}", "", is_member=i % 4 < 2, cluster=f"d:{i // 2}") for i in range(80)]
IDS = [record.id for record in RECORDS]
LABELS = np.array([record.is_member for record in RECORDS])
CLUSTERS = [record.cluster for record in RECORDS]


def scores(shift, seed):
    return np.random.default_rng(seed).standard_normal(80) + shift * LABELS


def results(values):
    return {key: RecordResult(None if np.isnan(v) else float(v)) for key, v in zip(IDS, values, strict=True)}


def test_the_last_task_fills_in_what_the_first_ones_already_hold():
    comparison = Comparison({"a": Loss(), "b": Zlib()}, seed=3)
    held = comparison.strongest
    weak, strong = scores(0.1, 0), scores(2.0, 1)
    comparison.add("a", results(weak), RECORDS)
    assert held == {}
    comparison.add("b", results(strong), RECORDS)
    order = np.argsort(IDS)
    clusters = [CLUSTERS[row] for row in order]
    expected = as_json(strongest({"a": weak[order], "b": strong[order]}, LABELS[order], clusters, seed=3))
    assert held["n_attacks"] == 2
    assert held["auroc"] == {**expected["auroc"], "attack": "zlib", "task": "b"}
    assert held["tpr_at_5pct_fpr"] == {**expected["tpr_at_5pct_fpr"], "attack": "zlib", "task": "b"}
    assert comparison.compared.leaders["auroc"]["a"].value < 0.7


def test_blind_attacks_are_not_compared():
    comparison = Comparison({"a": Loss(), "words": BagOfWords()}, seed=0)
    comparison.add("words", results(scores(9.0, 0)), RECORDS)
    assert comparison.strongest == {}
    comparison.add("a", results(scores(0.5, 0)), RECORDS)
    assert (comparison.strongest["auroc"]["task"], comparison.strongest["n_attacks"]) == ("a", 1)


def test_only_blind_attacks_leave_a_reason():
    comparison = Comparison({"words": BagOfWords()}, seed=0)
    comparison.add("words", results(scores(9.0, 0)), RECORDS)
    assert comparison.strongest["auroc"]["attack"] is None
    assert comparison.strongest["auroc"]["reason"]


def test_gathered_in_any_order_and_limited_to_other_records():
    """Ranks hand their items over one after the other; a task may have scored fewer records than another."""
    full, part = scores(1.0, 4), scores(1.5, 5)
    forward, backward = (Comparison({"a": Loss(), "b": Zlib()}, seed=0) for _ in range(2))
    half = dict(list(results(part).items())[:40])
    forward.add("a", results(full), RECORDS)
    forward.add("b", half, RECORDS)
    backward.add("b", dict(reversed(half.items())), RECORDS)
    backward.add("a", dict(reversed(results(full).items())), RECORDS)
    assert forward.strongest == backward.strongest
    gaps = np.where(np.arange(80) < 40, part, np.nan)
    assert forward.strongest["auroc"]["value"] == strongest({"a": full, "b": gaps}, LABELS, CLUSTERS).auroc.value
    assert forward.strongest["n_attacks"] == 2


@pytest.mark.parametrize("order", ["a ab words", "words ab a", "ab words a"])
def test_one_attack_under_two_names_is_tried_once(order):
    """As groups that overlap have it; another attack on other records or under other settings is another."""
    what = {"a": ("loss", 1), "ab": ("loss", 1), "words": ("words", 1)}
    attacks = {"a": Loss(), "ab": Loss(), "words": BagOfWords()}
    comparison, values, alone = Comparison(attacks, 0, what), results(scores(0.5, 0)), Comparison({"a": Loss()}, 0)
    told = [comparison.add(task, values, RECORDS) for task in order.split()]
    assert len([found for found in told if found is not None]) == 1  # and people are told of it once
    alone.add("a", values, RECORDS)
    assert comparison.strongest == alone.strongest
    assert comparison.strongest["n_attacks"] == 1
    first, twin = (comparison.compared.leaders["auroc"][task] for task in ("a", "ab"))
    assert twin == dataclasses.replace(first, task="ab")
    apart = Comparison(attacks, 0, {**what, "ab": ("loss", 2)})
    for task in order.split():
        apart.add(task, values, RECORDS)
    assert apart.strongest["n_attacks"] == 2


RESULTS = [
    RecordResult(None),
    RecordResult(-0.0, None, 0, 1e-300, -1.5e22),
    RecordResult(1 / 3, 'no "paraphrase", \u00fc\ud800\n', 7, -2.0, None),
    RecordResult(np.float64(0.1), "x", 3, None, 5),
    RecordResult(0.5, None, 3, -1.0, -2.0, 1e-7),
]


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_is_written_as_json_writes_it(result):
    told = dataclasses.asdict(result)
    if result.p_value is None:  # attacks that give none write what they always did
        del told["p_value"]
    assert result.to_json() == json.dumps(told)
    assert RecordResult.from_json(result.to_json()) == result


@pytest.mark.parametrize("field", ["score", "target", "reference"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_not_written(field, value):
    with pytest.raises(ValueError, match="finite"):
        dataclasses.replace(RecordResult(1.0), **{field: value}).to_json()


def test_results_are_gathered_part_by_part():
    found = Results({"a": RESULTS[0], "b": RESULTS[1]})
    found.add({"c": RESULTS[2]})
    found.add({})
    assert dict(found) == {"a": RESULTS[0], "b": RESULTS[1], "c": RESULTS[2]}
    assert found.unscored_by_reason() == {RESULTS[2].reason: 1}
