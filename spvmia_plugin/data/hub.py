"""Data sets of the Hugging Face hub, through `datasets`: public data, so its cache is the right place for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.data.files import Loaded, member_said
from spvmia_plugin.data.source_file import EXPECTED, LABEL
from spvmia_plugin.errors import SpvmiaError, did_you_mean, reason_of
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document
from spvmia_plugin.util.files import as_path

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
    return _read(rows, columns, spec.name, option, clean, member)


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


def _read(
    rows: Any, columns: list[str], name: str, option: str, clean: Callable[[str], str], member: bool | None
) -> Loaded:
    documents: list[Document] = []
    row = empty = 0
    for batch in rows.select_columns(columns).iter(batch_size=10_000):
        for value, *labels in zip(*(batch[column] for column in columns), strict=True):
            row += 1
            if not (value is None or isinstance(value, str)):
                raise SpvmiaError(
                    f"{option}: {name}, row {row}: expected text in column {columns[0]!r}, got {type(value).__name__}; "
                    "name another column"
                )
            text = clean(value or "")
            is_member = member_said(labels[0]) if labels else None
            if labels and is_member is None and text.strip():
                raise SpvmiaError(
                    f"{option}: {name}, row {row}: expected 1 (a member) or 0 (none) in column {LABEL!r}, got another "
                    f"{type(labels[0]).__name__}; name a split for each class"
                )
            if labels and (is_member is not False) is not member:
                continue
            if text.strip():
                documents.append(Document(f"{name}:{row}", text))
            else:
                empty += 1
    if not documents:
        raise SpvmiaError(f"{option}: {name}: expected at least one row of text, got none; name another split")
    return Loaded(tuple(documents), empty)
