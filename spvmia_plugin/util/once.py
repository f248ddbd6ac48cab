"""Work on JSON values that is done once for equal ones: the tasks of a results file repeat most of what they say."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from marshal import dumps
from typing import Any, TypeVar

T = TypeVar("T")


class Once:
    """Remembers values and what was made of them, for as long as it lives itself.

    What it gives out is shared by all who asked: nobody may change it.
    """

    def __init__(self) -> None:
        self._same: dict[bytes, Any] = {}
        self._made: dict[tuple[Hashable, int], tuple[Any, Any]] = {}

    def same(self, value: T) -> T:
        """The first JSON value that was equal to this one, down to its types: 1, 1.0 and true are three values."""
        # marshal writes equal values as equal bytes up to version 2; later ones refer back to what is one object.
        known: T = self._same.setdefault(dumps(value, 2), value)  # type: ignore[arg-type]
        return known

    def made(self, name: Hashable, value: Any, make: Callable[[Any], Any]) -> Any:
        """`make(value)`, remembered by its name and by which object the value is.

        Args:
            name: of what is made.
            value: best one that `same` or `made` gave out: another is made anew, equal or not.
            make: makes it; what it raises is not remembered.
        """
        place = name, id(value)
        if place not in self._made:
            self._made[place] = value, make(value)  # kept beside it, so that no other object gets its id
        return self._made[place][1]
