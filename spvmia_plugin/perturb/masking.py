"""The text side of mask filling: which words to mask, in which windows a mask model reads them, and its tokenizer.

No weights are loaded here, so all of it is checked before long work.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.libraries import quiet_libraries, refusal

SPAN_WORDS = 2
"""Words of a span, in the paper's text (Mattern et al. 2023, DetectGPT) as in the released code."""

RELEASED_PCT, RELEASED_BUFFER = 0.3, 1
RELEASED_MIN_WORDS = 14
"""The fewest words for which int(0.3 * words / (2 + 2 * 1)) is not 0."""

_LONGEST_WORD = 32
# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,{_LONGEST_WORD}}}")


@dataclass(frozen=True, slots=True)
class Span:
    """`words` words to mask, from word `first`."""

    first: int
    words: int

    @property
    def end(self) -> int:
        """The word after the span."""
        return self.first + self.words


@dataclass(frozen=True, slots=True)
class Words:
    """A text's words as (start, end) in characters, ascending."""

    text: str
    bounds: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.bounds)

    def chars(self, first: int, end: int) -> tuple[int, int]:
        """Where the words first..end-1 begin and end."""
        return self.bounds[first][0], self.bounds[end - 1][1]


def split_words(text: str) -> Words:
    """Split at white space; a Chinese or Japanese character is a word, longer words are cut into pieces of 32."""
    return Words(text, tuple(match.span() for match in _WORD.finditer(text)))


def split_released(text: str) -> Words:
    """Split at single spaces as the released code does: between two spaces stands an empty word."""
    bounds, start = [], 0
    for word in text.split(" "):
        bounds.append((start, start + len(word)))
        start += len(word) + 1
    return Words(text, tuple(bounds))


def paper_spans(total: int, rate: float, rng: np.random.Generator) -> list[Span]:
    """Mask max(1, floor(rate * total)) of `total` words, in spans of two (one of one where that number is odd).

    Every placement with a word between neighbouring spans is equally likely; where so many words are masked that there
    is none, spans may touch.
    """
    masked = max(1, int(np.floor(rate * total)))
    lengths = rng.permutation([SPAN_WORDS] * (masked // SPAN_WORDS) + [1] * (masked % SPAN_WORDS)).tolist()
    count, free = len(lengths), total - masked
    gap = 1 if free >= count - 1 else 0
    # Stars and bars: how many free words lie before each span, besides the gaps.
    before = np.sort(rng.choice(free - gap * (count - 1) + count, count, replace=False)) - np.arange(count)
    starts = before + gap * np.arange(count) + np.cumsum([0, *lengths[:-1]])
    return [Span(int(start), length) for start, length in zip(starts, lengths, strict=True)]


def released_spans(total: int, rng: np.random.Generator) -> list[Span]:
    """Mask int(0.3 * total / (2 + 2 * 1)) spans of two words, one after the other, as the released code does.

    Each masked span becomes one item of the list, and a start is drawn evenly over that list, the last possible one
    left out, until no mask lies within a word of it: so drawn evenly from the starts that are left. Nothing is
    masked below 14 words.
    """
    starts = list(range(total - SPAN_WORDS))  # those that are left, as positions of words
    firsts: list[int] = []
    reach = SPAN_WORDS + RELEASED_BUFFER - 1  # a start nearer than this would touch the mask or its buffer
    for _ in range(int(RELEASED_PCT * total / (SPAN_WORDS + 2 * RELEASED_BUFFER))):
        first = starts[int(rng.integers(len(starts)))]
        firsts.append(first)
        del starts[bisect_left(starts, first - reach) : bisect_right(starts, first + reach)]
    return [Span(first, SPAN_WORDS) for first in sorted(firsts)]


@dataclass(frozen=True, slots=True)
class Window:
    """What the mask model reads at once.

    Attributes:
        token_ids: the window's tokens, its spans replaced by the sentinels 0, 1, ...
        spans: numbers of these spans in the text.
    """

    token_ids: list[int]
    spans: range


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts masked texts.

    Attributes:
        encode: from pieces of text, between each two of which stands the next sentinel, to tokens.
        tokens: the most tokens of a window.
        masks: the most spans of a window.
    """

    encode: Callable[[Sequence[str]], list[int]]
    tokens: int
    masks: int

    def cut(self, words: Words, spans: Sequence[Span]) -> list[Window]:
        """The windows of a text, halved until they fit, without those that hold no span.

        No span is cut in two. A single word or span that is still too long loses its end.
        """
        return self._cut(words, spans, 0, len(words), range(len(spans)))

    def _cut(self, words: Words, spans: Sequence[Span], first: int, end: int, inside: range) -> list[Window]:
        if not inside:
            return []
        token_ids = self.encode(_pieces(words, [spans[i] for i in inside], first, end))
        if len(token_ids) <= self.tokens and len(inside) <= self.masks:
            return [Window(token_ids, inside)]
        middle = _middle(spans, first, end, inside)
        if middle is None:
            return [Window(token_ids[: self.tokens], inside)]
        left = sum(spans[i].first < middle for i in inside)
        return [
            *self._cut(words, spans, first, middle, inside[:left]),
            *self._cut(words, spans, middle, end, inside[left:]),
        ]


def _pieces(words: Words, spans: Sequence[Span], first: int, end: int) -> list[str]:
    """The text of words first..end-1 around its spans."""
    start, stop = words.chars(first, end)
    edges = [start, *(edge for span in spans for edge in words.chars(span.first, span.end)), stop]
    return [words.text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _middle(spans: Sequence[Span], first: int, end: int, inside: range) -> int | None:
    """The word to cut before, next to the middle and in no span; None if there is none."""
    middle = (first + end) // 2
    hit = next((spans[i] for i in inside if spans[i].first < middle < spans[i].end), None)
    candidates = (middle,) if hit is None else (hit.first, hit.end)
    return next((word for word in candidates if first < word < end), None)


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
