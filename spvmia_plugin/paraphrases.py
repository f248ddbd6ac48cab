"""What a paraphrase of a text is: replaced tokens or characters, or noise on what the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmbeddingNoise:
    """A paraphrase in the embedding domain: the input embeddings plus `sign * scale * std(embeddings) * z`.

    z ~ N(0, I), shape (T, d), drawn from a generator seeded with `seed`: equal seeds and opposite signs make a
    symmetric pair.

    Attributes:
        seed: of z.
        sign: 1 or -1.
        scale: of the noise, in standard deviations of the embeddings.
        only: positions in the text's tokens that get noise; None for all.
    """

    seed: int
    sign: int
    scale: float
    only: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenEdits:
    """A paraphrase as replaced tokens: at `positions` (0-based in the text's tokens) stand `token_ids`."""

    positions: tuple[int, ...]
    token_ids: tuple[int, ...]

    def apply(self, token_ids: Sequence[int]) -> list[int]:
        """Return the paraphrase's tokens."""
        edited = list(token_ids)
        for position, token_id in zip(self.positions, self.token_ids, strict=True):
            edited[position] = token_id
        return edited


@dataclass(frozen=True, slots=True)
class TextEdits:
    """A paraphrase as replaced spans of characters: (start, end, replacement), ascending and disjoint."""

    spans: tuple[tuple[int, int, str], ...]

    def apply(self, text: str) -> str:
        """Return the paraphrase."""
        parts, last = [], 0
        for start, end, replacement in self.spans:
            parts += [text[last:start], replacement]
            last = end
        return "".join([*parts, text[last:]])


Neighbour = EmbeddingNoise | TokenEdits | TextEdits


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The paraphrases of one text: 2N of them, symmetric pairs adjacent.

    Attributes:
        variants: the paraphrases, as edits or noise; empty if none was found.
        mask_rate: achieved share of replaced words or tokens, mean over the variants; nan for noise.
        reason: why there is none, or fewer than asked.
    """

    variants: tuple[Neighbour, ...]
    mask_rate: float = float("nan")
    reason: str | None = None
