"""Cuts documents into blocks of exactly so many tokens, each a piece of text that anyone can cut again.

Every document is followed by a blank line (`SEPARATOR`); a block is a run of characters of that endless text. It is
kept as pieces, (row, start, end) in each document with its separator, so that a manifest can rebuild it without a
tokenizer. A block counts only if its text, tokenised on its own, has exactly `block_size` tokens, as in the released
code; other blocks are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Piece, Record

SEPARATOR = "\n\n"

Tokenize = Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]
"""text -> token ids, and the (start, end) characters of each token."""

_SLACK_TOKENS = 16  # a window cut in mid-word may tokenise differently at its end, never this far back
_CHARS_PER_TOKEN = 6


@dataclass(frozen=True)
class Packed:
    """What packing made.

    Attributes:
        records: in order, none of them a member: who is one is not packing's to say.
        used: how many documents, from the first, have a part in a block or were passed over.
        changed_length: blocks dropped because they have another length on their own.
        cut_rests: documents whose end was dropped because it fills no block.
    """

    records: tuple[Record, ...]
    used: int
    changed_length: int = 0
    cut_rests: int = 0


def document_row(document: Document) -> int:
    """The document's number in its source."""
    return document.row or int(document.id.rpartition(":")[2])


def rebuild_text(texts: Mapping[int, str], pieces: Sequence[Piece]) -> str:
    """Return the text of a block from its documents' texts by row.

    Raises:
        KeyError: a row is not there.
        IndexError: a document is shorter than a piece says.
    """
    parts = []
    for row, start, end in pieces:
        text = texts[row] + SEPARATOR
        if not 0 <= start < end <= len(text):
            raise IndexError(row)
        parts.append(text[start:end])
    return "".join(parts)


def fast_tokenize(tokenizer: Any) -> Tokenize:
    """Wrap a Hugging Face tokenizer; special tokens are left out, as the harness encodes text.

    Raises:
        SpvmiaError: it cannot tell where its tokens lie in the text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SpvmiaError(
            f"mia_block_size: packing expects a fast tokenizer, got {type(tokenizer).__name__} without offsets; "
            "set mia_block_size to 0 for whole documents"
        )

    def tokenize(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]

    return tokenize


def whole_documents(documents: Sequence[Document], limit: int | None = None) -> Packed:
    """One record per document, for block size 0."""
    taken = documents if limit is None else documents[:limit]
    records = tuple(
        Record(
            d.id,
            d.text,
            False,
            d.unit or d.id,
            (Piece(document_row(d), 0, len(d.text)),),
            d.conversation,
            d.rendered,
            d.unit,
            d.group,
        )
        for d in taken
    )
    return Packed(records, len(records))


def unit_by_unit(
    documents: Sequence[Document], limit: int | None, pack_some: Callable[[Sequence[Document], int | None], Packed]
) -> Packed:
    """Cut the documents of each unit by themselves: no record holds texts of two.

    Args:
        documents: those of a unit one after the other.
        limit: number of records to stop at.
        pack_some: cuts documents into at most so many records.

    Returns:
        Records whose cluster is their unit. A unit is used with all of its documents, where the limit cut it too.
    """
    records: list[Record] = []
    used = changed = rests = 0
    for unit, group in groupby(documents, key=lambda document: document.unit):
        if limit is not None and len(records) >= limit:
            break
        own = list(group)
        packed = pack_some(own, None if limit is None else limit - len(records))
        records += [replace(record, unit=unit, cluster=unit or record.cluster) for record in packed.records]
        used += len(own)
        changed, rests = changed + packed.changed_length, rests + packed.cut_rests
    return Packed(tuple(records), used, changed, rests)


def cut_documents(documents: Sequence[Document], tokenize: Tokenize, block_size: int) -> list[Document]:
    """Each document's first `block_size` tokens, or all of it if it is shorter: prompts, one a document."""
    return [Document(d.id, _head(d.text, tokenize, block_size)) for d in documents]


def _head(text: str, tokenize: Tokenize, block_size: int) -> str:
    for window in _windows(len(text), block_size):
        _, offsets = tokenize(text[:window])
        if len(offsets) >= block_size + _SLACK_TOKENS or window == len(text):
            return text[: offsets[block_size - 1][1]] if len(offsets) > block_size else text[:window]
    return text


def _windows(length: int, block_size: int) -> Iterator[int]:
    """Growing numbers of characters to tokenise, ending with all of them: a long document is not read whole."""
    window = (block_size + _SLACK_TOKENS) * _CHARS_PER_TOKEN
    while window < length:
        yield window
        window *= 2
    yield length


@dataclass
class _Cursor:
    """Where the next block starts.

    Attributes:
        index: of the document.
        offset: characters of it (and its separator) that lie in earlier blocks.
        parts: how many earlier blocks hold a part of it.
        cluster: cluster of the chain of blocks it continues, None at the start of a document.
    """

    index: int
    offset: int = 0
    parts: int = 0
    cluster: str | None = None


