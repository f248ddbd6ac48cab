"""Replacement tokens from a model's own next-token distribution: one forward pass yields any number of paraphrases."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.protocols import Cost, TokenIds
from spvmia_plugin.scoring.batching import Batch, BatchRunner, plan_batches, token_budget
from spvmia_plugin.scoring.head import HeadlessModel
from spvmia_plugin.scoring.sampling import inverse_cdf, uniforms
from spvmia_plugin.scoring.statistics import rows_per_product
from spvmia_plugin.scoring.tokens import Tokens

Positions = Sequence[NDArray[np.int64]]


class Replacer:
    """Draws x~_t ~ p(. | x_<t), x~_t != x_t, at given positions.

    Args:
        model: the model of a role.
        tokens: the harness's tokenizer, prefix token.
        runner: runs batches, remembers what fitted into memory.
        cost: is added to.
    """

    def __init__(self, model: HeadlessModel, tokens: Tokens, runner: BatchRunner, cost: Cost) -> None:
        self._model = model
        self._tokens = tokens
        self._runner = runner
        self._cost = cost

    def draw(
        self, sequences: Sequence[TokenIds], positions: Sequence[Positions], seeds: Sequence[int]
    ) -> list[list[NDArray[np.int64]]]:
        """See `Backend.sample_replacements`."""
        started = time.perf_counter()
        drawn: list[list[NDArray[np.int64]]] = [[np.zeros(0, np.int64) for _ in draws] for draws in positions]
        active = [i for i, draws in enumerate(positions) if any(len(draw) for draw in draws)]
        planned = plan_batches([len(sequences[i]) for i in active], token_budget(self._model.device.type))

        def work(batch: Batch) -> None:
            rows = [active[k] for k in batch.rows]
            hidden = self._model.forward(input_ids=self._inputs([sequences[i] for i in rows])).rows
            for i, states in zip(rows, hidden, strict=True):
                drawn[i] = self._text(states, sequences[i], positions[i], seeds[i])
            self._cost.batches += 1
            self._cost.forward_tokens += sum(len(sequences[i]) for i in rows)

        self._runner.run(planned, work)
        self._cost.seconds += time.perf_counter() - started
        return drawn

    def _inputs(self, sequences: Sequence[TokenIds]) -> torch.Tensor:
        """Prefix token and all tokens but the last, padded on the right."""
        width = max(map(len, sequences))
        pad = self._tokens.pad_id
        rows = [[self._tokens.prefix_id, *ids[:-1], *[pad] * (width - len(ids))] for ids in sequences]
        return torch.tensor(rows, device=self._model.device)

    def _text(
        self, states: torch.Tensor, token_ids: TokenIds, positions: Positions, seed: int
    ) -> list[NDArray[np.int64]]:
        """All draws of one text. Its stream of uniforms runs through the draws in order."""
        where = np.concatenate(positions)
        stream = uniforms(seed, len(where))
        distinct, row_of = np.unique(where, return_inverse=True)
        found = np.empty(len(where), np.int64)
        step = rows_per_product(self._model.vocab, states)
        for start in range(0, len(distinct), step):
            chunk = distinct[start : start + step]
            logits = self._model.logits(states[torch.from_numpy(chunk).to(states.device)]).float()
            original = torch.tensor([token_ids[p] for p in chunk], device=logits.device)
            weights = logits.scatter(-1, original[:, None], float("-inf")).softmax(-1)
            here = np.flatnonzero((row_of >= start) & (row_of < start + len(chunk)))
            found[here] = _per_row(weights, row_of[here] - start, stream[here])
        ends = np.cumsum([len(draw) for draw in positions])[:-1]
        return np.split(found, ends)


def _per_row(weights: torch.Tensor, rows: NDArray[np.int64], stream: NDArray[np.float64]) -> NDArray[np.int64]:
    """One draw per entry of `rows`; rows drawn from several times share their cumulative sum."""
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(weights))
    width = int(counts.max())
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    u = np.zeros((len(weights), width))
    u[rows[order], slot] = stream[order]
    wide = torch.float32 if weights.device.type == "mps" else torch.float64
    drawn = inverse_cdf(weights, torch.from_numpy(u).to(wide).to(weights.device)).cpu().numpy()
    result = np.empty(len(rows), np.int64)
    result[order] = drawn[rows[order], slot]
    return result
