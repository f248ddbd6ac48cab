"""Rows become documents: their text or conversation, who is a member, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spvmia_plugin.data.files import LABEL
from spvmia_plugin.data.formats import FORMATS, RowError, RowFormat, checked_size, conversation_of, is_empty
from spvmia_plugin.data.layout import Layout, Place
from spvmia_plugin.records import Document
from spvmia_plugin.util.strict_json import is_unicode

_MEMBER = ("1", "1.0", "true", "member")
_NONMEMBER = ("0", "0.0", "false", "nonmember", "non-member")
"""What stands in a column `label`, in lower case."""


@dataclass(frozen=True)
class Loaded:
    """What one source holds.

    Attributes:
        documents: its texts or conversations, in order; ids are `name:row`, rows from 1 in each file.
        empty_rows: rows without any, or of nothing but white space, left out.
        format: what the rows are.
    """

    documents: tuple[Document, ...]
    empty_rows: int
    format: RowFormat = "text"


def describe(loaded: Loaded, name: str) -> str:
    """What a source was taken for: `chat.jsonl: 5,000 conversations (messages), 9.1 assistant turns each in the mean`.

    Args:
        loaded: what it holds.
        name: what it is called.
    """
    number = len(loaded.documents)
    if loaded.format == "text":
        return f"{name}: {number:,} texts"
    line = f"{name}: {number:,} {FORMATS[loaded.format].title}"
    held = [document.conversation for document in loaded.documents if document.conversation is not None]
    if loaded.format in ("prompt_completion", "preference"):
        plain = sum(each.plain for each in held)
        return line + (", as texts" if plain == number else f", {plain:,} as texts" if plain else ", as messages")
    if loaded.format == "instruction":
        return line
    return line + f", {sum(len(each.answers()) for each in held) / number:.1f} assistant turns each in the mean"


@dataclass
class Taken:
    """The documents of a source, row by row.

    Attributes:
        layout: which columns are read.
        member: only rows whose label says so; None for all rows.
        clean: applied to each text.
    """

    layout: Layout
    member: bool | None
    clean: Callable[[str], str] = str
    documents: list[Document] = field(default_factory=list)
    empty: int = 0

    def add(self, place: Place, row: int, values: Mapping[str, Any] | None, id_: str, number: int = 0) -> int:
        """Take a row, or leave it out.

        Args:
            place: where it stands, for errors.
            row: its number there.
            values: what it holds.
            id_: of its document.
            number: of its document in the whole source.

        Returns:
            Its characters.

        Raises:
            SpvmiaError: it does not fit.
        """
        text, conversation, size = "", None, 0
        if values is not None and self.layout.format == "text":
            text = self.clean(_checked_text(place, self.layout.text_column, row, values[self.layout.text_column]))
            size = len(text)
        elif values is not None and self.layout.format is not None and not is_empty(values, self.layout.format):
            try:
                conversation = conversation_of(values, self.layout.format)
                size = checked_size(conversation)
            except RowError as error:
                raise place.error(error.problem, error.remedy, row) from error
            text = conversation.said()
        if self.member is not None and self.member is not _is_member(place, row, values, text):
            return size
        if text.strip() and values is not None:
            belonging, unit, group = self.layout.belonging, None, None
            try:
                unit = None if belonging.unit is None else belonging.unit_of(values[belonging.unit])
                group = None if belonging.group is None else belonging.group_of(values[belonging.group])
            except RowError as error:
                raise place.error(error.problem, error.remedy, row) from error
            self.documents.append(Document(id_, text, number, conversation, unit=unit, group=group))
        else:
            self.empty += 1
        return size

    def loaded(self, place: Place, remedy: str) -> Loaded:
        """All that was taken.

        Raises:
            SpvmiaError: there is nothing.
        """
        if not self.documents:
            what = "row of text" if self.layout.format in (None, "text") else "row with a conversation"
            if self.member is not None:
                what = f"{'member' if self.member else 'non-member'} with a text"
            raise place.error(f"expected at least one {what}, got none", remedy)
        return Loaded(tuple(self.documents), self.empty, self.layout.format or "text")


def _checked_text(place: Place, column: str, row: int, value: Any) -> str:
    """The text of a row; a missing one is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise place.error(
            f"expected text in column {column!r}, got {type(value).__name__}", "correct or remove the row", row
        )
    if not is_unicode(value):
        raise place.error("expected valid Unicode, got half a surrogate pair", "correct the row", row)
    return value


def member_said(value: Any) -> bool | None:
    """What a value of the column `label` says: a member, none, or (None) neither of them."""
    said = str(value).strip().lower()
    return True if said in _MEMBER else False if said in _NONMEMBER else None


def _is_member(place: Place, row: int, values: Mapping[str, Any] | None, text: str) -> bool:
    """What the label of a row says; an empty row without one counts among the members."""
    value = None if values is None else values[LABEL]
    said = member_said(value)
    if said is None and text.strip():
        raise place.error(
            f"expected 1 (a member) or 0 (none) in column {LABEL!r}, got "
            f"{'nothing' if value is None else f'another {type(value).__name__}'}",
            "correct or remove the row, or give each class its own file",
            row,
        )
    return said is not False
