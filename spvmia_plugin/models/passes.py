"""Forward passes of one batch of sequences: from token ids to statistics of every scored token."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spvmia_plugin.models.head import HeadlessModel
from spvmia_plugin.models.inner import prompt_learning
from spvmia_plugin.models.statistics import Statistics, token_statistics
from spvmia_plugin.models.trial import holds, probe_ids
from spvmia_plugin.protocols import EmbeddingNoise


@dataclass(frozen=True, slots=True)
class Piece:
    """What one row of a batch reads and scores.

    Attributes:
        inputs: tokens the model reads (after the batch's context, if there is one).
        targets: tokens scored; the last `len(targets)` outputs predict them.
        noise: noise on the embeddings of `inputs`, if any.
        noise_offset: the row of z that belongs to the first input; negative if that stands before the text.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    noise: EmbeddingNoise | None = None
    noise_offset: int = 0


class ScoringPass:
    """Scores batches of pieces under one model.

    Rows are padded on the right and not masked: in a causal model what comes after a token has no effect on it.

    Args:
        model: the model without its output layer.
        pad_id: any token.
    """

    def __init__(self, model: HeadlessModel, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._embedding_std: float | None = None

    def plain(self, pieces: Sequence[Piece], *, moments: bool) -> Statistics:
        """Statistics of all pieces' targets, one piece after the other."""
        hidden = self._model.forward(**self._inputs(pieces)).rows
        rows = [row[len(p.inputs) - len(p.targets) : len(p.inputs)] for row, p in zip(hidden, pieces, strict=True)]
        return self._statistics(rows, pieces, moments)

    def after(self, context: Context, pieces: Sequence[Piece], *, moments: bool) -> Statistics:
        """The same, conditioned on a context that is already in the cache; the context's output predicts the first."""
        width = max(len(p.inputs) for p in pieces)
        first = context.last
        rows = [first] * len(pieces)
        if width:
            hidden = self._model.forward(
                **self._inputs(pieces), cache=context.expanded(len(pieces)), use_cache=True
            ).rows
            rows = [torch.cat((first, row[: len(p.inputs)])) for row, p in zip(hidden, pieces, strict=True)]
        return self._statistics(rows, pieces, moments)

    def context(self, token_ids: Sequence[int]) -> Context | None:
        """Read a context once; None if the model keeps no cache that rows could share."""
        if prompt_learning(self._model.model):
            return None  # peft would put its virtual tokens before every further piece
        # as long as they are: some models go wrong beyond a window; and as they begin: some take it for padding
        kind = f"contexts of {len(token_ids).bit_length()} bits after {token_ids[:1]}"
        if not holds(self._model, kind, lambda: self._try_context(token_ids)):
            return None
        return self._read(token_ids)

    def _read(self, token_ids: Sequence[int]) -> Context:
        output = self._model.forward(input_ids=self._tensor([token_ids]), use_cache=True)
        return Context(output.rows[0, -1:], output.cache)

    def _try_context(self, before: Sequence[int]) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """A context used twice, with pieces of unequal length after it: see `trial.holds`."""
        context = self._read(before)
        yield context.last, before
        for start, widths in ((7, (5, 3)), (12, (2, 4, 1))):
            pieces = [probe_ids(self._model, n, start=start + 2 * n) for n in widths]
            inputs = {"input_ids": self._tensor(pieces), "cache": context.expanded(len(pieces))}
            hidden = self._model.forward(**inputs, use_cache=True).rows
            for row, piece in zip(hidden, pieces, strict=True):
                yield row[: len(piece)], [*before, *piece]

    def _statistics(self, rows: list[torch.Tensor], pieces: Sequence[Piece], moments: bool) -> Statistics:
        targets = torch.tensor([t for p in pieces for t in p.targets], device=rows[0].device)
        return token_statistics(torch.cat(rows), targets, self._model.logits, vocab=self._model.vocab, moments=moments)

    def _inputs(self, pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
        ids = self._tensor([p.inputs for p in pieces])
        if all(p.noise is None for p in pieces):
            return {"input_ids": ids}
        return {"inputs_embeds": self._noisy(ids, pieces)}

    def _tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[self._pad_id] * (width - len(row))] for row in rows], device=self._model.device)

    def _noisy(self, ids: torch.Tensor, pieces: Sequence[Piece]) -> torch.Tensor:
        """Embeddings plus sign * scale * std * z; what stands before the text is left alone.

        Pairs of +z and -z draw z once.
        """
        embed = self._model.model.get_input_embeddings()
        with self._model.precision():
            embeddings = embed(ids)
        std = self._std(embed)
        noise = torch.zeros(embeddings.shape, dtype=embeddings.dtype)  # one transfer to the device for all rows
        drawn: dict[tuple[int, int], torch.Tensor] = {}
        for i, piece in enumerate(pieces):
            if piece.noise is None:
                continue
            first = max(0, -piece.noise_offset)  # inputs before the text
            rows = len(piece.inputs) - first
            start = piece.noise_offset + first
            key = (piece.noise.seed, start + rows)
            if key not in drawn:
                generator = torch.Generator().manual_seed(piece.noise.seed)
                drawn[key] = torch.randn(start + rows, embeddings.shape[-1], generator=generator)
            noise[i, first : first + rows] = drawn[key][start:] * (piece.noise.sign * piece.noise.scale * std)
        return embeddings + noise.to(embeddings.device)

    def _std(self, embed: Any) -> float:
        """Standard deviation of the embeddings as the model reads them (some scale what is in the matrix)."""
        if self._embedding_std is None:
            count, total, squares = 0, 0.0, 0.0
            with self._model.precision():
                for ids in torch.arange(embed.weight.shape[0], device=self._model.device).split(4096):
                    part = embed(ids).double() if self._model.device.type != "mps" else embed(ids).float()
                    count += part.numel()
                    total += part.sum().item()
                    squares += part.square().sum().item()
            self._embedding_std = max(squares / count - (total / count) ** 2, 0.0) ** 0.5
        return self._embedding_std


@dataclass(frozen=True)
class Context:
    """A context read once: its last hidden state (1, d), and its keys and values."""

    last: torch.Tensor
    cache: Any

    def expanded(self, rows: int) -> Any:
        """A cache of its own for so many rows."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache
