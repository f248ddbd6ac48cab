"""Text to tokens and back, for the model under audit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spvmia_plugin.config import Prefix
from spvmia_plugin.data.tokenisation import PROBES, Reading, frame_around, padding_id
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, Frame, TokenIds
from spvmia_plugin.util.libraries import refusal


def unwrapped(lm: Any) -> Any:
    """The LM inside the harness's caching wrapper."""
    return lm.lm if type(lm).__name__ == "CachingLM" else lm


@dataclass(frozen=True)
class Reader:
    """What `Tokens` asks of an LM, where the target is none that has all of it.

    Attributes:
        tokenizer: the target's, of transformers.
        max_length: how many tokens it reads to predict the next one.
        prefix_token_id: the harness's, or None.
        tok_encode: how the harness reads a text.
        model_of: gives a model to find a token for padding by, once one is needed.
    """

    tokenizer: Any
    max_length: int
    prefix_token_id: int | None
    tok_encode: Callable[[str], Sequence[int]]
    model_of: Callable[[], Any]

    @property
    def model(self) -> Any:
        """A model that reads these tokens."""
        return self.model_of()


class Tokens:
    """The harness's tokenizer, what is read before a record, and the context length.

    Args:
        lm: an HFLM, or a `Reader`.
        max_length: `mia_max_length`, or None for the harness's own.
        prefix: `mia_prefix`: `auto` reads what the tokenizer itself adds, as trainers do; `harness` the harness's
            prefix token and then whatever `lm.tok_encode` gives, as `loglikelihood_rolling` does.

    Raises:
        SpvmiaError: `mia_max_length` exceeds the model's context; `harness` with a tokenizer that has no prefix token.
    """

    def __init__(self, lm: Any, max_length: int | None, prefix: Prefix = "auto") -> None:
        self.chat_templates: dict[str, Any] = {}  # of other tokenizers, by the name they were loaded by
        self._lm = lm
        self.tokenizer = lm.tokenizer
        self.reading = Reading(lm.tokenizer)
        self.max_length = int(max_length or lm.max_length)
        if self.max_length > lm.max_length:
            raise SpvmiaError(
                f"mia_max_length: expected at most the model's own context of {lm.max_length} tokens, got "
                f"{max_length}; lower it or leave it out"
            )
        self._prefix_id = lm.prefix_token_id if prefix == "harness" else None
        if prefix == "harness" and self._prefix_id is None:
            raise SpvmiaError(
                "mia_prefix: harness expects a tokenizer with a BOS or EOS token, got one with neither; leave the "
                "option out, or pass prefix_token_id=... in --model_args"
            )

    @cached_property
    def pad_id(self) -> int:
        """What fills rows up: after everything that counts, or masked, so any token that has an embedding does."""
        return padding_id(self.tokenizer, self._lm.model)

    def encode(self, text: str) -> list[int]:
        """Tokens of the text alone."""
        return self.reading.body(text)

    def natural(self, text: str) -> list[int]:
        """Tokens with whatever special tokens the tokenizer itself adds: what a model is trained on."""
        return self.reading.natural(text)

    def frame(self, text: str) -> Frame:
        """What stands around the tokens of a text when it is scored.

        Raises:
            SpvmiaError: the tokenizer or the harness does not put its tokens around those of the text.
        """
        if self._prefix_id is None:
            return self.reading.frame(text)
        found = frame_around(self.encode(text), self._lm.tok_encode(text))
        if found is None:
            raise SpvmiaError(
                "mia_prefix: harness expects special tokens around those of a text, got a tokenizer that reads text "
                "differently with them and without; leave the option out"
            )
        return Frame((int(self._prefix_id),), found.context, found.after)

    @property
    def lead(self) -> list[int]:
        """What the tokenizer itself puts before a text: what a model that goes on writing has read before."""
        return list(self.reading.frame("a").context)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special tokens left out."""
        return self.reading.text(token_ids)

    def survives(self, token_ids: Sequence[int]) -> bool:
        """Whether these are the very tokens of their own text."""
        return self.reading.survives(token_ids)

    def end_ids(self, model: Any) -> list[int]:
        """Tokens that end a generation: the tokenizer's and those of the model's generation config."""
        ends = {self.tokenizer.eos_token_id}
        config = getattr(model, "generation_config", None)
        more = getattr(config, "eos_token_id", None)
        ends.update(more if isinstance(more, (list, tuple)) else [more])
        return sorted(int(token_id) for token_id in ends if token_id is not None)

    def digest(self) -> str:
        """Hash of everything about the tokenizer that changes tokens: its content, and what it makes of a few probes.

        What is read before a record is part of each sequence that is scored (`ScoreInput.context_ids`).
        """
        probes = [self.natural(probe) for probe in PROBES]
        return hashlib.sha256(f"{_content(self.tokenizer)}\n{probes}".encode()).hexdigest()

    def check_same(self, option: str, name: str, trust_remote_code: bool) -> frozenset[int]:
        """Make sure that the model `name` reads text as the target does, but for tokens that were added to the target.

        Returns:
            The ids of these tokens.

        Raises:
            SpvmiaError: its tokenizer cannot be loaded, or differs in vocabulary or in how it cuts text.
        """
        from transformers import AutoTokenizer

        try:
            other = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        except Exception as error:  # tokenizers raises nothing more special for a damaged file
            raise unavailable(option, name, "a tokenizer", error) from None
        self.chat_templates[name] = getattr(other, "chat_template", None)
        ours, theirs = self.tokenizer.get_vocab(), other.get_vocab()
        added = {token: ours[token] for token in self.tokenizer.get_added_vocab() if token not in theirs}
        differs = ""
        if theirs != {token: token_id for token, token_id in ours.items() if token not in added}:
            differs = "vocabulary"
        elif any(self._plain(self.tokenizer, p) != self._plain(other, p) for p in PROBES):
            differs = "encoding"
        if differs:
            raise SpvmiaError(
                f"{option}: expected a model with the target's tokenizer, or with that before tokens were added to it, "
                f"got {name!r} with another {differs}; name the very model that was fine-tuned"
            )
        return frozenset(added.values())

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


class TokenisedBackend(Backend):
    """Base of backends that read texts by `Tokens` of the target, which a subclass sets."""

    _tokens: Tokens

    def encode(self, text: str) -> list[int]:
        return self._tokens.encode(text)

    def decode(self, token_ids: TokenIds) -> str:
        return self._tokens.decode(token_ids)

    def frame(self, text: str) -> Frame:
        return self._tokens.frame(text)

    def survives(self, token_ids: TokenIds) -> bool:
        return self._tokens.survives(token_ids)
