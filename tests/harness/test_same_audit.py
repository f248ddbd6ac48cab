"""The same small audit gives the same AUROCs in every environment that the tests run in: versions change no number."""

from __future__ import annotations

import json

import pytest

from tests.same_audit import EXPECTED, audit, differences


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft, of transformers
def test_every_attack_gives_the_expected_auroc(tmp_path) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert len(expected) == 18
    assert differences(audit(tmp_path), expected) == {}


def test_a_number_that_moves_or_is_missing_is_told() -> None:
    assert differences({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.501}).keys() == {"b"}
    assert differences({}, {"a": 0.5}).keys() == {"a"}
