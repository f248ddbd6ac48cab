"""Work on JSON values that is done once for equal ones: the tasks of a results file repeat most of what they say."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from marshal import dumps
from typing import Any


class Once:
    """Remembers values and what was made of them, for as long as it lives itself.

    What it gives out is shared by all who asked: nobody may change it.
    """

    def __init__(self) -> None:
        self._of_equal: dict[tuple[Hashable, bytes], Any] = {}
        self._made: dict[tuple[Hashable, int], tuple[Any, Any]] = {}

    def of_equal(self, name: Hashable, value: Any, make: Callable[[Any], Any]) -> Any:
        """`make(value)`, remembered by its name and by what the value is, down to its types: 1, 1.0 and true are three.

        Args:
            name: of what is made.
            value: a JSON value.
            make: makes it; what it raises is not remembered.
        """
        # marshal writes equal values as equal bytes up to version 2; later ones refer back to what is one object.
        place = name, dumps(value, 2)
        if place not in self._of_equal:
            self._of_equal[place] = make(value)
        return self._of_equal[place]

    def made(self, name: Hashable, value: Any, make: Callable[[Any], Any]) -> Any:
        """`make(value)`, remembered by its name and by which object the value is.

        Args:
            name: of what is made.
            value: best one that `of_equal` or `made` gave out: another is made anew, equal or not.
            make: makes it; what it raises is not remembered.
        """
        place = name, id(value)
        if place not in self._made:
            self._made[place] = value, make(value)  # kept beside it, so that no other object gets its id
        return self._made[place][1]
