"""Hyper-parameters: which option sets which field, and what is refused."""

from __future__ import annotations

import math

import pytest

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.base import Attack, check_needs
from spvmia_plugin.attacks.calibrated import SpvWbc, Wbc
from spvmia_plugin.attacks.optimum import Icp
from spvmia_plugin.attacks.paraphrased import Spv
from spvmia_plugin.attacks.population import Recall, Rmia
from spvmia_plugin.attacks.reference_free import MinK, MinKPlusPlus
from spvmia_plugin.attacks.text_only import Ngram, Semantic
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Need, Role


def test_options_and_defaults() -> None:
    known = {attack.name: {o: getattr(attack(), f) for f, o in attack.options.items()} for attack in builtin_attacks()}
    windows = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)
    assert {name: options for name, options in known.items() if options} == {
        "min_k": {"mia_min_k": 0.2},
        "min_k_pp": {"mia_min_k_pp": 0.2},
        "icp": {"mia_icp_probes": 1},
        "ngram": {"mia_aggregate": "max", "mia_ngram_length": 3},
        "semantic": {"mia_aggregate": "max"},
        "wbc": {"mia_wbc_windows": windows},
        "spv_wbc": {"mia_wbc_windows": windows},
        "recall": {"mia_recall_shots": 7},
        "rmia": {"mia_rmia_a": 0.3},
        "spv": {"mia_spv_variant": "paper"},
        "candidate_wbc": {"mia_wbc_windows": windows},
        "both_wbc": {"mia_wbc_windows": windows},
        "learned": {"mia_shadow": None},
    }


@pytest.mark.parametrize(
    ("attack", "field", "values"),
    [
        (MinK, "share", [0, -0.1, 1.01, math.nan, "0.2", True, None]),
        (MinKPlusPlus, "share", [0, 2]),
        (Wbc, "windows", [(), [0], [2, -1], [2.5], [True], "23", 4, None]),
        (SpvWbc, "windows", [()]),
        (Recall, "shots", [0, -1, 1.5, True, "7", 10**6 + 1, 10**30]),
        (Icp, "probes", [0, -1, 1.5, True, "1", None, 10_001, 10**30]),
        (Ngram, "length", [0, -1, 1.5, True, "3", None]),
        (Ngram, "aggregate", ["min", "", None, 1]),
        (Semantic, "aggregate", ["median"]),
        (Rmia, "a", [-0.1, 1.1, math.nan, "0.3", True]),
        (Spv, "variant", ["Paper", "", None]),
    ],
)
def test_bad_values_name_the_option(attack: type[Attack], field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(SpvmiaError, match=rf"^{attack.options[field]}: expected .*, got .*; the default is"):
            attack(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("folds", 1), ("folds", 2.5), ("words", 0), ("looks", 0)])
def test_bad_values_of_the_blind_baseline(field: str, value: object) -> None:
    with pytest.raises(SpvmiaError, match=f"^bag_of_words {field}: expected a whole number"):
        BagOfWords(**{field: value})


def test_windows_from_json_become_a_tuple() -> None:
    attack = Wbc(windows=[2, 3])
    assert attack.windows == (2, 3)
    assert hash(attack) == hash(Wbc(windows=(2, 3)))


@pytest.mark.parametrize(
    ("needs", "got"),
    [
        ("target", "str"),
        (None, "NoneType"),
        ({Need(Role.TARGET): 1}, "dict"),
        ({"target"}, "one with str"),
        ([Need("target")], "one with Need"),
        ([Need(Role.TARGET, "text")], "one with Need"),
    ],
)
def test_needs_that_are_none_name_the_attack(needs: object, got: str) -> None:
    attack = type("Needy", (Attack,), {"name": "needy", "needs": needs})()
    expected = rf"^needy: expected a frozenset of Need\(role, view\) as needs, got {got}; correct the attack's plugin$"
    with pytest.raises(SpvmiaError, match=expected):
        check_needs(attack)
    check_needs(type("Fine", (Attack,), {"name": "fine", "needs": [Need(Role.TARGET)]})())
