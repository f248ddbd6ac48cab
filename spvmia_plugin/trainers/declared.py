"""What a user declares: the records that were trained on, those that were not, and held-out ones."""

from __future__ import annotations

import hmac
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spvmia_plugin.config import FORMATS, Format
from spvmia_plugin.data.documents import Loaded, Taken
from spvmia_plugin.data.files import absolute_spec
from spvmia_plugin.data.layout import Layout
from spvmia_plugin.data.origin import ClassSource
from spvmia_plugin.data.packing import document_row
from spvmia_plugin.data.sources import PREFIX as HUB
from spvmia_plugin.data.sources import load_spec, read_documents
from spvmia_plugin.data.split import MIN_RECORDS, in_units, text_key, without_prompts
from spvmia_plugin.data.units import BelongingInClear, check_apart
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document
from spvmia_plugin.util.files import private_folder, write_private

CLASSES = ("members", "nonmembers", "prompts", "candidate")
AUDITED = CLASSES[:2]
MEANING = {
    "members": "records that are trained on",
    "nonmembers": "records like them that are not",
    "prompts": "held-out records",
    "candidate": "other records of the same kind",
}
_BATCH = 1000


@dataclass
class Side:
    """The records of one class.

    Attributes:
        documents: each text once, in order, with whose it is IN CLEAR where the user named a column.
        source: where they will be read again.
        duplicates: rows whose text stood before.
        lines: rows that lie nowhere on disk yet, as JSON; None where the source is there.
    """

    documents: list[Document]
    source: ClassSource
    duplicates: int = 0
    lines: Sequence[str] | None = None


