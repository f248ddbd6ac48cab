"""Small corpora and a word tokenizer for tests of data; no transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spvmia_plugin.records import Document
from tests.tiny import tiny_texts

_TOKEN = re.compile(r"\s?\S{1,4}|\s")


def word_tokenize(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Pieces of at most four characters, with the white space before them; every character is in one token."""
    spans = [match.span() for match in _TOKEN.finditer(text)]
    return [len(text[start:end]) for start, end in spans], spans


def documents(texts: Sequence[str], name: str = "d.jsonl") -> list[Document]:
    return [Document(f"{name}:{row}", text) for row, text in enumerate(texts, start=1)]


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def corpus(path: Path, n: int, *, seed: int = 0) -> Path:
    """A .jsonl file of `n` different texts; other seeds give other texts."""
    return write_texts(path, tiny_texts(n, seed=seed))


class NoTokenizer:
    """A tokenizer callable that must not be called."""

    def __call__(self) -> Any:
        raise AssertionError("the tokenizer was asked for")