def pack(
    documents: Sequence[Document],
    tokenize: Tokenize,
    block_size: int,
    limit: int | None = None,
    *,
    sequential: bool = False,
    one_per_cluster: bool = False,
) -> Packed:
    """Cut documents into blocks, only as many as asked for.

    A block starts where a document starts. One that is full in the middle of a document is followed by blocks of
    that same document as long as these are filled wholly; its rest is dropped, and the next block starts with the
    next document. Such a chain of blocks is one cluster, named after its first document: no document lies in two
    clusters.

    Args:
        documents: in the order to pack.
        tokenize: see `Tokenize`.
        block_size: tokens per block.
        limit: number of blocks to stop at.
        sequential: as the released code: a block starts where the last one ended, nothing in between is dropped. The
            cluster is then the block's first document, and a document may reach into the next cluster.
        one_per_cluster: leave out what continues a document.
    """
    blocks: list[Record] = []
    cursor = _Cursor(0)
    changed = rests = 0
    while cursor.index < len(documents) and (limit is None or len(blocks) < limit):
        alone = cursor.offset > 0 and not sequential
        found = None
        if not (alone and one_per_cluster):
            found = _next_block(documents, cursor, tokenize, block_size, alone=alone)
        if found is None:
            # With no document to continue, what is left of all documents together fills no block.
            rests += alone
            cursor = _Cursor(cursor.index + 1 if alone else len(documents))
            continue
        block, cursor = found
        if len(tokenize(block.text)[0]) == block_size:
            blocks.append(block)
        else:
            changed += 1
        if sequential:
            cursor.cluster = None
        elif cursor.offset >= len(documents[cursor.index].text):
            cursor = _Cursor(cursor.index + 1)
    used = min(cursor.index + (cursor.offset > 0), len(documents))
    return Packed(tuple(blocks), used, changed, rests)


def _next_block(
    documents: Sequence[Document], cursor: _Cursor, tokenize: Tokenize, block_size: int, *, alone: bool
) -> tuple[Record, _Cursor] | None:
    """The block at the cursor and the cursor after it, or None if the text does not fill one.

    `alone`: only what is left of the cursor's document may fill it.
    """
    window = (block_size + _SLACK_TOKENS) * _CHARS_PER_TOKEN
    while True:
        pieces = _take(documents, cursor, window, alone=alone)
        text = _text(documents, pieces)
        _, offsets = tokenize(text)
        complete = len(text) < window
        if len(offsets) >= block_size + (0 if complete else _SLACK_TOKENS):
            # At least one character, whatever a tokenizer says: the cursor has to move.
            return _cut(documents, cursor, pieces, max(1, offsets[block_size - 1][1]))
        if complete:
            return None
        window *= 2


def _take(documents: Sequence[Document], cursor: _Cursor, window: int, *, alone: bool) -> list[Piece]:
    """Pieces of at most `window` characters from the cursor on; `row` is the index in `documents` here.

    The last document there is has no separator after it.
    """
    pieces: list[Piece] = []
    index, start = cursor.index, cursor.offset
    while window > 0 and index < len(documents):
        is_last = alone or index == len(documents) - 1
        length = len(documents[index].text) + (0 if is_last else len(SEPARATOR))
        end = min(length, start + window)
        if end > start:
            pieces.append(Piece(index, start, end))
            window -= end - start
        index, start = index + 1, 0
        if alone:
            break
    return pieces


def _text(documents: Sequence[Document], pieces: Sequence[Piece]) -> str:
    return "".join(_slice(documents[index].text, start, end) for index, start, end in pieces)


def _slice(text: str, start: int, end: int) -> str:
    """`(text + SEPARATOR)[start:end]` without copying a long text."""
    if end <= len(text):
        return text[start:end]
    return text[start:] + SEPARATOR[max(0, start - len(text)) : end - len(text)]


def _cut(
    documents: Sequence[Document], cursor: _Cursor, window: Sequence[Piece], length: int
) -> tuple[Record, _Cursor]:
    """The first `length` characters of the window as a block, and the cursor behind them."""
    pieces: list[Piece] = []
    for index, start, end in window:
        end = min(end, start + length)
        pieces.append(Piece(index, start, end))
        length -= end - start
        if length == 0:
            break
    first, last = documents[pieces[0].row], documents[pieces[-1].row]
    groups = {documents[index].group for index, *_ in pieces}
    number = cursor.parts + 1 if pieces[0].row == cursor.index else 1
    name = first.id if number == 1 else f"{first.id}#{number}"
    block = Record(
        name,
        _text(documents, pieces),
        False,
        cursor.cluster or first.id,
        tuple(Piece(document_row(documents[index]), start, end) for index, start, end in pieces),
        group=groups.pop() if len(groups) == 1 else None,
    )
    if pieces[-1].end == len(last.text) + len(SEPARATOR):
        return block, _Cursor(pieces[-1].row + 1)
    return block, _Cursor(pieces[-1].row, pieces[-1].end, number if len(pieces) == 1 else 1, block.cluster)
