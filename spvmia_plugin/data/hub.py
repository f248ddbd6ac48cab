"""Data sets of the Hugging Face hub, through `datasets`: public data, so its cache is the right place for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.data.files import Loaded
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document

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
    spec: HubSpec, column: str, *, option: str, local_option: str, clean: Callable[[str], str] = str
) -> Loaded:
    """Load one split of a hub data set.

    Args:
        spec: which.
        column: the column with the text.
        option: what asked for it, for errors.
        local_option: the option that takes a local file instead.
        clean: applied to each text.

    Raises:
        SpvmiaError: the hub cannot be reached, there is no such data set, split or column, or a row is no text.
    """
    if Path(spec.dataset).exists():
        raise SpvmiaError(
            f"{option}: expected a hub data set, got the local path {spec.dataset!r}; name a file without 'hf:' "
            "(it is then read in place, not copied into a cache)"
        )
    rows = _load(spec, option, local_option)
    if column not in rows.column_names:
        known = ", ".join(map(repr, rows.column_names))
        raise SpvmiaError(
            f"{option}: {spec.name}: expected a column {column!r}, got {known}"
            f"{did_you_mean(column, rows.column_names)}; name the column with the text"
        )
    return _read(rows, column, spec.name, option, clean)


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
            f"give a local file (.jsonl .json .csv .parquet .txt) with {local_option}"
        ) from error
    except Exception as error:  # libraries below `datasets` raise their own kinds
        rows = _load_converted(spec) if isinstance(error, RuntimeError) else None
        if rows is not None:
            return rows
        reason = type(error).__name__
        if not _may_quote_rows(error):
            reason += f": {(str(error).splitlines() or [''])[0][:200]}"
        raise SpvmiaError(
            f"{option}: cannot load {spec.name} from the hub ({reason}); correct the name, "
            f"or give a local file with {local_option}"
        ) from error


def _may_quote_rows(error: BaseException) -> bool:
    """Whether an error arose in reading rows, not in finding them: pyarrow shows the row that it could not read."""
    import datasets
    import pyarrow

    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return any(isinstance(each, (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError)) for each in chain)


def _load_converted(spec: HubSpec) -> Any:
    """The hub's Parquet copy of a data set that is a script; None if there is none either."""
    import datasets

    try:
        return datasets.load_dataset(
            spec.dataset, spec.config, split=spec.split, revision=PARQUET_REVISION, trust_remote_code=False
        )
    except Exception:  # the first error is the one to report
        return None


def _read(rows: Any, column: str, name: str, option: str, clean: Callable[[str], str]) -> Loaded:
    documents: list[Document] = []
    row = 0
    for batch in rows.select_columns([column]).iter(batch_size=10_000):
        for value in batch[column]:
            row += 1
            if not isinstance(value, str):
                raise SpvmiaError(
                    f"{option}: {name}, row {row}: expected text in column {column!r}, got {type(value).__name__}; "
                    "name another column"
                )
            text = clean(value)
            if text.strip():
                documents.append(Document(f"{name}:{row}", text))
    if not documents:
        raise SpvmiaError(f"{option}: {name}: expected at least one row of text, got none; name another split")
    return Loaded(tuple(documents), row - len(documents))
