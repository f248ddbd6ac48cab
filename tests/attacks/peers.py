"""What the authors' own code makes of given token log-probabilities, slimmed for the repository: figures and no text.

`python -m tests.attacks.peers SOURCE` writes `peers.json.gz` anew from the full file of these figures. Of a text, its
lengths in characters and compressed bytes stay; of a paraphrase, its mean log-probability, which is all that the
attacks take of it.
"""

from __future__ import annotations

import gzip
import json
import random
import string
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

FILE = Path(__file__).with_name("peers.json.gz")


def slim(source: dict[str, Any]) -> dict[str, Any]:
    """The figures that the tests read, log-probabilities to five decimals."""
    rows = [
        {
            "target": {name: _rounded(row["target"][name]) for name in ("logprob", "mean", "std")},
            "base": _rounded(row["base"]["logprob"]),
            "lower": _rounded(row["lower"]["logprob"]),
            "paraphrases": _rounded([float(np.mean(logprob)) for logprob in row["neighbours"]["target"]]),
            "characters": len(row["text"]),
            "compressed": len(zlib.compress(row["text"].encode())),
        }
        for row in source["rows"]
    ]
    if any(any(row["target"]["top1"]) for row in source["rows"]):
        raise SystemExit("a token is the target's top-1: write these flags too")
    return {"rows": rows, "scores": source["scores"], "spv": source["spv"]}


def load() -> dict[str, Any]:
    return dict(json.loads(gzip.decompress(FILE.read_bytes())))


def tokens(logprob: list[float], mean: list[float] | None = None, std: list[float] | None = None) -> TokenSignals:
    moments = [None if values is None else np.array(values, dtype=np.float32) for values in (mean, std)]
    return TokenSignals(np.array(logprob, dtype=np.float32), np.zeros(len(logprob), dtype=bool), *moments)


def record(row: dict[str, Any]) -> RecordSignals:
    """A row as an attack sees it; its text is made up, with the compressed length of the real one."""
    return RecordSignals(
        text=_text_of(row["compressed"]),
        tokens={
            (Role.TARGET, View.TEXT): tokens(**row["target"]),
            (Role.TARGET, View.LOWERCASE): tokens(row["lower"]),
            (Role.BASE, View.TEXT): tokens(row["base"]),
        },
        neighbours={Role.TARGET: [tokens([mean]) for mean in row["paraphrases"]]},
    )


def _text_of(compressed: int) -> str:
    """Random letters that zlib compresses to so many bytes."""
    for seed in range(100):
        letters = "".join(random.Random(seed).choices(string.ascii_letters, k=2 * compressed))
        for length in range(compressed // 2, len(letters)):
            if len(zlib.compress(letters[:length].encode())) == compressed:
                return letters[:length]
    raise ValueError(f"no text of {compressed} compressed bytes")


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]


if __name__ == "__main__":
    text = json.dumps(slim(json.loads(Path(sys.argv[1]).read_text("utf-8"))), separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))
