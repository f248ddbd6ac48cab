"""Makes a manifest of what was declared and what is known of the training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spvmia_plugin.data.fingerprint import content_hash, derived_key
from spvmia_plugin.data.manifest import CANDIDATE, CLASSES, Manifest, manifest_fingerprint
from spvmia_plugin.data.origin import DataOrigin, RowMark
from spvmia_plugin.data.packing import document_row, fast_tokenize, whole_documents
from spvmia_plugin.data.split import Packer
from spvmia_plugin.data.tokenisation import Reading, probe_digest
from spvmia_plugin.data.units import unit_hash
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, LossOn, Piece, Record
from spvmia_plugin.trainers.declared import Declared, Side

NO_CUT = 1_000_000
"""Tokens of a record where nobody says that anything was cut."""


@dataclass(frozen=True)
class Rendering:
    """How the rows became what the model read.

    Attributes:
        loss_on: which tokens of conversations carried loss.
        max_tokens: where sequences were cut.
        end_token: texts had an end token after them.
        block_size: texts were cut into blocks of so many tokens; 0 for whole rows.
        template: the text of the chat template; None for the tokenizer's own.
    """

    loss_on: LossOn
    max_tokens: int
    end_token: bool = False
    block_size: int = 0
    template: str | None = None


@dataclass(frozen=True)
class Written:
    """What else a manifest says: by whom, of which training.

    Attributes are fields of `Manifest`.
    """

    written_by: str
    base_model: str
    method: str
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    trainer: Mapping[str, object]
    seed: int


def build_manifest(
    declared: Declared, rendering: Rendering, written: Written, tokenizer: Any, own_key: bytes
) -> Manifest:
    """The manifest of a training.

    Args:
        declared: the records.
        rendering: how they became tokens.
        written: what else is known.
        tokenizer: of the training; None where there is none, which blocks and long texts need.
        own_key: of the user: equal data have equal fingerprints in all manifests of one user.

    Raises:
        SpvmiaError: the tokenizer cannot tell where a text has to be cut.
    """
    is_text = declared.kind == "text"
    sources = {name: side.source for name, side in declared.sides.items()}
    places = json.dumps({name: vars(source) for name, source in sources.items()}, sort_keys=True)
    key = derived_key(own_key, f"manifest {places}").hex()
    cut = _cutting(rendering, tokenizer) if is_text else _whole
    records: dict[str, tuple[Record, ...]] = dict.fromkeys((*CLASSES, CANDIDATE), ())
    marks: dict[str, tuple[RowMark, ...]] = dict.fromkeys(records, ())
    for name, side in declared.sides.items():
        found = cut(side)
        records[name] = tuple(replace(record, is_member=name == "members") for record in found)
        units = {document_row(document): document.unit for document in side.documents}
        marks[name] = tuple(
            RowMark(content_hash(key, record), _hashed(key, units[record.pieces[0].row])) for record in records[name]
        )
    reading = None if tokenizer is None else Reading(tokenizer)
    rendered = not is_text or rendering.end_token
    frame = None if rendered or reading is None else reading.frame("")
    origin = DataOrigin(
        sources["members"].spec,
        sources["members"].column,
        rendering.block_size if is_text else 0,
        "declared",
        written.seed,
        declared.kind,
        (rendering.loss_on if not is_text else "all") if rendered else None,
        rendering.max_tokens if rendered else None,
        rendering.template if not is_text else None,
        is_text and rendering.end_token,
    )
    return Manifest(
        base_model=written.base_model,
        method=written.method,
        data=origin,
        settings=written.settings,
        versions=written.versions,
        records=records,
        fingerprint_key=key,
        fingerprint=manifest_fingerprint(key, records),
        tokenizer=None if reading is None else probe_digest(reading.body),
        frame=None if frame is None else {"before": list(frame.context), "after": list(frame.after)},
        sources=sources,
        marks=marks,
        written_by=written.written_by,
        trainer=written.trainer,
    )


def _hashed(key: str, unit: str | None) -> str | None:
    return None if unit is None else unit_hash(bytes.fromhex(key), unit)


def _unnamed(documents: Iterable[Document]) -> list[Document]:
    """Documents whose records say nothing of whose they are: it is known in clear here."""
    return [replace(document, unit=None) for document in documents]


def _whole(side: Side) -> Sequence[Record]:
    return whole_documents(_unnamed(side.documents)).records


def _by_unit(side: Side) -> Iterable[Sequence[Document]]:
    """The documents of each unit, so that no block holds texts of two; all of them where nobody said whose they are."""
    of_units: dict[str | None, list[Document]] = {}
    for document in side.documents:
        of_units.setdefault(document.unit, []).append(document)
    return map(_unnamed, of_units.values())


def _cutting(rendering: Rendering, tokenizer: Any) -> Callable[[Side], Sequence[Record]]:
    """What makes records of texts: whole, in blocks, or as much of each as was read."""
    if rendering.block_size:
        packer = Packer(rendering.block_size, fast_tokenize(_needed(tokenizer, "block_size")))
        return lambda side: [record for own in _by_unit(side) for record in packer.pack(own).records]
    if rendering.end_token or rendering.max_tokens >= NO_CUT:
        return _whole
    tokenize = fast_tokenize(_needed(tokenizer, "max_length"))
    frame = Reading(tokenizer).frame("")
    room = rendering.max_tokens - len(frame.context) - len(frame.after)

    def cut(side: Side) -> Sequence[Record]:
        records = []
        for document in side.documents:
            offsets = tokenize(document.text)[1]
            end = offsets[room - 1][1] if len(offsets) > room else len(document.text)
            piece = Piece(document_row(document), 0, end)
            records.append(Record(document.id, document.text[:end], False, document.id, (piece,)))
        return records

    return cut


def _needed(tokenizer: Any, option: str) -> Any:
    if tokenizer is None:
        raise SpvmiaError(
            f"{option}: expected a tokenizer to cut texts with, got none; pass the trainer its processing_class"
        )
    return tokenizer


def digest_of(template: str | None) -> str | None:
    """SHA-256 of a chat template's text, None for none."""
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()
