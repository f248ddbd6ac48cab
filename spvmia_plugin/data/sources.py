"""Turns what a user names into documents: a file, `hf:...`, or a registered data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spvmia_plugin.data.files import Loaded, read_documents
from spvmia_plugin.data.hub import PREFIX, load_hub, load_source, parse_hub_spec
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import Document


def cleaned(documents: Iterable[Document], source: DatasetSource) -> tuple[Document, ...]:
    """The documents of a file that stands in for a named data set, cleaned as those of the hub are."""
    return tuple(Document(document.id, source.clean(document.text)) for document in documents)


def load_spec(
    spec: str,
    column: str,
    *,
    option: str,
    local_option: str | None = None,
    datasets: Mapping[str, DatasetSource] | None = None,
    name: str | None = None,
) -> Loaded:
    """Load the documents behind a file name, `hf:<dataset>[:<config>][:<split>]`, or the name of a data set.

    Args:
        spec: what the user wrote.
        column: the column with the text; a named data set has its own.
        option: what asked for it, for errors.
        local_option: the option that takes a local file where the hub is out of reach; by default the same.
        datasets: named data sets that are allowed here.
        name: a file's name in document ids.

    Raises:
        SpvmiaError: the data cannot be had, or are no texts.
    """
    local_option = local_option or option
    source = (datasets or {}).get(spec)
    if source is not None:
        return load_source(source, source.train_split, option=option, local_option=local_option)
    if spec.startswith(PREFIX):
        return load_hub(parse_hub_spec(spec, option=option), column, option=option, local_option=local_option)
    return read_documents(spec, column, option=option, name=name)


def is_file_spec(spec: str, datasets: Mapping[str, DatasetSource]) -> bool:
    """Whether a spec names a local file."""
    return spec not in datasets and not spec.startswith(PREFIX)


def document_names(specs: Sequence[str]) -> dict[str, str]:
    """Names of files in document ids: the last part of each path, with folders before it where these are the same."""
    paths = {spec: Path(spec).expanduser().absolute().parts for spec in specs}
    names = {spec: parts[-1] for spec, parts in paths.items()}
    for depth in range(2, max((len(parts) for parts in paths.values()), default=0) + 1):
        taken = Counter(names.values())
        if all(count == 1 for count in taken.values()):
            break
        names |= {spec: "/".join(paths[spec][-depth:]) for spec, name in names.items() if taken[name] > 1}
    return names
