"""Whom a record belongs to, and which group it is of: read beside the text, never kept in clear.

What a column says of whom (a customer, an author) is replaced by a keyed hash as the row is read. Who has the data
finds the person behind a hash through the rows of its records; nobody else learns more than which records go together.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spvmia_plugin.data.formats import RowError
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Record
from spvmia_plugin.util.strict_json import is_unicode

MOST_GROUPS = 50
"""More groups than this are no groups: somebody named a column of persons by mistake."""
LONGEST_GROUP = 80
_DIGITS = 12

Owned = TypeVar("Owned", Record, Document)


@dataclass(frozen=True)
class Belonging:
    """The columns that say whom a row belongs to, and of which group it is.

    Attributes:
        unit: of whom; None where nobody asks.
        group: of the group; None likewise.
        key: of the hashes of units.
    """

    unit: str | None = None
    group: str | None = None
    key: bytes = field(default=b"", repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read beside the text."""
        return tuple(column for column in (self.unit, self.group) if column is not None)

    def option(self, column: str) -> str:
        """What names a column, for errors."""
        of_unit = (
            "mia_unit_column, or --unit-column of finetune and manifest, or unit_column= of the trainer's callback"
        )
        return of_unit if column == self.unit else "mia_group_column"

    def unit_of(self, value: Any) -> str:
        """The name of a unit in results: `u` and the first digits of `unit_hash` of what the column says.

        Raises:
            RowError: it says nothing.
        """
        return unit_name(unit_hash(self.key, _text(value, self.unit)))

    def group_of(self, value: Any) -> str:
        """The name of a group, as the column has it.

        Raises:
            RowError: it has none, or no name.
        """
        name = _text(value, self.group)
        if not is_unicode(name):
            raise RowError(f"expected valid Unicode in column {self.group!r}, got half a surrogate pair")
        if len(name) > LONGEST_GROUP:
            raise RowError(
                f"expected the name of a group in column {self.group!r}, got {len(name)} characters", _NO_GROUP
            )
        return name


class BelongingInClear(Belonging):
    """For who hashes units later, under a key that is known when all rows are read."""

    def unit_of(self, value: Any) -> str:
        """What the column says, in the one way in which it is hashed: see `unit_hash`.

        Raises:
            RowError: it says nothing.
        """
        return _text(value, self.unit)


def unit_hash(key: bytes, unit: str) -> str:
    """HMAC-SHA256 of whom a record belongs to, in hexadecimal.

    Args:
        key: of the hashes.
        unit: as `BelongingInClear` gives it.
    """
    return hmac.digest(key, f"unit\0{unit}".encode("utf-8", "surrogatepass"), "sha256").hex()


def unit_name(digest: str) -> str:
    """What results call a unit whose keyed hash is known, in hexadecimal."""
    return f"u{digest[:_DIGITS]}"


NOBODY = Belonging()
_NO_GROUP = "name a column with a few labels (mia_group_column)"


_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def _text(value: Any, column: str | None) -> str:
    """A text, or a whole number as text: tables write numbers with a fraction where some row has none.

    CSV files of such tables hold that fraction as text.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None or value == "" or value != value else f"a {type(value).__name__}"
        got = "white space" if isinstance(value, str) and value else got
        raise RowError(
            f"expected a text or a whole number in column {column!r}, got {got}", "fill it in, or remove the row"
        )
    text = value.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def units_of(items: Iterable[Record | Document]) -> set[str]:
    """Whose the items are."""
    return {item.unit for item in items if item.unit is not None}


def check_apart(
    option: str, members: Sequence[Record | Document], nonmembers: Sequence[Record | Document], column: str
) -> None:
    """Refuse data in which a unit stands in both classes.

    Raises:
        SpvmiaError: how many do, and with how many rows.
    """
    both = units_of(members) & units_of(nonmembers)
    if both:
        rows = [sum(item.unit in both for item in side) for side in (members, nonmembers)]
        raise SpvmiaError(
            f"{option}: expected each unit of column {column!r} in one class, got {len(both):,} that stand in both, "
            f"with {rows[0]:,} rows of the members and {rows[1]:,} of the non-members: the model was trained on them, "
            "and called non-members the numbers come out too low; give each unit to one class (spvmia finetune "
            "--unit-column deals out whole units)"
        )


def without_units(items: Sequence[Owned], taken: set[str]) -> list[Owned]:
    """Those of other units."""
    return [item for item in items if item.unit is None or item.unit not in taken]


def check_groups(items: Iterable[Record | Document], column: str) -> None:
    """Refuse more groups than can be looked at.

    Raises:
        SpvmiaError: there are.
    """
    names = {item.group for item in items if item.group is not None}
    if len(names) > MOST_GROUPS:
        raise SpvmiaError(
            f"mia_group_column: expected at most {MOST_GROUPS} groups in column {column!r}, got {len(names):,}; name a "
            "column with fewer, or put small groups together"
        )
