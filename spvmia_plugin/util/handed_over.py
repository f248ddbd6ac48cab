"""What plugins hand over, by its kind: NumPy's numbers and any sequence will do, texts and mappings for lists won't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from numbers import Integral
from typing import Any

ROUNDING = 1e-9
"""So far beyond 0 or 1 a share or a p-value may be, by rounding alone."""


def as_list(found: object) -> list[Any] | None:
    """What can be gone through in an order of its own, as a list; None of anything else."""
    is_list = isinstance(found, Iterable) and not isinstance(found, (str, bytes, Mapping, Set))
    return list(found) if is_list else None  # type: ignore[call-overload]


def is_whole_number(value: object) -> bool:
    """Whether something is a whole number, NumPy's too, and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)
