"""Whether the audited model still cuts text into the tokens that the records were cut and trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

PROBES = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "  two  spaces\tand\na line break",
    "naïve café, 東京, 😀 – “quoted” — 3.14159",
    "def f(x):\n    return {'a': [x]}  # code",
)
"""Encoded with two tokenizers to tell them apart where their vocabularies are the same."""

Encode = Callable[[str], Sequence[int]]


def probe_digest(encode: Encode) -> str:
    """SHA-256 of the tokens of a few sentences, in hexadecimal; `encode` adds no special tokens."""
    ids = [list(map(int, encode(probe))) for probe in PROBES]
    return hashlib.sha256(repr(ids).encode()).hexdigest()
