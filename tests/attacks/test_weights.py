"""Weights of `learned`: written, read back, and refused in one line where they are none."""

from __future__ import annotations

import json
import re

import pytest

from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.attacks.weights import (
    FILE,
    VARIANTS,
    Card,
    Variant,
    Weights,
    names_of,
    read_weights,
    shipped,
    write_weights,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.schema import Misfit

MADE = Weights(
    Card("two audits of texts", ({"base": "b", "members": 3},), 6, {"strength": 0.1}, {}, {"numpy": "2"}, "2026-11-26"),
    {"base": Variant(("target_base.mean", "base.mean"), (0.5, -0.25))},
)


def test_weights_are_read_back_as_they_were(tmp_path):
    write_weights(tmp_path / FILE, MADE)
    first = (tmp_path / FILE).read_bytes()
    assert read_weights(tmp_path / FILE) == MADE
    write_weights(tmp_path / FILE, read_weights(tmp_path / FILE))
    assert (tmp_path / FILE).read_bytes() == first


def test_the_digest_is_of_the_numbers():
    other = Weights(Card("others"), MADE.variants)
    assert re.fullmatch("[0-9a-f]{16}", MADE.digest)
    assert other.digest == MADE.digest
    assert Weights(MADE.card, {"base": Variant(MADE.variants["base"].names, (0.5, -0.24))}).digest != MADE.digest
    assert Weights(MADE.card, {"reference": MADE.variants["base"]}).digest != MADE.digest


def test_the_shipped_weights_have_all_variants_and_a_card():
    weights = shipped()
    assert weights.variants.keys() == VARIANTS.keys()
    assert all(set(variant.names) <= set(names_of(name)) for name, variant in weights.variants.items())
    assert weights.card.summary
    assert "\n" not in weights.card.summary
    assert weights.card.records > 0
    assert weights.card.audits
    assert weights.card.control.keys() == VARIANTS.keys()
    assert shipped() is weights


def changed(**changes):
    return json.dumps({**MADE.to_json(), **changes}).encode()


def variant(names=("base.mean",), weights=(0.5,), name="base"):
    return changed(variants={name: {"names": list(names), "weights": list(weights)}})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no JSON"),
        (changed()[:-40], "no JSON"),  # truncated
        (b"\x80\x04pickle", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1, 2]", "expected a mapping as the file, got list"),
        (b"{}", "expected a count as format, got NoneType"),
        (changed(format=2), "format 2, where this version has 1"),
        (changed(format="1"), "expected a count as format, got str"),
        (changed(features=7), "features 7, where this version has 2"),
        (changed(features=1), "features 1, where this version has 2"),  # counted by deviations, not by ranks
        (changed(card=None), "expected a mapping as card, got NoneType"),
        (changed(card={"records": 3}), "expected a text as card.summary, got NoneType"),
        (changed(variants=[]), "expected a mapping as variants, got list"),
        (changed(variants={}), "expected variants out of both, candidate, reference, base, got 'none'"),
        (variant(name="most"), "expected variants out of both, candidate, reference, base, got 'most'"),
        (variant(weights=(0.5, 1)), "expected a weight for each feature of base, got 2 for 1"),
        (variant((), ()), "expected a weight for each feature of base, got 0 for 0"),
        (variant(("base.mean", "base.mean"), (0.5, 1)), "expected each feature of base once"),
        (variant(("base.mode",)), "expected features of base, got an unknown one: 'base.mode'"),
        (variant(("both.p",)), "expected features of base, got one that it has no model for: 'both.p'"),
        (variant(weights=(float("nan"),)), "no JSON (ValueError: NaN is no JSON number)"),
        (variant(weights=(float("inf"),)), "no JSON (ValueError: Infinity is no JSON number)"),
        (variant(weights=(10**400,)), "expected a finite number as variants.base.weights, got int"),
        (variant(weights=("0.5",)), "expected a finite number as variants.base.weights, got str"),
        (variant(weights=(None,)), "expected a finite number as variants.base.weights, got NoneType"),
        (variant(names=(3,)), "expected a list of texts as variants.base.names, got list"),
        (changed(variants={"base": [1]}), "expected a mapping as variants.base, got list"),
    ],
)
def test_files_that_are_none_are_refused_in_one_line(content, told, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(SpvmiaError) as refused:
        Learned(shadow=str(tmp_path))
    line = str(refused.value)
    assert line.startswith(f"mia_shadow: expected weights that this version reads, got {tmp_path / FILE} (")
    assert told in line
    assert line.endswith("); make them anew with 'spvmia shadow'")
    assert "\n" not in line


def test_a_folder_without_weights_is_refused(tmp_path):
    told = r"^mia_shadow: expected weights .* \(No such file or directory\); correct the path, or make them"
    with pytest.raises(SpvmiaError, match=told):
        Learned(shadow=str(tmp_path))
    with pytest.raises(SpvmiaError, match=r"^--weights: expected weights .*; correct the path, or name another$"):
        read_weights(tmp_path / FILE, "--weights", "name another")


def test_weights_check_themselves():
    with pytest.raises(Misfit, match="expected variants out of"):
        Weights(Card("none"), {})
