"""`mia_manifest.json`: which records a target was trained on. It names private data and lies beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spvmia_plugin.config import FORMATS
from spvmia_plugin.data.conversations import PREFERENCE
from spvmia_plugin.data.files import SourceFile
from spvmia_plugin.data.fingerprint import fingerprint, held_by
from spvmia_plugin.data.origin import ClassSource, DataOrigin, RowMark
from spvmia_plugin.data.rows_read import RowsRead, read_by_trainer, read_in_steps
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.records import Membership, Piece, Record
from spvmia_plugin.util.files import as_path, write_private
from spvmia_plugin.util.schema import Misfit, read
from spvmia_plugin.util.strict_json import finite, is_number, is_whole, strict_loads

MANIFEST_NAME = "mia_manifest.json"
FORMAT = 1
FORMAT_WITH_TEXTS = 2
"""Of manifests whose canaries are not cut from the data: earlier versions would look for their texts there."""
FORMAT_OF_CONVERSATIONS = 3
"""Of manifests of conversations: earlier versions would read one column of their rows."""
FORMAT_OF_SOURCES = 4
"""Of manifests whose classes have sources of their own: written beside other trainers, or by `spvmia manifest`."""
FORMAT_OF_WHOLE_ROWS = 5
"""Of manifests of conversations, with sources or without, that tell all of a row: those of format 3 and 4 go by what
is said, and earlier versions would find other data in these."""
PRIVATE_LINE = "names training records: do not publish"
CLASSES = ("members", "nonmembers", "prompts", "canaries")
CANDIDATE = "candidate"
"""A class that manifests with sources may have besides."""
_LABELS = {"members": "member", "nonmembers": "nonmember", "prompts": "prompt", CANDIDATE: CANDIDATE}
MATCHED = "matched"
"""What a manifest says of a trainer's data that were the declared ones."""


@dataclass(frozen=True)
class Manifest:
    """The ground truth of one fine-tuned target.

    Attributes:
        base_model: the model before fine-tuning: a hub id, or an absolute path.
        method: `lora` or `full`.
        data: where the texts are.
        settings: every setting of the fine-tuning, by option name.
        versions: of the libraries that did it.
        records: by class: members, nonmembers, prompts, canaries (members of these are those that the coin put into
            training). The file says where their texts lie, and as it is read they have none; but for canaries without
            pieces, which were made for the purpose: theirs stand in the file.
        fingerprint_key: key of `fingerprint`, in hexadecimal.
        fingerprint: keyed hash over all that the records hold and their labels.
        training: what the training reported.
        tokenizer: `probe_digest` of the tokenizer it was trained with; None in manifests of earlier versions.
        frame: ids of the tokens it read `before` and `after` each text; None in manifests of earlier versions.
        sources: where the texts of each class are; empty where all are in `data`.
        marks: of the records of each class, in their order; empty likewise.
        written_by: who wrote it: `finetune`, `trainer` (the callback in another trainer), or `command`.
        trainer: what that trainer did beside what `settings` say, and whether its data were the declared ones.
        weights: what the weights beside it are recognised by (`data.weights`); None where they were not seen.
        by_words: its fingerprint goes by what conversations say, and its hashes by what preferences choose: so do
            manifests of conversations of earlier versions.
        path: where it was read from.
    """

    base_model: str
    method: str
    data: DataOrigin
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    records: Mapping[str, tuple[Record, ...]]
    fingerprint_key: str = field(repr=False)
    fingerprint: str
    training: Mapping[str, object] = field(default_factory=dict)
    tokenizer: str | None = None
    frame: Mapping[str, Sequence[int]] | None = None
    sources: Mapping[str, ClassSource] = field(default_factory=dict)
    marks: Mapping[str, tuple[RowMark, ...]] = field(default_factory=dict)
    written_by: str = "finetune"
    trainer: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = None
    by_words: bool = False
    path: Path | None = field(default=None, compare=False)

    @property
    def membership(self) -> Membership:
        """Whether who is a member is known from the training itself, or is what somebody said of it."""
        seen = self.written_by == "trainer" and self.trainer.get("data") == MATCHED
        known = (seen or self.written_by == "finetune") and self.partly_read is None
        return "manifest" if known else "declared"

    @property
    def partly_read(self) -> RowsRead | None:
        """How much of its rows the training read before the weights were saved; None for all, or where nobody knows."""
        if self.written_by != "finetune":
            seen = not str(self.trainer.get("data", "not checked")).startswith("not checked")
            return read_by_trainer(self.training, seen=seen)
        trained = sum(record.is_member for name in ("members", "canaries") for record in self.records[name])
        return read_in_steps(self.training, trained)

    @property
    def epochs(self) -> float | None:
        """How often the training read its rows; None where nobody says. A trainer may stop before it planned to."""
        told = self.training if is_number(self.training.get("epochs")) else self.settings
        found = told.get("epochs")
        return float(found) if is_number(found) else None

    @property
    def not_held(self) -> str | None:
        """What of its rows it does not tell, in words: nobody knows whether that has changed. None for nothing."""
        if self.by_words and not self.sources:
            return "roles, borders of turns, tools or options of the chat template"
        return "rejected answers" if self.by_words and self.data.format == PREFERENCE else None

    @property
    def named_unit_column(self) -> str | None:
        """What the data call the column of the units; None without units, and in older manifests of trainers."""
        column = self.settings.get("unit_column") or self.trainer.get("unit_column")
        return column if isinstance(column, str) else None

    @property
    def unit_column(self) -> str | None:
        """The column of the units that the manifest knows; each record's cluster is then its unit."""
        column = self.named_unit_column
        if column is not None:
            return column
        return "unit" if any(mark.unit is not None for marks in self.marks.values() for mark in marks) else None

    def to_json(self) -> dict[str, object]:
        """As it stands in the file, the warning first."""
        return {
            "PRIVATE": PRIVATE_LINE,
            "format": _format(self),
            "base_model": self.base_model,
            "tokenizer": self.tokenizer,
            "frame": None if self.frame is None else {name: list(ids) for name, ids in self.frame.items()},
            "method": self.method,
            "data": self.data.to_json(),
            "settings": dict(self.settings),
            "training": dict(self.training),
            "versions": dict(self.versions),
            "fingerprint_key": self.fingerprint_key,
            "fingerprint": self.fingerprint,
            **(self._of_sources() if self.sources else {}),
            **{name: self._rows(name) for name in classes_of(self.sources)},
        }

    def _of_sources(self) -> dict[str, object]:
        return {
            "sources": {name: vars(source) for name, source in self.sources.items()},
            "written_by": self.written_by,
            "trainer": dict(self.trainer),
            "weights": None if self.weights is None else dict(self.weights),
        }

    def _rows(self, name: str) -> list[dict[str, object]]:
        rows = [_row(record, name) for record in self.records.get(name, ())]
        return [{**row, **vars(mark)} for row, mark in zip(rows, self.marks[name], strict=True)] if self.marks else rows


