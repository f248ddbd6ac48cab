"""The tokenizer side of a mask model: sentinels in, fills out. Cheap to load, so it is checked before long work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.libraries import quiet_libraries, refusal

_WEIGHTS = ("*.safetensors", "*.bin")
_CONTEXT = 512
"""Tokens at once where the model does not say; the released code's fallback too."""


@dataclass(frozen=True)
class MaskTokens:
    """Tokenizer and config of a mask model.

    Attributes:
        name: hub id or folder.
        config: its transformers config.
        tokenizer: its tokenizer.
        sentinels: ids of `<extra_id_0>`, `<extra_id_1>`, ...
        context: the most tokens of an input, end token included.
        vocabulary: ids below it have a text.
        trusted: its code may run, if it brings any.
    """

    name: str
    config: Any
    tokenizer: Any
    sentinels: tuple[int, ...]
    context: int
    vocabulary: int
    literals: re.Pattern[str]
    trusted: bool = False

    @property
    def masks(self) -> int:
        """The most masks of an input: one more sentinel closes the last fill."""
        return len(self.sentinels) - 1

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """Tokens of `pieces[0]<extra_id_0>pieces[1]<extra_id_1>...`, with the end token.

        What looks like a special token in a piece is text: a space inside takes its meaning away, for the mask model
        only, since edits are made on the original text.
        """
        plain = [self.literals.sub(lambda match: f"{match[0][0]} {match[0][1:]}", piece) for piece in pieces]
        text = plain[0] + "".join(f"<extra_id_{k}>{piece}" for k, piece in enumerate(plain[1:]))
        text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def fills(self, output: Sequence[int], masks: int) -> list[str | None]:
        """The text between sentinel k and the next sentinel or the end token, for k < masks; None where it is missing.

        Sentinels are found as tokens, so that no text can be taken for one.
        """
        number = {token_id: k for k, token_id in enumerate(self.sentinels)}
        found: list[str | None] = [None] * masks
        current, start = masks, 0
        for place, token_id in enumerate(output):
            if token_id not in number and token_id != self.tokenizer.eos_token_id:
                continue
            if current < masks and found[current] is None:
                found[current] = self._decode(output[start:place])
            if token_id == self.tokenizer.eos_token_id:
                break
            current, start = number[token_id], place + 1
        return found

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def identity(self) -> dict[str, object]:
        """Name, and the hub's commit or a hash of the folder's files: other weights, other paraphrases."""
        folder = Path(self.name)
        known = {"mask_model": self.name, "mask_model_type": self.config.model_type}
        if not folder.is_dir():
            return {**known, "mask_model_revision": getattr(self.config, "_commit_hash", None)}
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(path for kind in (*_WEIGHTS, "*.json", "*.model") for path in folder.glob(kind)):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return {**known, "mask_model_revision": digest.hexdigest()}


def load_mask_tokens(name: str, trusted: bool = False) -> MaskTokens:
    """Load config and tokenizer of a mask model.

    Args:
        name: folder or hub id.
        trusted: the harness was told to run code that models bring.

    Raises:
        SpvmiaError: it cannot be loaded (the hub cannot be reached, no such folder), is no seq2seq model, or has no
            sentinel tokens.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        with quiet_libraries():
            config = AutoConfig.from_pretrained(name, trust_remote_code=trusted)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trusted)
    except Exception as error:  # hub, files, formats: each library has its own
        raise cannot_load(name, error) from error
    if Path(name).is_dir() and not any(next(Path(name).glob(kind), None) for kind in _WEIGHTS):
        raise cannot_load(name, FileNotFoundError("no *.safetensors or *.bin in the folder"))
    sentinels = _sentinels(tokenizer)
    if not config.is_encoder_decoder or len(sentinels) < 2 or tokenizer.eos_token_id is None:
        raise SpvmiaError(
            "mia_mask_model: expected a seq2seq mask-filling model with sentinel tokens <extra_id_0>, <extra_id_1>, "
            f"... (T5 and its kin), got {name!r} of type {config.model_type!r} with {len(sentinels)} sentinels; "
            "name one, or set mia_perturbation to causal or embedding"
        )
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return MaskTokens(
        name=name,
        config=config,
        tokenizer=tokenizer,
        sentinels=sentinels,
        context=_context(config, tokenizer),
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        literals=re.compile("|".join(map(re.escape, longest_first))),
        trusted=trusted,
    )


def cannot_load(name: str, error: Exception) -> SpvmiaError:
    """The error for a mask model that cannot be had."""
    return SpvmiaError(
        f"mia_mask_model: expected a T5-like model that can be loaded, got {name!r} ({refusal(error)}); "
        "give a local folder, or set mia_perturbation to causal or embedding, which need no mask model"
    )


def _sentinels(tokenizer: Any) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (token := f"<extra_id_{len(found)}>") in vocabulary:
        found.append(int(vocabulary[token]))
    return tuple(found)


def _context(config: Any, tokenizer: Any) -> int:
    for length in (getattr(config, "n_positions", None), getattr(config, "max_position_embeddings", None)):
        if length:
            return int(length)
    return min(int(tokenizer.model_max_length), 1 << 20) if tokenizer.model_max_length < 1 << 20 else _CONTEXT
