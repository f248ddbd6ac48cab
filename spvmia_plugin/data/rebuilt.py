"""The records of a manifest, read again from the data that it names and held against its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from spvmia_plugin.data.conversations import TEXT
from spvmia_plugin.data.files import is_there
from spvmia_plugin.data.fingerprint import content_hash
from spvmia_plugin.data.manifest import CLASSES, Manifest, classes_of, manifest_fingerprint
from spvmia_plugin.data.origin import ClassSource
from spvmia_plugin.data.packing import document_row, rebuild_text
from spvmia_plugin.data.sources import PREFIX as HUB
from spvmia_plugin.data.sources import cleaned, is_file_spec, load_spec
from spvmia_plugin.data.units import NOBODY, Belonging, unit_name
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Conversation, Document, Record
from spvmia_plugin.util.files import as_path, path_problem

_MOST_NAMED = 5
"""Rows that a message names."""


def rebuild(
    manifest: Manifest,
    datasets: Mapping[str, DatasetSource],
    new_place: str | None = None,
    belonging: Belonging = NOBODY,
) -> tuple[dict[str, list[Record]], dict[str, list[Document]]]:
    """Rebuild the text of every record from the data, and make sure they are the data of the fine-tuning.

    Args:
        manifest: the ground truth.
        datasets: named data sets.
        new_place: a local file to read instead of what the manifest names (`mia_dataset_path`).
        belonging: columns of the data that say whose a row is, where the manifest does not.

    Returns:
        The records with their texts, and the whole documents these were cut from, both by class.

    Raises:
        SpvmiaError: the data are not there, or have changed.
    """
    if manifest.sources:
        return _rebuild_sources(manifest, datasets, new_place, belonging)
    loaded = _load_data(manifest, datasets, new_place, belonging)
    by_row = {document_row(document): document for document in loaded}
    texts = {row: document.text for row, document in by_row.items()}
    where = new_place or manifest.data.spec
    records, documents = {}, {}
    for name in CLASSES:
        listed = manifest.records[name]
        try:
            records[name] = [
                replace(
                    record,
                    text=rebuild_text(texts, record.pieces),
                    conversation=by_row[record.pieces[0].row].conversation,  # None for text; else it is a whole row
                )
                if record.pieces
                else record
                for record in listed
            ]
        except LookupError as error:
            raise _changed(where, f"row {error.args[0]} is missing or shorter") from error
        rows = dict.fromkeys(piece.row for record in listed for piece in record.pieces)
        documents[name] = [by_row[row] for row in rows]
        records[name] = [_owned(record, by_row, belonging) for record in records[name]]
    if manifest.by_words:
        _check_whole(records, texts, where)
    _check_fingerprint(manifest, records, where)
    return records, documents


def _check_whole(records: Mapping[str, Sequence[Record]], texts: Mapping[int, str], where: str) -> None:
    """Make sure that no row of a conversation says more than it did: of its text the manifest knows the part alone.

    Raises:
        SpvmiaError: one does.
    """
    pieces = (piece for of_class in records.values() for record in of_class for piece in record.pieces)
    longer = next((piece.row for piece in pieces if piece.end != len(texts[piece.row])), None)
    if longer is not None:
        raise _changed(where, f"row {longer} is longer")


def _check_fingerprint(manifest: Manifest, records: Mapping[str, Sequence[Record]], where: str) -> None:
    """Make sure that the records are those of the manifest.

    Raises:
        SpvmiaError: they are not.
    """
    found = manifest_fingerprint(manifest.fingerprint_key, records, by_words=manifest.by_words)
    if found != manifest.fingerprint:
        held = "texts" if manifest.data.format == TEXT else "conversations"
        raise _changed(where, f"{held} or labels differ from its fingerprint")


def _rebuild_sources(
    manifest: Manifest, datasets: Mapping[str, DatasetSource], new_place: str | None, belonging: Belonging
) -> tuple[dict[str, list[Record]], dict[str, list[Document]]]:
    """The same where every class has a source of its own: each row by its number, and held against its hash."""
    read: dict[ClassSource, dict[int, Document]] = {}
    records: dict[str, list[Record]] = {}
    documents: dict[str, list[Document]] = {}
    for name, source in manifest.sources.items():
        if source not in read:
            placed = replace(manifest, data=replace(manifest.data, spec=source.spec, column=source.column))
            where = None if new_place is None else _moved(source.spec, new_place, manifest)
            read[source] = {document_row(each): each for each in _load_data(placed, datasets, where, belonging)}
        by_row, changed = read[source], []
        texts = {row: document.text for row, document in by_row.items()}
        records[name], documents[name] = [], []
        for record, mark in zip(manifest.records[name], manifest.marks[name], strict=True):
            try:
                found = replace(
                    record,
                    text=rebuild_text(texts, record.pieces),
                    conversation=by_row[record.pieces[0].row].conversation,
                )
            except LookupError:
                changed.append(record.pieces[0].row)
                continue
            if content_hash(manifest.fingerprint_key, _hashed(found, manifest)) != mark.hash:
                changed.append(record.pieces[0].row)
            owned = _owned(found, by_row, belonging)
            unit = None if mark.unit is None else unit_name(mark.unit)
            records[name].append(owned if unit is None else replace(owned, unit=unit, cluster=unit))
        if changed:
            named = ", ".join(map(str, changed[:_MOST_NAMED]))
            more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
            rows = f"row {named} of the {name} has" if len(changed) == 1 else f"rows {named}{more} of the {name} have"
            raise _changed(source.spec, f"{rows} changed or gone")
        rows_of = dict.fromkeys(piece.row for record in records[name] for piece in record.pieces)
        documents[name] = [by_row[row] for row in rows_of]
    everything = {name: records.get(name, []) for name in classes_of(manifest.sources)}
    _check_fingerprint(manifest, everything, manifest.data.spec)
    if manifest.data.end_token:
        everything = {name: [_ended(each) for each in of_class] for name, of_class in everything.items()}
    return everything, {name: documents.get(name, []) for name in everything}


def _hashed(record: Record, manifest: Manifest) -> Record:
    """The record as the manifest's hash tells it: of an earlier version without the rejected side of a preference."""
    if record.conversation is None or not manifest.by_words:
        return record
    return replace(record, conversation=record.conversation.with_chosen())


