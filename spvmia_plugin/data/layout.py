"""What the rows of a source are, and which of its columns are read: told by the user, else by the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from spvmia_plugin.config import Format
from spvmia_plugin.data.files import LABEL
from spvmia_plugin.data.formats import FORMATS, RowError, RowFormat, recognise
from spvmia_plugin.data.units import NOBODY, Belonging
from spvmia_plugin.errors import SpvmiaError, did_you_mean, known_columns


class Place(Protocol):
    """Where rows stand: a file, or a split of the hub."""

    def error(self, problem: str, remedy: str, row: int | None = None) -> SpvmiaError:
        """An error about the place, or about a row of it."""
        ...


_TEXT_COLUMN = "mia_text_column; --text-column of a command; text_column= of the trainer's callback"


@dataclass
class Layout:
    """The format of a source and its columns. All its rows, and all its shards, are of one format.

    Attributes:
        text_column: the column with plain text.
        asked: the format, or `auto` for the one that the first row's keys say.
        text_given: whether the user named the text column.
        labelled: whether a column `LABEL` is read too.
        belonging: which columns say whose a row is.
        format: what it is; None until the first row with any content.
    """

    text_column: str
    asked: Format = "auto"
    text_given: bool = False
    labelled: bool = False
    belonging: Belonging = NOBODY
    format: RowFormat | None = field(default=None, init=False)
    _names: Sequence[str] | None = field(default=None, init=False, repr=False)
    _columns: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        """Make sure that the options agree.

        Raises:
            SpvmiaError: a text column was named for a format that has none.
        """
        if self.text_given and self.asked not in ("auto", "text"):
            raise SpvmiaError(
                f"mia_text_column: expected none beside mia_format={self.asked}, which names its own columns, got "
                f"{self.text_column!r}; leave it out"
            )

    def columns(self, place: Place, names: Sequence[str], row: int | None = None) -> tuple[str, ...]:
        """The columns that are read of those in a table, or of the keys of a row.

        Raises:
            SpvmiaError: one that is needed is not there, one is there twice, or they are of another format than before.
        """
        if names == self._names:
            return self._columns
        repeated = [name for name, count in Counter(names).items() if name and count > 1]
        if repeated:
            called = ", ".join(map(repr, known_columns(repeated))) or f"{len(repeated)} of them"
            raise place.error(f"expected each column once, got several called {called}", "rename or remove them", row)
        found = self._recognised(place, names, row) or self.format or "text"
        wanted = (self.text_column,) if found == "text" else FORMATS[found].required
        beside = (*((LABEL,) if self.labelled else ()), *self.belonging.columns)
        for column in (*wanted, *beside):
            if column not in names:
                raise self._no_column(place, column, names, row)
        self._settle(place, found, row)
        optional = () if found == "text" else tuple(key for key in FORMATS[found].optional if key in names)
        self._names, self._columns = names, tuple(dict.fromkeys((*wanted, *optional, *beside)))
        return self._columns

    def text_alone(self, place: Place, row: int) -> str:
        """The text column of rows that are a text and nothing else.

        Raises:
            SpvmiaError: such rows are not what is read.
        """
        if self.asked not in ("auto", "text"):
            raise place.error(f"expected rows of the format {self.asked}, got a text alone", "give another file", row)
        if self.labelled:
            raise self._no_column(place, LABEL, (), row)
        for column in self.belonging.columns:
            raise self._no_column(place, column, (), row)
        self._settle(place, "text", row)
        return self.text_column

    def fits(self, names: Sequence[str]) -> bool:
        """Whether these may be the names of a table's columns."""
        if self.asked != "auto":
            wanted = (self.text_column,) if self.asked == "text" else FORMATS[self.asked].required
            return set(wanted) <= set(names)
        try:
            return recognise(names, self.text_column, text_given=self.text_given) is not None
        except RowError:
            return True

    def _recognised(self, place: Place, names: Sequence[str], row: int | None) -> RowFormat | None:
        if self.asked != "auto":
            return self.asked
        try:
            return recognise(names, self.text_column, text_given=self.text_given)
        except RowError as error:
            raise place.error(error.problem, error.remedy, row) from error

    def _settle(self, place: Place, found: RowFormat, row: int | None) -> None:
        if self.format not in (None, found):
            raise place.error(
                f"expected the format {self.format} as in the rows before, got {found}",
                "give each format a source of its own",
                row,
            )
        self.format = found

    def _no_column(self, place: Place, column: str, names: Iterable[str], row: int | None) -> SpvmiaError:
        """The error for a column that is not there; of `names` only what looks like a name is shown."""
        names = list(names)
        shown = known_columns(names)
        others = len(names) - len(shown)
        known = ", ".join(map(repr, shown)) or "none"
        known += f" and {others} that look like data (is there a header?)" if others else ""
        # There is a part of a format: a prompt alone, or one of two answers to it.
        parts = [of for of in FORMATS.values() if any(key in names for key in of.required)]
        part = max(parts, key=lambda of: sum(key in names for key in of.every), default=None)
        remedy = f"name the column with the text ({_TEXT_COLUMN})"
        if column == LABEL and self.text_column != LABEL:
            remedy = (
                "a file named in both mia_members and mia_nonmembers says with it who is a member (1) and who is none "
                "(0); add the column, or give each class its own file"
            )
        elif column in self.belonging.columns:
            remedy = f"name the column that is there ({self.belonging.option(column)}), or leave the option out"
        elif column != self.text_column:
            remedy = "correct or remove the row" if row is not None else "name another format (mia_format) or file"
        elif part is not None and not self.text_given:
            here, lacking = ([k for k in part.required if (k in names) is there] for there in (True, False))
            # Whole rows of a format are there where another one was asked for.
            remedy = f"add {lacking[0]!r} to {here[0]!r}, or {remedy}" if lacking else "leave mia_format at auto"
        elif self.asked == "auto" and not self.text_given:
            remedy += "; read by themselves are " + ", ".join("+".join(each.required) for each in FORMATS.values())
        meant = did_you_mean(column, shown) if len(names) > 1 else ""  # of one name, it was just said
        problem = f"expected a column {column!r}, got {known}{meant}"
        return place.error(problem, remedy, row)