def classes_of(sources: Mapping[str, object]) -> tuple[str, ...]:
    """The classes that a manifest may list: where each has a source of its own, the candidate reference's texts too."""
    return (*CLASSES, CANDIDATE) if sources else CLASSES


def _format(manifest: Manifest) -> int:
    if manifest.data.format != "text" and not manifest.by_words:
        return FORMAT_OF_WHOLE_ROWS
    if manifest.sources:
        return FORMAT_OF_SOURCES
    if manifest.data.format != "text":
        return FORMAT_OF_CONVERSATIONS
    made = any(not record.pieces for record in manifest.records["canaries"])
    return FORMAT_WITH_TEXTS if made else FORMAT


def _row(record: Record, name: str) -> dict[str, object]:
    coin = {"included": record.is_member} if name == "canaries" else {}
    made = name == "canaries" and not record.pieces
    where = {"text": record.text} if made else {"pieces": [list(piece) for piece in record.pieces]}
    return {"id": record.id, "cluster": record.cluster, **coin, **where}


def manifest_fingerprint(key: str, records: Mapping[str, Sequence[Record]], *, by_words: bool = False) -> str:
    """The fingerprint of a manifest's records: all that each holds with its class, and a canary's coin.

    Args:
        key: in hexadecimal.
        records: by class.
        by_words: as earlier versions have it of conversations: what is said alone.
    """
    return fingerprint(
        bytes.fromhex(key),
        (
            (_LABELS.get(name) or f"canary {record.is_member}", record.text if by_words else held_by(record))
            for name, of_class in records.items()
            for record in of_class
        ),
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest with mode 0600, whole or not at all; a record a line.

    Raises:
        OSError: it cannot be written.
    """
    lines = []
    for key, value in finite(manifest.to_json()).items():  # a training that diverged has a loss of NaN
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f"{json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    write_private(path, ("{\n " + ",\n ".join(lines) + "\n}\n").encode())


def read_manifest(path: str | Path, *, option: str = "mia_manifest") -> Manifest:
    """Read and check a manifest, given as the file or the folder it lies in.

    Raises:
        SpvmiaError: it is not there, is no manifest, or was written by a later version.
    """
    path = as_path(path, option)
    path = path / MANIFEST_NAME if path.is_dir() else path
    if not path.exists():
        raise SpvmiaError(
            f"{option}: expected a manifest that 'spvmia finetune', 'spvmia manifest' or the trainer's callback wrote, "
            f"got no file at {path}; check the path"
        )
    try:
        with SourceFile(path, option).opened() as stream:
            content = strict_loads(stream.read())
    except SpvmiaError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(option, path, f"it cannot be read as JSON ({reason_of(error)})") from error
    if not isinstance(content, dict) or "fingerprint_key" not in content:
        raise _broken(option, path, "it has no 'fingerprint_key'")
    known = (FORMAT, FORMAT_WITH_TEXTS, FORMAT_OF_CONVERSATIONS, FORMAT_OF_SOURCES, FORMAT_OF_WHOLE_ROWS)
    if content.get("format") not in known or not is_whole(content["format"]):
        raise SpvmiaError(
            f"{option}: {path}: expected format {', '.join(map(str, known[:-1]))} or {known[-1]}, got "
            f"{content.get('format')!r}; use the version of spvmia-plugin that wrote it"
        )
    try:
        return replace(_parsed(content), path=path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = str(error) if isinstance(error, Misfit) else type(error).__name__  # others may quote a text
        raise _broken(option, path, f"a value is missing or of another type ({told})") from error


def _broken(option: str, path: Path, problem: str) -> SpvmiaError:
    return SpvmiaError(
        f"{option}: {path}: expected a manifest that 'spvmia finetune', 'spvmia manifest' or the trainer's callback "
        f"wrote, but {problem}; fine-tune again, or write it anew with 'spvmia manifest'"
    )


_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("base_model", "method", "fingerprint", "fingerprint_key"), str),
    **dict.fromkeys(("settings", "versions", "training"), Mapping),
    "tokenizer": str | None,
    "frame": Mapping | None,
}
_FRAME = ("before", "after")


def _whole_numbers(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not all(map(is_whole, value)):
        raise Misfit(f"expected a list of whole numbers as {where}")
    return value


def _parsed(content: Mapping[str, Any]) -> Manifest:
    origin = DataOrigin(**content["data"])
    for name, kind in (("spec", str), ("column", str), ("split", str), ("block_size", int), ("template", str | None)):
        read(kind, getattr(origin, name), f"data.{name}")
    if not is_whole(origin.seed):
        raise TypeError("data")
    if origin.format not in FORMATS:
        raise TypeError("data")
    if origin.format != "text" and (origin.loss_on not in ("all", "completion") or not is_whole(origin.record_tokens)):
        raise TypeError("data")
    if origin.end_token not in (True, False) or (origin.end_token and not is_whole(origin.record_tokens)):
        raise TypeError("data")
    bytes.fromhex(content["fingerprint_key"])
    for name, kind in _TYPES.items():
        read(kind, content.get(name), name)
    read(str | None, content["settings"].get("canary_kind"), "settings.canary_kind")
    frame = content.get("frame")
    of_sources = content["format"] == FORMAT_OF_SOURCES or (
        content["format"] == FORMAT_OF_WHOLE_ROWS and "sources" in content
    )
    classes = classes_of(content["sources"]) if of_sources else CLASSES
    return Manifest(
        base_model=str(content["base_model"]),
        method=str(content["method"]),
        data=origin,
        settings=dict(content["settings"]),
        versions=dict(content["versions"]),
        records={
            name: tuple(_record(row, name, owned="unit_column" in content["settings"]) for row in content[name])
            for name in classes
        },
        fingerprint_key=content["fingerprint_key"],
        fingerprint=content["fingerprint"],
        training=dict(content["training"]),
        tokenizer=content.get("tokenizer"),
        frame=None if frame is None else {name: _whole_numbers(frame[name], f"frame.{name}") for name in _FRAME},
        by_words=origin.format != "text" and content["format"] != FORMAT_OF_WHOLE_ROWS,
        **(_parsed_sources(content, classes) if of_sources else {}),
    )


def _parsed_sources(content: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    sources = {
        name: ClassSource(*(read(str, each[key], f"sources.{name}.{key}") for key in ("spec", "column")))
        for name, each in content["sources"].items()
    }
    marks = {}
    for name in classes:
        if content[name] and name not in sources:
            raise KeyError(name)
        marks[name] = tuple(
            RowMark(read(str, row["hash"], f"{name}.hash"), read(str | None, row.get("unit"), f"{name}.unit"))
            for row in content[name]
        )
    read(Mapping, content["trainer"], "trainer")
    read(tuple[str, ...], content["trainer"].get("notes", []), "trainer.notes")
    read(Mapping | None, content["weights"], "weights")
    return {
        "sources": sources,
        "marks": marks,
        "written_by": str(content["written_by"]),
        "trainer": dict(content["trainer"]),
        "weights": None if content["weights"] is None else dict(content["weights"]),
    }


def _record(row: Mapping[str, Any], name: str, *, owned: bool) -> Record:
    made = name == "canaries" and "text" in row
    pieces = () if made else tuple(Piece(*_whole_numbers(piece, f"{name}.pieces")) for piece in row["pieces"])
    if not made and not pieces:
        raise Misfit(f"expected at least one piece as {name}.pieces")
    is_member = row["included"] if name == "canaries" else name == "members"
    if not isinstance(is_member, bool):
        raise TypeError("included")
    # They go to stderr and into files, so half a surrogate pair becomes its escape.
    id_, cluster = (str(row[key]).encode("utf-8", "backslashreplace").decode() for key in ("id", "cluster"))
    unit = cluster if owned and not made else None
    return Record(id_, read(str, row["text"], f"{name}.text") if made else "", is_member, cluster, pieces, unit=unit)
