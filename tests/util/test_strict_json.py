"""What is no number nowhere passes for one: options, fine-tuning, manifests."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.config import PREFIX, AuditConfig
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.util.strict_json import any_loads, is_number, is_whole, not_finite, strict_loads
from tests.data.test_manifest import make_manifest

NONE = [math.inf, -math.inf, math.nan, 10**400]
ATTACK_OPTIONS = frozenset(option for attack in builtin_attacks() for option in attack.options.values())
NUMBERS = [f.name for f in dataclasses.fields(AuditConfig) if f.metadata and isinstance(f.default, (int, float))]
NUMBERS = [name for name in NUMBERS if not isinstance(getattr(AuditConfig(), name), bool)]


def test_what_a_number_is() -> None:
    assert [is_number(value) for value in (0, -1.5, 1e308, *NONE, True, "1", None)] == [True] * 3 + [False] * 7
    assert [is_whole(value) for value in (0, -1, 1.0, math.inf, True, "1")] == [True, True, False, False, False, False]
    assert not_finite({"a": [1, {"b": (2.0, -math.inf)}], "c": math.nan}) == -math.inf
    assert not_finite({"a": [1, "inf", None, True]}) is None


@pytest.mark.parametrize("loads", [any_loads, strict_loads])
@pytest.mark.parametrize("text", ["[" * 100_000, b'{"a":' * 100_000, "{", "\x00"])
def test_what_is_no_json_is_one_kind_of_error(loads: Any, text: str | bytes) -> None:
    """Nested too deeply included, which Python calls something else."""
    with pytest.raises(ValueError):  # noqa: PT011 - the library's own words
        loads(text)


def test_whole_numbers_of_any_length_are_read() -> None:
    assert any_loads("[12, -3, " + "9" * 300 + "]") == [12, -3, int("9" * 300)]
    assert any_loads("[" + "9" * 5000 + ", -" + "9" * 5000 + ", NaN, 1e999]")[:2] == [math.inf, -math.inf]


@pytest.mark.parametrize("value", NONE[:3])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_option_takes_what_json_cannot_hold(name: str, value: float) -> None:
    with pytest.raises(SpvmiaError, match=rf"^mia_{name}: expected .*, got (-?inf|nan); correct it in --metadata"):
        AuditConfig.from_metadata({PREFIX + name: value})


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(getattr(AuditConfig(), name), float)])
def test_no_option_takes_more_than_a_float_holds(name: str) -> None:
    with pytest.raises(SpvmiaError, match=f"^mia_{name}: expected a number"):
        AuditConfig.from_metadata({PREFIX + name: 10**400})


@pytest.mark.parametrize("name", [*sorted(ATTACK_OPTIONS), "mia_of_a_plugin"])
@pytest.mark.parametrize("value", [math.inf, [2, math.nan], {"deep": [-math.inf]}])
def test_no_option_of_an_attack_takes_it_either(name: str, value: object) -> None:
    """A plugin's attack may check nothing: what it is given is refused before."""
    with pytest.raises(SpvmiaError, match=rf"^{name}: expected finite numbers, got (-?inf|nan)"):
        AuditConfig.from_metadata({name: value}, ATTACK_OPTIONS | {"mia_of_a_plugin"})


@pytest.mark.parametrize("value", [*NONE, 10**30, "2", True])
@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(FinetuneConfig) if f.type in ("int", "float", "int | None")]
)
def test_fine_tuning_takes_numbers_only(field: str, value: Any) -> None:
    if value == 10**30 and field == "lora_alpha":
        pytest.skip("a float holds it, and it has no end")
    with pytest.raises(SpvmiaError, match=f"^--{field.replace('_', '-')}: expected"):
        FinetuneConfig("m", "d", "o", **{field: value})


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[-1e400]"])
def test_strict_loads_refuses_what_is_no_json_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no JSON number"):
        strict_loads(text)
    assert strict_loads('{"a": [1.5e3, 2, "NaN", "1e999"]}') == {"a": [1500.0, 2, "NaN", "1e999"]}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["training", "settings"])
def test_a_manifest_with_no_number_is_refused(tmp_path: Path, key: str, number: str) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    content = json.dumps(manifest.to_json() | {key: {"lr": "HERE"}})
    path = tmp_path / MANIFEST_NAME
    path.write_text(content.replace('"HERE"', number))
    with pytest.raises(SpvmiaError, match=rf"cannot be read as JSON \(ValueError: {number} is no JSON number\)"):
        read_manifest(path)


def test_a_training_that_diverged_leaves_a_manifest_that_can_be_read(tmp_path: Path) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl", training={"losses": [1.0, math.nan, math.inf]})
    write_manifest(manifest, tmp_path / MANIFEST_NAME)
    assert read_manifest(tmp_path).training == {"losses": [1.0, None, None]}
