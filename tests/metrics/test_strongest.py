from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.several import strongest
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.util.schema import as_json

LABELS = np.arange(400) < 200


def attack(shift, seed):
    return np.random.default_rng(seed).standard_normal(400) + shift * LABELS


def test_finds_the_largest_auroc_and_widens_its_interval():
    scores = {f"weak{k}": attack(0.0, k) for k in range(8)} | {"strong": attack(1.5, 9)}
    found = strongest(scores, LABELS)
    alone = summarise(scores["strong"], LABELS)
    assert found.name == "strong"
    assert found.auroc == alone.auroc
    assert found.interval[0] < alone.auroc_interval[0]
    assert found.interval[1] > alone.auroc_interval[1]
    assert found.n_attacks == 9
    # between the single and the Bonferroni quantile of nine nearly independent attacks
    assert 2.6 < found.critical < 2.9


def test_one_attack_has_its_ordinary_interval():
    found = strongest({"a": attack(1.0, 0)}, LABELS)
    assert found.interval == summarise(attack(1.0, 0), LABELS).auroc_interval


def test_copies_of_an_attack_cost_nothing():
    copies = strongest({f"a{k}": attack(1.0, 0) for k in range(10)}, LABELS)
    assert copies.critical == pytest.approx(strongest({"a": attack(1.0, 0)}, LABELS).critical, rel=0.02)


def test_records_that_one_attack_cannot_score_are_left_out_of_that_attack_only():
    gaps = attack(2.0, 1)
    gaps[::7] = math.nan
    found = strongest({"gaps": gaps, "full": attack(0.0, 2), "constant": np.zeros(400)}, LABELS)
    kept = np.isfinite(gaps)
    assert found.name == "gaps"
    assert found.auroc == summarise(gaps[kept], LABELS[kept]).auroc
    assert found.n_attacks == 3


def test_attacks_without_scores_of_both_classes_do_not_count():
    nothing = np.full(400, math.nan)
    one_class = np.where(LABELS, 1.0, math.nan)
    found = strongest({"nothing": nothing, "one_class": one_class}, LABELS)
    assert found.name is None
    assert found.n_attacks == 0
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["interval"] == [None, None]
    assert strongest({"nothing": nothing, "a": attack(1.0, 0)}, LABELS).n_attacks == 1


def test_single_documents_leave_no_interval():
    found = strongest({"a": attack(1.0, 0)}, LABELS, np.where(LABELS, 0, np.arange(400)))
    assert found.name == "a"
    assert "two documents" in found.reason
    assert math.isnan(found.interval[0])


def test_documents_widen_the_interval():
    base = attack(1.0, 0)
    copies, labels = np.repeat(base, 4), np.repeat(LABELS, 4)
    by_document = strongest({"a": copies, "b": np.repeat(attack(0.0, 1), 4)}, labels, np.repeat(np.arange(400), 4))
    unaware = strongest({"a": copies, "b": np.repeat(attack(0.0, 1), 4)}, labels)
    assert np.diff(by_document.interval) > 1.8 * np.diff(unaware.interval)


def test_the_seed_decides_the_draws():
    scores = {"a": attack(1.0, 0), "b": attack(0.5, 1)}
    assert strongest(scores, LABELS, seed=1) == strongest(scores, LABELS, seed=1)
    assert strongest(scores, LABELS, seed=1).critical != strongest(scores, LABELS, seed=2).critical


def test_lengths_have_to_match():
    with pytest.raises(SpvmiaError, match="got shapes"):
        strongest({"a": [1.0]}, LABELS)
