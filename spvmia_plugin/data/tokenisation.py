"""How a tokenizer reads a text: the one place that knows which tokens it adds of its own, before and after.

Packing, prompts and paraphrases count the tokens of the text alone; training takes what the tokenizer gives; scoring
reads the same sequence, and a token that nothing stands before has no score. All of them ask here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Frame

PROBES = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "  two  spaces\tand\na line break",
    "naïve café, 東京, 😀 – “quoted” — 3.14159",
    "def f(x):\n    return {'a': [x]}  # code",
)
"""Encoded with two tokenizers to tell them apart where their vocabularies are the same."""

Encode = Callable[[str], Sequence[int]]


class Reading:
    """What a tokenizer makes of a text, and of tokens.

    Args:
        tokenizer: a tokenizer of transformers, fast or slow.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        frames = {self._frame_of(probe) for probe in PROBES}
        self._constant = frames.pop() if len(frames) == 1 else None

    def body(self, text: str) -> list[int]:
        """Tokens of the text alone: nothing that the tokenizer adds before or after."""
        return _ids(self.tokenizer, text, special=False)

    def natural(self, text: str) -> list[int]:
        """What the tokenizer gives when nothing is said: what trainers feed to a model."""
        return _ids(self.tokenizer, text, special=True)

    def frame(self, text: str) -> Frame:
        """What `natural` has around `body`: the same for every text with all but the strangest tokenizers.

        Raises:
            SpvmiaError: the tokenizer does not put its tokens around those of the text.
        """
        return self._constant or self._frame_of(text)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special tokens left out, nothing tidied up."""
        return self._decoded(token_ids, skip_special=True)

    def survives(self, token_ids: Sequence[int]) -> bool:
        """Whether these are the tokens of their own text: somebody who can send text alone can have them read."""
        return self.body(self._decoded(token_ids, skip_special=False)) == list(token_ids)

    @cached_property
    def _size(self) -> int:
        return int(max(self.tokenizer.get_vocab().values())) + 1

    def _decoded(self, token_ids: Sequence[int], *, skip_special: bool) -> str:
        # Embeddings are often padded: a model may sample ids that stand for no text, and slow tokenizers fail on them.
        known = [token_id for token_id in token_ids if token_id < self._size]
        options = {"skip_special_tokens": skip_special, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(known, **options))

    def _frame_of(self, text: str) -> Frame:
        found = frame_around(self.body(text), self.natural(text))
        if found is None:
            raise SpvmiaError(
                f"tokenizer: expected one that puts its own tokens around those of a text, got "
                f"{type(self.tokenizer).__name__}, which reads a text differently with them and without; pass another "
                "with tokenizer=... in --model_args"
            )
        return found


def frame_around(body: Sequence[int], whole: Sequence[int]) -> Frame | None:
    """What stands in `whole` before and after `body`; None if it is not in there."""
    body, whole = tuple(body), tuple(whole)
    for start in range(len(whole) - len(body) + 1):
        if whole[start : start + len(body)] == body:
            return Frame(whole[:start], (), whole[start + len(body) :])
    return None


def padding_id(tokenizer: Any, model: Any) -> int:
    """A token to fill rows with: the tokenizer's own where the model has an embedding for it, else the first of all.

    Padding is masked or comes after everything that counts, so any token does. A [PAD] that was added to the tokenizer
    alone, by its owner or by the harness, has no embedding.
    """
    pad = tokenizer.pad_token_id
    rows = int(model.get_input_embeddings().weight.shape[0])
    return int(pad) if pad is not None and pad < rows else 0


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return list(map(int, tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]))


def probe_digest(encode: Encode) -> str:
    """SHA-256 of the tokens of a few sentences, in hexadecimal; `encode` adds no special tokens."""
    ids = [list(map(int, encode(probe))) for probe in PROBES]
    return hashlib.sha256(repr(ids).encode()).hexdigest()
