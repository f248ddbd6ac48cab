"""JSON as the standard has it: Python writes and reads NaN and the infinities, which are no JSON.

Here is decided what a number is, for options, manifests and results alike.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, NoReturn, TypeGuard

from spvmia_plugin.util.files import label

LARGEST = sys.float_info.max
"""JSON's whole numbers have no end, and Python reads them; a float does not hold more."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number, neither NaN nor infinite nor beyond a float, and not a truth value."""
    if type(value) is float:  # nearly all are
        return math.isfinite(value)
    return isinstance(value, Real) and not isinstance(value, bool) and bool(abs(value) <= LARGEST)  # type: ignore[operator]


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_unicode(text: str) -> bool:
    """Whether a text is valid Unicode: JSON can spell half a surrogate pair, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_finite(value: Any) -> float | None:
    """The first NaN or infinity in a value as JSON has them, lists and mappings searched through; None if none is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    parts = value.values() if isinstance(value, (dict, Mapping)) else value if isinstance(value, (list, tuple)) else ()
    for part in parts:
        if not isinstance(part, (str, int)) and (found := not_finite(part)) is not None:
            return found
    return None


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and the infinities, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_DIGITS = 4000
"""Python reads no longer whole numbers without a change of a global setting."""


def parse_whole(digits: str, most: int = _DIGITS) -> int | float:
    """A whole number of JSON; one of more digits becomes the float next to it, by default an infinity, which `is_whole`
    refuses."""
    return int(digits) if len(digits) <= most else float(digits)


def any_loads(text: str | bytes) -> Any:
    """Read JSON as Python does, NaN and the infinities included, of files and options that anybody may have written.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=parse_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def strict_loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, is nested too deeply, or holds NaN, an infinity, or a number that Python would read as
            one, such as 1e999.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_parse_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def utf8(value: Any) -> Any:
    """A JSON value whose texts UTF-8 can hold: a file name of other bytes becomes what `paths.label` makes of it."""
    if isinstance(value, Mapping):
        return {label(key) if isinstance(key, str) else key: utf8(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [utf8(inner) for inner in value]
    return label(value) if isinstance(value, str) else value
