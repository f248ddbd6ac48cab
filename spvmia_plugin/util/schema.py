"""Dataclasses as the schema of a JSON layout: written from their fields, read and checked against them.

A field's type says what is expected: `float` a finite number, `MaybeNumber` one or null (NaN here), `int` a count,
`str` a text, `Mapping` a mapping of anything, `tuple[X, ...]` a list, `tuple[X, X]` one of that length, another
dataclass, or any of them `| None`. Its key is its name, unless its metadata have a "key". What a file may lack has a
default. Keys that no field has are passed over: a later version may have written them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from spvmia_plugin.util.strict_json import finite, is_number, is_whole

MaybeNumber: TypeAlias = Annotated[float, "NaN is null"]
"""A number, NaN where there is none: null in JSON."""
LEFT_OUT = {"left out": True}
"""Metadata of a field that is not written where it has its default."""
OTHERS = {"others": True}
"""Metadata of a field for all keys that no other field has; they stand beside them."""

_LEAVES: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    float: ("a finite number", is_number),
    int: ("a count", lambda value: is_whole(value) and value >= 0),
    str: ("a text", lambda value: isinstance(value, str)),
    tuple[str, ...]: (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    ),
    Mapping: ("a mapping", lambda value: isinstance(value, Mapping)),
}


class Misfit(ValueError):
    """What does not fit the schema, in words."""


def as_json(value: Any) -> Any:
    """A dataclass by its fields, whatever is in them, JSON-ready: null for NaN and the infinities."""
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    if not is_dataclass(value):
        return float(value) if isinstance(value, float) and math.isfinite(value) else finite(value)
    written: dict[str, Any] = {}
    for part in fields(value):
        inner = getattr(value, part.name)
        if "others" in part.metadata:
            written |= as_json(inner)
        elif "left out" not in part.metadata or inner is not part.default:
            written[_key(part)] = as_json(inner)
    return written


def read(schema: Any, value: Any, where: str = "") -> Any:
    """Read a JSON value as what a schema says.

    Args:
        schema: a dataclass, or the type of a field.
        value: of the file.
        where: its path there, for errors.

    Raises:
        Misfit: the first part that is not what it should be.
    """
    expected = _expected(schema)
    if expected.is_record:
        return read_fields(schema, value, where)
    if schema is Any:
        return value
    kind, inner, may_be_null = expected.kind, expected.inner, expected.may_be_null
    if may_be_null and value is None:
        return math.nan if kind is float else None
    if kind in _LEAVES:
        words, fits = _LEAVES[kind]
        if not fits(value):
            null = " or null" if may_be_null else ""
            raise Misfit(f"expected {words}{null} as {where}, got {type(value).__name__}")
        return float(value) if kind is float else tuple(value) if isinstance(value, list) else value
    if may_be_null:
        return read(kind, value, where)
    if inner[-1] is not Ellipsis and (not isinstance(value, list) or len(value) != len(inner)):
        raise Misfit(f"expected {len(inner)} values as {where}, got {type(value).__name__}")
    if not isinstance(value, list):
        raise Misfit(f"expected a list as {where}")
    return tuple(read(inner[0], item, where) for item in value)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a type asks for: looked up once, a results file is read by some ten thousand of them."""

    is_record: bool
    kind: Any
    inner: tuple[Any, ...]
    may_be_null: bool


@cache
def _expected(schema: Any) -> _Expected:
    inner = get_args(schema)
    may_be_null = schema == MaybeNumber or type(None) in inner
    kind = inner[0] if may_be_null else schema
    kind = {Literal: str, dict: Mapping, Mapping: Mapping}.get(get_origin(kind), kind)
    return _Expected(is_dataclass(schema), kind, inner, may_be_null)


def read_fields(schema: Any, value: Any, where: str = "", of_field: Callable[[Any, Any, str], Any] = read) -> Any:
    """Read a dataclass: each field from its key; what is left goes to the field for others.

    Args:
        schema: the dataclass.
        value: of the file.
        where: its path there, for errors.
        of_field: reads what stands in a field, given its type, the value and its path.

    Raises:
        Misfit: as `read`.
    """
    left = dict(read(Mapping, value, where or "the record"))
    found, others = {}, None
    for name, key, kind, is_needed, is_for_others in _parts(schema):
        if is_for_others:
            others = name
        elif key in left or is_needed:
            found[name] = of_field(kind, left.pop(key, None), f"{where}.{key}" if where else key)
    return schema(**found) if others is None else schema(**found, **{others: left})


@cache
def _parts(schema: Any) -> Sequence[tuple[str, str, Any, bool, bool]]:
    """Of each field its name, key and type, whether a file must have it, and whether it is for all other keys."""
    kinds = get_type_hints(schema, include_extras=True)
    return [
        (part.name, _key(part), kinds[part.name], part.default is MISSING, "others" in part.metadata)
        for part in fields(schema)
    ]


def _key(part: Field[Any]) -> str:
    return str(part.metadata.get("key", part.name))
