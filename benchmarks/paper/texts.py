"""Files that an audit takes besides its manifest: candidate data, data of an oracle, other prompts. All private."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spvmia_plugin.data.load import builtin_datasets
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.data.packing import cut_documents, fast_tokenize
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import load_spec
from spvmia_plugin.data.split import shuffled, unique, without
from spvmia_plugin.records import Document, Record
from spvmia_plugin.util.files import private_folder, write_private


def read_target(target: Path) -> tuple[dict[str, list[Record]], dict[str, list[Document]]]:
    """The records of a target, and the documents they were cut from, by class."""
    return rebuild(read_manifest(target), builtin_datasets())


def untouched(data: str, column: str, target: Path, seed: int) -> list[Document]:
    """Documents of the data that a target's manifest does not name, in a seeded order."""
    _, used = read_target(target)
    documents = load_spec(data, column, option="--data", datasets=builtin_datasets()).documents
    named = [document for of_class in used.values() for document in of_class]
    return list(shuffled(without(unique(documents), named), seed, "untouched"))


def write_texts(path: Path, texts: Iterable[str]) -> Path:
    """Write texts as JSONL that only their owner may read."""
    private_folder(path.parent)
    write_private(path, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    return path


def texts_for(documents: Sequence[Document], tokenizer: Any, tokens: int) -> list[str]:
    """As many of the first documents as hold so many tokens; all of them if they hold fewer."""
    chosen, count = [], 0
    for document in documents:
        if count >= tokens:
            break
        chosen.append(document.text)
        count += len(tokenizer(document.text, verbose=False)["input_ids"])
    return chosen


def prompt_texts(kind: str, tokenizer: Any, block: int, n: int, other: Sequence[Document]) -> list[str]:
    """Documents to prompt with that are not of the members' data.

    Args:
        kind: `other`: beginnings of documents of another data set; `irrelevant`: made-up word salad; `none`: "The",
            which with one prompt token is as little as a model can be given to begin with.
        tokenizer: the target's.
        block: tokens of a document.
        n: how many.
        other: documents of the other data set.
    """
    from benchmarks.common import made_up_texts

    salad = [Document(str(i), text) for i, text in enumerate(made_up_texts(n, words=2 * block))]
    documents = cut_documents(list(other) if kind == "other" else salad, fast_tokenize(tokenizer), block)
    texts = [document.text for document in documents if len(tokenizer(document.text)["input_ids"]) >= block][:n]
    return [f"The {text}" for text in texts] if kind == "none" else texts


def on_another_base(target: Path, base: str, folder: Path) -> Path:
    """A copy of an adapter and its manifest that belongs to another form of its base, such as one of fewer bits."""
    bare_copy(target, folder)
    write_manifest(replace(read_manifest(target), base_model=base), folder / MANIFEST_NAME)
    return folder


def bare_copy(target: Path, folder: Path) -> Path:
    """A target's weights without its manifest: for audits whose records are named by files."""
    private_folder(folder)
    for file in target.iterdir():
        if file.is_file() and not file.name.startswith("mia_manifest"):
            shutil.copyfile(file, folder / file.name)
    return folder
