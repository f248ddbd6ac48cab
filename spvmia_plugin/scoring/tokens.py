"""Text to tokens and back, exactly as the harness does it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from spvmia_plugin.data.tokenisation import PROBES
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.libraries import refusal


class Tokens:
    """The harness's tokenizer, prefix token and context length.

    Args:
        lm: an HFLM.
        max_length: `mia_max_length`, or None for the harness's own.
    """

    def __init__(self, lm: Any, max_length: int | None) -> None:
        self._lm = lm
        self.tokenizer = lm.tokenizer
        self.prefix_id = int(lm.prefix_token_id)
        if max_length and max_length > lm.max_length:
            raise SpvmiaError(
                f"mia_max_length: expected at most the model's own context of {lm.max_length} tokens, got "
                f"{max_length}; lower it or leave it out"
            )
        self.max_length = int(max_length or lm.max_length)

    @property
    def pad_id(self) -> int:
        """What fills rows up; masked or after everything that counts, so any token does."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.prefix_id

    def natural(self, text: str) -> list[int]:
        """Tokens with whatever special tokens the tokenizer itself adds: what a model is trained on."""
        return list(self._lm.tok_encode(text))

    def encode(self, text: str) -> list[int]:
        """Tokens to score. A BOS that the tokenizer adds is left out: it is the prefix token, conditioned on."""
        token_ids = self.natural(text)
        if token_ids[:1] == [self.prefix_id] and not text.startswith(self.tokenizer.decode([self.prefix_id])):
            return token_ids[1:]
        return token_ids

    @property
    def lead(self) -> list[int]:
        """What the tokenizer itself puts before a text: the prefix token, or nothing."""
        return [self.prefix_id] if self.natural("a")[:1] == [self.prefix_id] else []

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special tokens left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def end_ids(self, model: Any) -> list[int]:
        """Tokens that end a generation: the tokenizer's and those of the model's generation config."""
        ends = {self.tokenizer.eos_token_id}
        config = getattr(model, "generation_config", None)
        more = getattr(config, "eos_token_id", None)
        ends.update(more if isinstance(more, (list, tuple)) else [more])
        return sorted(int(token_id) for token_id in ends if token_id is not None)

    def digest(self) -> str:
        """Hash of everything about the tokenizer that changes tokens or their conditioning."""
        return hashlib.sha256(f"{_content(self.tokenizer)}\n{self.prefix_id}\n{self.lead}".encode()).hexdigest()

    def check_same(self, option: str, name: str, trust_remote_code: bool) -> None:
        """Make sure that the model `name` reads text as the target does.

        Raises:
            SpvmiaError: its tokenizer cannot be loaded, or differs in vocabulary or in how it cuts text.
        """
        from transformers import AutoTokenizer

        try:
            other = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        except Exception as error:  # tokenizers raises nothing more special for a damaged file
            raise unavailable(option, name, "a tokenizer", error) from None
        ours, theirs = dict(self.tokenizer.get_vocab()), other.get_vocab()
        if self.tokenizer.pad_token not in theirs:
            ours.pop(self.tokenizer.pad_token, None)  # the harness adds one to tokenizers without
        differs = "vocabulary" if ours != theirs else ""
        if not differs and any(self._plain(self.tokenizer, p) != self._plain(other, p) for p in PROBES):
            differs = "encoding"
        if differs:
            raise SpvmiaError(
                f"{option}: expected a model with the target's tokenizer, got {name!r} with another {differs}; "
                "name the very model that was fine-tuned"
            )

    @staticmethod
    def _plain(tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))


def unavailable(option: str, name: str, what: str, error: Exception) -> SpvmiaError:
    """The error for a model that cannot be had: not there, or the hub out of reach."""
    return SpvmiaError(
        f"{option}: expected {what} in a local folder or on the hub, got {name!r}, which cannot be loaded "
        f"({refusal(error)}); give {option} the path of a local folder"
    )


def _content(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)