@dataclass
class Declared:
    """All classes, apart from each other.

    Attributes:
        sides: by class; there are always members and non-members.
        kind: what the rows are.
        column: the column with the text.
    """

    sides: dict[str, Side]
    kind: Format
    column: str

    def texts(self) -> list[tuple[str, str]]:
        """(id, text) of every record: what is private."""
        return [(document.id, document.text) for side in self.sides.values() for document in side.documents]

    def keep_rows(self) -> list[Path]:
        """Write the rows that lie nowhere on disk, for their owner alone; returns the files.

        Raises:
            OSError: they cannot be written.
        """
        kept = []
        for side in self.sides.values():
            if side.lines is not None:
                path = Path(side.source.spec)
                private_folder(path.parent)
                if not path.exists():  # it is called by what it holds
                    write_private(path, ("\n".join(side.lines) + "\n").encode())
                kept.append(path)
        return kept


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        column: the column with the text.
        format: what rows are, or `auto`.
        unit_column: the column that says whom a row belongs to.
        text_given: whether the user named the column with the text.
        rows_folder: where rows go that lie nowhere on disk.
        key: names those files by what they hold.
        option: of a class, as the user calls it.
        group_column: the column that says which group an audited row is of. It is read again at the audit, and nothing
            but kept here.
    """

    column: str
    format: Format
    unit_column: str | None
    text_given: bool
    rows_folder: Path
    key: bytes
    option: str = "{}="
    group_column: str | None = None

    def named(self, name: str) -> str:
        """What the user calls a class, or another option."""
        return self.option.format(name.replace("_", "-") if self.option.startswith("--") else name)

    def belonging(self, name: str) -> BelongingInClear:
        """What says whom a row of a class belongs to, and of which group one is that is audited."""
        return BelongingInClear(self.unit_column, self.group_column if name in AUDITED else None)

    @property
    def told_of_units(self) -> dict[str, str]:
        """What a manifest says of it beside the hashes: what the column is called, where there is one."""
        return {} if self.unit_column is None else {"unit_column": self.unit_column}


def read_declared(given: Mapping[str, Any], reading: Reading, seed: int) -> Declared:
    """Read all classes, and make sure that no text is in two of them.

    Without prompts a seeded share of the non-members becomes the prompts, as in an audit of files.

    Args:
        given: by class a file, a folder, a pattern, `hf:...`, or a `datasets.Dataset`; None for what there is not.
        reading: how they are read.
        seed: of that share.

    Raises:
        SpvmiaError: no members or non-members, too few, of several kinds, in two classes; a row that does not say whom
            it belongs to, a unit in both classes; or as the readers.
    """
    for name in ("members", "nonmembers"):
        if given.get(name) is None:
            raise SpvmiaError(
                f"{reading.named(name)}: expected a file, hf:NAME or datasets.Dataset of {MEANING[name]}, got none; an "
                "audit compares the two, so name both members and nonmembers"
            )
    one_file = isinstance(given["members"], (str, Path)) and given["members"] == given["nonmembers"]
    sides: dict[str, Side] = {}
    kind: Format | None = None
    for name in CLASSES:
        if given.get(name) is not None:
            says = name == "members" if one_file and name in ("members", "nonmembers") else None
            found, side = _side(name, given[name], reading, says)
            if kind not in (None, found):
                raise SpvmiaError(
                    f"{reading.named(name)}: expected rows of the format {kind} as the members are, got {found}; "
                    "convert one of them, or name the format"
                )
            kind, sides[name] = found, side
    declared = Declared(sides, kind or "text", reading.column)
    _check_apart(declared, reading)
    _tell_apart(sides)
    if "prompts" not in sides:
        _take_prompts(sides, seed)
    for name in ("members", "nonmembers"):
        if len(sides[name].documents) < MIN_RECORDS:
            beside = " beside the prompts" if name == "nonmembers" and given.get("prompts") is None else ""
            raise SpvmiaError(
                f"{reading.named(name)}: expected at least {MIN_RECORDS} different records{beside}, got "
                f"{len(sides[name].documents)}; name more"
            )
    return declared


def _side(name: str, given: Any, reading: Reading, member: bool | None) -> tuple[Format, Side]:
    option = reading.named(name)
    if isinstance(given, (str, Path)):
        spec = str(given)
        loaded = load_spec(
            spec,
            reading.column,
            option=option,
            member=member,
            format=reading.format,
            text_given=reading.text_given,
            belonging=reading.belonging(name),
        )
        source = ClassSource(spec if spec.startswith(HUB) else absolute_spec(spec), reading.column)
        return loaded.format, _unique(loaded, source)
    if hasattr(given, "column_names") and hasattr(given, "iter") and hasattr(given, "__len__"):
        return _of_dataset(name, given, reading)
    if hasattr(given, "__iter__") and not hasattr(given, "__len__"):
        raise SpvmiaError(
            f"{option}: expected data that can be read twice, got a stream ({type(given).__name__}), of which "
            "nothing is left to audit; name the file or hf:NAME that it streams from, or take a part: "
            "Dataset.from_list(list(stream.take(1000)))"
        )
    raise SpvmiaError(
        f"{option}: expected a file, a folder, a pattern, hf:NAME or a datasets.Dataset of {MEANING[name]}, got "
        f"{type(given).__name__}; several files are a folder or a pattern"
    )


def _unique(loaded: Loaded, source: ClassSource, lines: Sequence[str] | None = None) -> Side:
    found: dict[str, Document] = {}
    for document in loaded.documents:
        found.setdefault(text_key(document.text), document)
    return Side(list(found.values()), source, len(loaded.documents) - len(found), lines)


@dataclass(frozen=True)
class _InMemory:
    """A data set that was handed over, as a place for errors."""

    option: str

    def error(self, problem: str, remedy: str, row: int | None = None) -> SpvmiaError:
        """An error about it, or about a row of it."""
        place = "the data set" if row is None else f"the data set, row {row}"
        return SpvmiaError(f"{self.option}: {place}: {problem}; {remedy}")


def _of_dataset(name: str, given: Any, reading: Reading) -> tuple[Format, Side]:
    """Rows of a `datasets.Dataset`: from its Arrow file where that lies on disk for good, else from a copy of ours."""
    place = _InMemory(reading.named(name))
    belonging = reading.belonging(name)
    taken = Taken(Layout(reading.column, reading.format, reading.text_given, belonging=belonging), None)
    columns = taken.layout.columns(place, given.column_names)
    of_copy = replace(belonging, unit=None)
    kept = Layout(reading.column, reading.format, reading.text_given, belonging=of_copy).columns(
        place, given.column_names
    )
    lines = []
    for row, values in enumerate(_rows(given), start=1):
        taken.add(place, row, {column: values[column] for column in columns}, f"{name}:{row}")
        lines.append(json.dumps({column: values[column] for column in kept}, default=str))  # not whose it is
    loaded = taken.loaded(place, "give a data set with texts")
    on_disk = _arrow(given, loaded, reading)
    if on_disk is not None:
        spec, moved = on_disk
        placed = [replace(each, id=f"{Path(spec).name}:{moved[document_row(each)]}") for each in loaded.documents]
        return loaded.format, _unique(replace(loaded, documents=tuple(placed)), ClassSource(spec, reading.column))
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    stem = f"{name}-{hmac.digest(reading.key, content, 'sha256').hex()[:16]}"
    path = reading.rows_folder / f"{stem}.jsonl"
    placed = [replace(each, id=f"{path.name}:{document_row(each)}") for each in loaded.documents]
    source = ClassSource(str(path), reading.column)
    return loaded.format, _unique(replace(loaded, documents=tuple(placed)), source, lines)


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    plain = dataset.with_format(None)
    for batch in plain.iter(batch_size=_BATCH):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def _arrow(dataset: Any, loaded: Loaded, reading: Reading) -> tuple[str, dict[int, int]] | None:
    """The one Arrow file that a data set is a view of, and where each of its rows stands there.

    None where there is no such file, where it is temporary, or where reading it does not give the very same rows: a
    slice of a table begins somewhere in its file, and says nowhere where.
    """
    indices = getattr(dataset, "_indices", None)
    named = (each["filename"] for each in getattr(dataset, "cache_files", []))
    files = [Path(each) for each in named if each != getattr(indices, "path", None)]
    if len(files) != 1 or not files[0].is_file() or _is_temporary(files[0]):
        return None
    try:
        order = range(len(dataset)) if indices is None else indices.column(0).to_pylist()
        found = read_documents(
            files[0], reading.column, option="", format=loaded.format, text_given=loaded.format == "text"
        )
    except (SpvmiaError, OSError, AttributeError):
        return None
    there = {document_row(each): each for each in found.documents}
    moved = {row: int(index) + 1 for row, index in enumerate(order, start=1)}
    for document in loaded.documents:
        other = there.get(moved[document_row(document)])
        if other is None or (other.text, other.conversation) != (document.text, document.conversation):
            return None
    return str(files[0].absolute()), moved


def _is_temporary(path: Path) -> bool:
    return Path(tempfile.gettempdir()).resolve() in path.resolve().parents


def _check_apart(declared: Declared, reading: Reading) -> None:
    """Refuse a text in two classes, and a unit among both members and non-members."""
    known: dict[str, tuple[str, str]] = {}
    for name in CLASSES:
        for document in declared.sides[name].documents if name in declared.sides else ():
            first = known.setdefault(text_key(document.text), (name, document.id))
            if first[0] != name:
                raise SpvmiaError(
                    f"{reading.named(name)}: {document.id} is the same text as {first[1]} of the {first[0]}, expected "
                    "each text in one class: an audit of records that are both says too little; remove one of them"
                )
    if reading.unit_column is not None:
        members, nonmembers = (declared.sides[name].documents for name in ("members", "nonmembers"))
        check_apart(reading.named("unit_column").removesuffix("="), members, nonmembers, reading.unit_column)


def _tell_apart(sides: Mapping[str, Side]) -> None:
    """Two files of one name in different folders give the same ids: then the class stands before them."""
    counts = Counter(document.id for side in sides.values() for document in side.documents)
    for name, side in sides.items():
        if any(counts[document.id] > 1 for document in side.documents):
            side.documents = [_numbered(document, f"{name}/{document.id}") for document in side.documents]


def _numbered(document: Document, id_: str) -> Document:
    return replace(document, id=id_, row=document_row(document))


def _take_prompts(sides: dict[str, Side], seed: int) -> None:
    """As `split_declared`: a quarter of the non-members, of whole units where these are known."""
    nonmembers = sides["nonmembers"]
    held, prompts = without_prompts(in_units(nonmembers.documents, seed, "nonmembers"))
    sides["prompts"] = replace(nonmembers, documents=prompts, duplicates=0)
    sides["nonmembers"] = replace(nonmembers, documents=held)


def check_format(value: str, option: str) -> None:
    """Refuse a format that nobody knows.

    Raises:
        SpvmiaError: it is none.
    """
    if value not in ("auto", *FORMATS):
        raise SpvmiaError(f"{option}: expected one of auto, {', '.join(FORMATS)}, got {value!r}; correct it")