def _ended(record: Record) -> Record:
    return replace(record, conversation=Conversation.of_text(record.text))


def _moved(spec: str, new_place: str, manifest: Manifest) -> str:
    """Where a source lies now: the new file itself where there is but one, else the file of that name in a folder.

    Raises:
        SpvmiaError: a file was named and there are several sources, or the folder does not hold it.
    """
    if spec.startswith(HUB):
        return spec
    specs = {source.spec for source in manifest.sources.values() if not source.spec.startswith(HUB)}
    place = as_path(new_place, "mia_dataset_path")
    if len(specs) == 1 and not (place.is_dir() and (place / Path(spec).name).exists()):
        return new_place
    found = place / Path(spec).name
    if not found.exists() or sum(Path(each).name == found.name for each in specs) > 1:
        raise SpvmiaError(
            f"mia_dataset_path: expected a folder with {', '.join(sorted({Path(each).name for each in specs}))}, which "
            f"the manifest names{'' if len({Path(e).name for e in specs}) == len(specs) else ' from several folders'}, "
            f"got {new_place}; put the files there under these names, or restore them where they were"
        )
    return str(found)


def _owned(record: Record, by_row: Mapping[int, Document], belonging: Belonging) -> Record:
    """The record with whose it is, as the rows that it was cut from say.

    Raises:
        SpvmiaError: they are of several units.
    """
    rows = [by_row[piece.row] for piece in record.pieces]
    groups = {row.group for row in rows}
    record = replace(record, group=groups.pop() if len(groups) == 1 else None)
    if belonging.unit is None or not rows:
        return record
    unit = rows[0].unit
    if any(row.unit != unit for row in rows):
        raise SpvmiaError(
            f"mia_unit_column: expected records of one unit each, got {record.id}, a block that was cut across several "
            f"units of column {belonging.unit!r}; fine-tune with 'spvmia finetune --unit-column', or leave it out"
        )
    return replace(record, unit=unit, cluster=unit or record.cluster)


def _changed(where: str, problem: str) -> SpvmiaError:
    return SpvmiaError(
        f"mia_manifest: {where}: expected the data the target was fine-tuned on, but {problem}; "
        "restore the file, or name the unchanged one with mia_dataset_path"
    )


def _load_data(
    manifest: Manifest, datasets: Mapping[str, DatasetSource], new_place: str | None, belonging: Belonging
) -> Sequence[Document]:
    origin = manifest.data
    local = new_place is None and is_file_spec(origin.spec, datasets)
    if local and (problem := path_problem(origin.spec)) is not None:
        raise SpvmiaError(
            f"mia_manifest: {manifest.path}: expected a path as data.spec, or as spec of the sources, got {problem}; "
            "name the data with mia_dataset_path"
        )
    if local and not is_there(origin.spec):
        raise SpvmiaError(
            f"mia_manifest: the target's data are expected at {origin.spec}, got no such file; "
            "if the file was moved, name its new place with mia_dataset_path"
        )
    documents = load_spec(
        new_place or origin.spec,
        origin.column,
        option="mia_dataset_path" if new_place else "mia_manifest",
        local_option="mia_dataset_path",
        datasets=datasets,
        format=origin.format,
        belonging=belonging,
    ).documents
    # A local file that stands in for a named data set is cleaned as that is.
    stands_in = new_place is not None and origin.spec in datasets
    return cleaned(documents, datasets[origin.spec]) if stands_in else documents
