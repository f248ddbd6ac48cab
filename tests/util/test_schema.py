"""A schema writes what it reads, and says in words what does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from spvmia_plugin.util.schema import LEFT_OUT, OTHERS, MaybeNumber, Misfit, as_json, read


@dataclass(frozen=True)
class Inner:
    """A part."""

    kind: Literal["a", "b"]
    interval: tuple[MaybeNumber, MaybeNumber]
    reason: str | None = field(default=None, metadata=LEFT_OUT)
    low: MaybeNumber = field(default=math.nan, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Outer:
    """The whole."""

    number: float
    maybe: MaybeNumber
    count: int
    texts: tuple[str, ...]
    parts: tuple[Inner, ...]
    given: Mapping[str, Any] = field(metadata={"key": "given.in_full"})
    part: Inner | None = None
    anything: Any = None
    others: Mapping[str, Any] = field(default_factory=dict, metadata=OTHERS)


WHOLE = Outer(
    number=1.5,
    maybe=math.nan,
    count=2,
    texts=("x", "y"),
    parts=(Inner("a", (0.5, math.nan)), Inner("b", (0.1, 0.2), "why", 0.0)),
    given={"z": [1, None]},
    others={"later": 3},
)
JSON = {
    "number": 1.5,
    "maybe": None,
    "count": 2,
    "texts": ["x", "y"],
    "parts": [
        {"kind": "a", "interval": [0.5, None]},
        {"kind": "b", "interval": [0.1, 0.2], "reason": "why", "low": 0.0},
    ],
    "given.in_full": {"z": [1, None]},
    "part": None,
    "anything": None,
    "later": 3,
}


def test_what_is_written_is_read() -> None:
    written = as_json(WHOLE)
    assert list(written.items()) == list(JSON.items())
    again = read(Outer, json.loads(json.dumps(written, allow_nan=False)))
    assert as_json(again) == JSON
    assert again.parts[1] == WHOLE.parts[1]
    assert math.isnan(again.maybe)
    assert again.others == {"later": 3}


def test_a_number_that_json_cannot_hold_is_null_wherever_it_stands() -> None:
    assert as_json(Outer(math.inf, 0.0, 0, (), (), {"a": [math.nan]}))["given.in_full"] == {"a": [None]}


def test_what_a_file_may_lack_has_its_default() -> None:
    assert (
        read(Outer, {key: value for key, value in JSON.items() if key not in ("part", "anything", "later")}).part
        is None
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("number", None, "expected a finite number as number, got NoneType"),
        ("number", math.inf, "expected a finite number as number, got float"),
        ("maybe", "1", "expected a finite number or null as maybe, got str"),
        ("count", -1, "expected a count as count, got int"),
        ("count", True, "expected a count as count, got bool"),
        ("texts", ["x", 1], "expected a list of texts as texts, got list"),
        ("parts", {}, "expected a list as parts"),
        ("parts", ["x"], "expected a mapping as parts, got str"),
        ("parts", [{"kind": 1}], "expected a text as parts.kind, got int"),
        ("parts", [{"kind": "a", "interval": [1]}], "expected 2 values as parts.interval, got list"),
        ("given.in_full", [], "expected a mapping as given.in_full, got list"),
        ("part", 3, "expected a mapping as part, got int"),
    ],
)
def test_what_does_not_fit_is_told(key: str, value: object, words: str) -> None:
    with pytest.raises(Misfit, match=f"^{words}$"):
        read(Outer, {**JSON, key: value})


def test_the_whole_has_to_be_a_mapping() -> None:
    with pytest.raises(Misfit, match="expected a mapping as the record, got list"):
        read(Outer, [])
