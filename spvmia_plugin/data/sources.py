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

from spvmia_plugin.config import Format
from spvmia_plugin.data.documents import Loaded as Loaded
from spvmia_plugin.data.documents import Taken
from spvmia_plugin.data.files import EXPECTED, Growth, SourceFile, find_shards, shard_names
from spvmia_plugin.data.layout import Layout
from spvmia_plugin.data.rows import rows_of
from spvmia_plugin.data.units import NOBODY, Belonging
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document
from spvmia_plugin.util.files import as_path, label


def read_documents(
    spec: str | Path,
    column: str,
    *,
    option: str,
    names: Mapping[Path, str] | None = None,
    member: bool | None = None,
    format: Format = "auto",  # noqa: A002 - as the option is called
    text_given: bool = False,
    belonging: Belonging = NOBODY,
) -> Loaded:
    """Read texts or conversations from a file, from all files of a folder, or from those that fit a pattern.

    The ending says how: .jsonl .ndjson .json .csv .tsv .txt .parquet .arrow .feather, each also compressed (.gz .zst
    .bz2).

    Args:
        spec: the file, folder or pattern; `~` stands for the home folder.
        column: the column with the text; lines of a .txt file and JSON strings have none, each is a document.
        option: what the user calls this source, for errors (`mia_members`).
        names: names of the files in document ids, by absolute path; by default as `shard_names` makes them.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.
        format: what the rows are; `auto` goes by the keys of the first.
        text_given: whether the user named the column.
        belonging: which columns say whose a row is.

    Raises:
        SpvmiaError: no such file, unknown ending, nothing in it, no such column, a row that does not fit, invalid
            JSON or UTF-8 (with the row).
    """
    shards = find_shards(spec, option)
    names = names or shard_names(shards)
    taken = Taken(Layout(column, format, text_given, member is not None, belonging), member)
    rows_before = 0
    for shard in shards:
        file = SourceFile(shard.path, option)
        growth = Growth(file, file.size())
        row = 0
        for row, values in rows_of(file, taken.layout):
            id_ = f"{names[shard.path]}:{row}"
            growth.add(taken.add(file, row, values, id_, rows_before + row if rows_before else 0))
        rows_before += row
    return taken.loaded(SourceFile(Path(spec).expanduser(), option), "give a file with texts")


PREFIX = "hf:"
PARQUET_REVISION = "refs/convert/parquet"
"""Where the hub keeps its own Parquet copy of data sets that are scripts, which `datasets` no longer runs."""

_BATCH = 1_000
"""Rows of the hub that are in memory at once."""

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


@dataclass(frozen=True)
class _Split:
    """A split of the hub, as a place for errors."""

    spec: HubSpec
    option: str

    def error(self, problem: str, remedy: str, row: int | None = None) -> SpvmiaError:
        """An error about the split, or about a row of it."""
        place = self.spec.name if row is None else f"{self.spec.name}, row {row}"
        return SpvmiaError(f"{self.option}: {place}: {problem}; {remedy}")


def load_hub(
    spec: HubSpec,
    column: str,
    *,
    option: str,
    local_option: str,
    clean: Callable[[str], str] = str,
    member: bool | None = None,
    format: Format = "auto",  # noqa: A002 - as the option is called
    text_given: bool = False,
    belonging: Belonging = NOBODY,
) -> Loaded:
    """Load one split of a hub data set.

    Args:
        spec: which.
        column: the column with the text.
        option: what asked for it, for errors.
        local_option: the option that takes a local file instead.
        clean: applied to each plain text.
        member: only rows whose column `label` says member (True) or non-member (False); None for all rows.
        format: what the rows are; `auto` goes by the columns.
        text_given: whether the user named the column.
        belonging: which columns say whose a row is.

    Raises:
        SpvmiaError: the hub cannot be reached, there is no such data set, split or column, or a row does not fit.
    """
    if as_path(spec.dataset, option).exists():
        raise SpvmiaError(
            f"{option}: expected a hub data set, got the local path {spec.dataset!r}; name a file without 'hf:' "
            "(it is then read in place, not copied into a cache)"
        )
    rows = load_split(spec, option, local_option)
    place = _Split(spec, option)
    taken = Taken(Layout(column, format, text_given, member is not None, belonging), member, clean)
    columns = taken.layout.columns(place, rows.column_names)
    row = 0
    for batch in rows.select_columns(list(columns)).iter(batch_size=_BATCH):
        for values in zip(*(batch[name] for name in columns), strict=True):
            row += 1
            taken.add(place, row, dict(zip(columns, values, strict=True)), f"{spec.name}:{row}")
    return taken.loaded(place, "name another split")


def load_source(source: DatasetSource, split: str, *, option: str, local_option: str) -> Loaded:
    """Load one split of a named data set from the hub; as `load_hub`."""
    spec = HubSpec(source.hub_id, source.config, split)
    return load_hub(
        spec, source.text_column, option=option, local_option=local_option, clean=source.clean, format="text"
    )


def load_split(spec: HubSpec, option: str, local_option: str) -> Any:
    """The rows of one split, a `datasets.Dataset`: of the hub's Parquet copy where the data set is a script.

    Args:
        spec: which.
        option: what asked for it, for errors.
        local_option: the option that takes a local file instead.

    Raises:
        SpvmiaError: the hub cannot be reached, or there is no such data set or split.
    """
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
    format: Format = "auto",  # noqa: A002 - as the option is called
    text_given: bool = False,
    belonging: Belonging = NOBODY,
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
        format: what the rows are; `auto` goes by the keys of the first. A named data set holds texts.
        text_given: whether the user named the column.
        belonging: which columns say whose a row is.

    Raises:
        SpvmiaError: the data cannot be had, or do not fit.
    """
    local_option = local_option or option
    source = (datasets or {}).get(spec)
    if source is not None:
        for beside in belonging.columns:
            raise SpvmiaError(
                f"{option}: expected data of your own beside {belonging.option(beside)}, got the data set {spec}, of "
                "which only the text is read; name a file, or leave the option out"
            )
        return load_source(source, source.train_split, option=option, local_option=local_option)
    if spec.startswith(PREFIX):
        return load_hub(
            parse_hub_spec(spec, option=option),
            column,
            option=option,
            local_option=local_option,
            member=member,
            format=format,
            text_given=text_given,
            belonging=belonging,
        )
    return read_documents(
        spec,
        column,
        option=option,
        names=names,
        member=member,
        format=format,
        text_given=text_given,
        belonging=belonging,
    )


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
