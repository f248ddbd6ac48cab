"""Turns what a user names into documents: a file, `hf:...`, or a registered data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from spvmia_plugin.data.files import Loaded, read_documents
from spvmia_plugin.data.hub import PREFIX, load_hub, load_source, parse_hub_spec
from spvmia_plugin.data.shards import find_shards, shard_names
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document
from spvmia_plugin.util.files import label


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
