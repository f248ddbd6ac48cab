"""JSON piece by piece: what an iterator gives is never held at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def streamed(value: Any, indent: int = 2, level: int = 0) -> Iterator[str]:
    """The text of a JSON value as `json.dumps(value, indent=2)` writes it; iterators are lists.

    Args:
        value: mappings with text keys, lists, iterators and scalars. Nothing that is not finite.
        indent: spaces of a level.
        level: of `value`.

    Raises:
        ValueError: a number is not finite.
    """
    if isinstance(value, Mapping):
        opened, closed, parts = "{", "}", ((f"{json.dumps(str(key))}: ", inner) for key, inner in value.items())
    elif isinstance(value, (list, tuple, Iterator)):
        opened, closed, parts = "[", "]", (("", inner) for inner in value)
    else:
        yield json.dumps(value, allow_nan=False)
        return
    inside = f"\n{' ' * indent * (level + 1)}"
    separator = opened
    for name, inner in parts:
        yield f"{separator}{inside}{name}"
        yield from streamed(inner, indent, level + 1)
        separator = ","
    yield f"{opened}{closed}" if separator == opened else f"\n{' ' * indent * level}{closed}"
