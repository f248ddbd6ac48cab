"""Turns what a user names into documents: files, `hf:...`, or a registered data set.

A user's own files are read directly: `datasets` would leave a copy of a private file in the cache. Data of the hub are
public, so its cache is the right place for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.data.files import EXPECTED, LABEL, Growth, SourceFile, find_shards, shard_names
from spvmia_plugin.data.rows import rows_of
from spvmia_plugin.errors import SpvmiaError, did_you_mean, reason_of
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document
from spvmia_plugin.util.files import as_path, label

_MEMBER = ("1", "1.0", "true", "member")
_NONMEMBER = ("0", "0.0", "false", "nonmember", "non-member")
"""What stands in a column `label`, in lower case."""


@dataclass(frozen=True)
class Loaded:
    """What one source holds.

    Attributes:
        documents: its texts, in order; ids are `name:row`, rows from 1 in each file.
        empty_rows: rows without a text, or of nothing but white space, left out.
    """

    documents: tuple[Document, ...]
    empty_rows: int


def read_documents(
    spec: str | Path,
    column: str,
    *,
    option: str,
    names: Mapping[Path, str] | None = None,
    member: bool | None = None,
) -> Loaded:
    """Read texts from a file, from all files of a folder, or from those that fit a pattern.

    The ending says how: .jsonl .ndjson .json .csv .tsv .txt .parquet .arrow .feather, each also compressed (.gz .zst
    .bz2).

    Args:
        spec: the file, folder or pattern; `~` stands for the home folder.
        column: the column with the text; lines of a .txt file and JSON strings have none, each is a document.
        option: what the user calls this source, for errors (`mia_members`).
        names: names of the files in document ids, by absolute path; by default as `shard_names` makes them.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.

    Raises:
        SpvmiaError: no such file, unknown ending, nothing in it, no such column, a row that is no text, invalid
            JSON or UTF-8 (with the row).
    """
    shards = find_shards(spec, option)
    names = names or shard_names(shards)
    columns = (column,) if member is None else (column, LABEL)
    documents: list[Document] = []
    empty = rows_before = 0
    for shard in shards:
        file = SourceFile(shard.path, option, columns)
        growth = Growth(file, file.size())
        row = 0
        for row, (value, *labels) in rows_of(file):
            text = _checked_text(file, row, value)
            growth.add(len(text))
            is_member = _is_member(file, row, labels[0], text) if labels else None
            if is_member is not member:
                continue
            if text.strip():
                documents.append(Document(f"{names[shard.path]}:{row}", text, rows_before + row if rows_before else 0))
            else:
                empty += 1
        rows_before += row
    if not documents:
        what = "row of text" if member is None else f"{'member' if member else 'non-member'} with a text"
        whole = SourceFile(Path(spec).expanduser(), option, columns)
        raise whole.error(f"expected at least one {what}, got none", "give a file with texts")
    return Loaded(tuple(documents), empty)


def _checked_text(file: SourceFile, row: int, value: Any) -> str:
    """The text of a row; a missing one is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise file.error(
            f"expected text in column {file.columns[0]!r}, got {type(value).__name__}", "correct or remove the row", row
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise file.error("expected valid Unicode, got half a surrogate pair", "correct the row", row) from error
    return value


def member_said(value: Any) -> bool | None:
    """What a value of the column `label` says: a member, none, or (None) neither of them."""
    said = str(value).strip().lower()
    return True if said in _MEMBER else False if said in _NONMEMBER else None


def _is_member(file: SourceFile, row: int, value: Any, text: str) -> bool:
    """What the label of a row says; an empty row without one counts among the members."""
    said = member_said(value)
    if said is None and text.strip():
        raise file.error(
            f"expected 1 (a member) or 0 (none) in column {LABEL!r}, got "
            f"{'nothing' if value is None else f'another {type(value).__name__}'}",
            "correct or remove the row, or give each class its own file",
            row,
        )
    return said is not False


PREFIX = "hf:"
PARQUET_REVISION = "refs/convert/parquet"
"""Where the hub keeps its own Parquet copy of data sets that are scripts, which `datasets` no longer runs."""

_SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval", "all"})


@dataclass(frozen=True)
class HubSpec:
    """`hf:<dataset>[:<config>][:<split>]`, taken apart."""

    dataset: str
    config: str | None
    split: str

    @property
    def name(self) -> str:
        """How it stands in document ids, before `:row`."""
        return ":".join(part for part in (self.dataset, self.config, self.split) if part)


def parse_hub_spec(spec: str, *, option: str) -> HubSpec:
    """Read `hf:<dataset>[:<config>][:<split>]`; the split is `train` unless given.

    One part after the data set is a split if it is a usual name of one (train, test, validation, ...; also with a
    slice, `train[:1000]`), else a configuration.

    Raises:
        SpvmiaError: no data set, or too many parts.
    """
    dataset, *rest = spec.removeprefix(PREFIX).split(":", 1)
    parts = _split_outside_brackets(rest[0]) if rest else []
    if not dataset.strip() or len(parts) > 2:
        raise SpvmiaError(f"{option}: expected hf:<dataset>[:<config>][:<split>], got {spec!r}; correct it")
    if len(parts) == 1:
        is_split = parts[0].partition("[")[0] in _SPLITS
        parts = ["", parts[0]] if is_split else [parts[0], "train"]
    config, split = parts or ["", "train"]
    return HubSpec(dataset, config or None, split or "train")


def _split_outside_brackets(text: str) -> list[str]:
    head, bracket, tail = text.partition("[")
    parts = head.split(":")
    return [*parts[:-1], parts[-1] + bracket + tail]


def load_hub(
    spec: HubSpec,
    column: str,
    *,
    option: str,
    local_option: str,
    clean: Callable[[str], str] = str,
    member: bool | None = None,
) -> Loaded:
    """Load one split of a hub data set.

    Args:
        spec: which.
        column: the column with the text.
        option: what asked for it, for errors.
        local_option: the option that takes a local file instead.
        clean: applied to each text.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.

    Raises:
        SpvmiaError: the hub cannot be reached, there is no such data set, split or column, or a row is no text.
    """
    if as_path(spec.dataset, option).exists():
        raise SpvmiaError(
            f"{option}: expected a hub data set, got the local path {spec.dataset!r}; name a file without 'hf:' "
            "(it is then read in place, not copied into a cache)"
        )
    rows = _load(spec, option, local_option)
    columns = [column] if member is None else [column, LABEL]
    for wanted in columns:
        if wanted not in rows.column_names:
            known = ", ".join(map(repr, rows.column_names))
            raise SpvmiaError(
                f"{option}: {spec.name}: expected a column {wanted!r}, got {known}"
                f"{did_you_mean(wanted, rows.column_names)}; "
                + ("name the column with the text" if wanted == column else "name a split for each class")
            )
    documents: list[Document] = []
    row = empty = 0
    for batch in rows.select_columns(columns).iter(batch_size=10_000):
        for value, *labels in zip(*(batch[column] for column in columns), strict=True):
            row += 1
            if not (value is None or isinstance(value, str)):
                raise SpvmiaError(
                    f"{option}: {spec.name}, row {row}: expected text in column {column!r}, got "
                    f"{type(value).__name__}; name another column"
                )
            text = clean(value or "")
            is_member = member_said(labels[0]) if labels else None
            if labels and is_member is None and text.strip():
                raise SpvmiaError(
                    f"{option}: {spec.name}, row {row}: expected 1 (a member) or 0 (none) in column {LABEL!r}, got "
                    f"another {type(labels[0]).__name__}; name a split for each class"
                )
            if labels and (is_member is not False) is not member:
                continue
            if text.strip():
                documents.append(Document(f"{spec.name}:{row}", text))
            else:
                empty += 1
    if not documents:
        raise SpvmiaError(f"{option}: {spec.name}: expected at least one row of text, got none; name another split")
    return Loaded(tuple(documents), empty)


def load_source(source: DatasetSource, split: str, *, option: str, local_option: str) -> Loaded:
    """Load one split of a named data set from the hub; as `load_hub`."""
    spec = HubSpec(source.hub_id, source.config, split)
    return load_hub(spec, source.text_column, option=option, local_option=local_option, clean=source.clean)


def _load(spec: HubSpec, option: str, local_option: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(spec.dataset, spec.config, split=spec.split, trust_remote_code=False)
    except ConnectionError as error:
        raise SpvmiaError(
            f"{option}: the hub cannot be reached for {spec.dataset!r}; "
            f"give a local file ({EXPECTED}) with {local_option}"
        ) from error
    except Exception as error:  # libraries below `datasets` raise their own kinds
        reason = _reason(error)
        if not isinstance(error, RuntimeError):  # what `datasets` raises for a data set that is a script
            raise _unavailable(spec, option, local_option, reason) from error
    try:
        return datasets.load_dataset(
            spec.dataset, spec.config, split=spec.split, revision=PARQUET_REVISION, trust_remote_code=False
        )
    except Exception as error:  # as above
        both = f"{reason}; and of its Parquet copy, {_reason(error)}"
        raise _unavailable(spec, option, local_option, both) from error


def _reason(error: BaseException) -> str:
    """Why a data set cannot be loaded. pyarrow shows the row that it could not read: then only the error's kind."""
    import datasets
    import pyarrow

    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    quoting = (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError)
    return type(error).__name__ if any(isinstance(each, quoting) for each in chain) else reason_of(error)


def _unavailable(spec: HubSpec, option: str, local_option: str, reason: str) -> SpvmiaError:
    return SpvmiaError(
        f"{option}: cannot load {spec.name} from the hub ({reason}); correct the name, "
        f"or give a local file with {local_option}"
    )


def cleaned(documents: Iterable[Document], source: DatasetSource) -> tuple[Document, ...]:
    """The documents of a file that stands in for a named data set, cleaned as those of the hub are."""
    return tuple(dataclasses.replace(document, text=source.clean(document.text)) for document in documents)


def load_spec(
    spec: str,
    column: str,
    *,
    option: str,
    local_option: str | None = None,
    datasets: Mapping[str, DatasetSource] | None = None,
    names: Mapping[Path, str] | None = None,
    member: bool | None = None,
) -> Loaded:
    """Load the documents behind a file, folder or pattern, `hf:<dataset>[:<config>][:<split>]`, or a data set's name.

    Args:
        spec: what the user wrote.
        column: the column with the text; a named data set has its own.
        option: what asked for it, for errors.
        local_option: the option that takes a local file where the hub is out of reach; by default the same.
        datasets: named data sets that are allowed here.
        names: names of files in document ids, by absolute path.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.

    Raises:
        SpvmiaError: the data cannot be had, or are no texts.
    """
    local_option = local_option or option
    source = (datasets or {}).get(spec)
    if source is not None:
        return load_source(source, source.train_split, option=option, local_option=local_option)
    if spec.startswith(PREFIX):
        return load_hub(
            parse_hub_spec(spec, option=option), column, option=option, local_option=local_option, member=member
        )
    return read_documents(spec, column, option=option, names=names, member=member)


def is_file_spec(spec: str, datasets: Mapping[str, DatasetSource]) -> bool:
    """Whether a spec names a local file."""
    return spec not in datasets and not spec.startswith(PREFIX)


def file_names(specs: Mapping[str, str]) -> dict[Path, str]:
    """Names in document ids of all files behind specs that are read together, different for different files.

    Args:
        specs: specs by the option that named them; those of the hub have names of their own.

    Raises:
        SpvmiaError: as `find_shards`.
    """
    found = (find_shards(spec, option) for option, spec in specs.items() if not spec.startswith(PREFIX))
    return shard_names(shard for shards in found for shard in shards)


def source_name(spec: str) -> str:
    """What a spec is called in results: a file, folder or pattern without the folders before it."""
    return spec if spec.startswith(PREFIX) else label(Path(spec).name)
