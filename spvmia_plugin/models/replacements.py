"""Tokens that a model draws in place of others, at given positions of texts, all of a text in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.models.batching import Batch, BatchRunner, plan_passes, token_budget
from spvmia_plugin.models.forward import HeadlessModel
from spvmia_plugin.models.sampling import inverse_cdf, uniforms
from spvmia_plugin.models.statistics import rows_per_product
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.protocols import Cost, Frame, TokenIds

Positions = Sequence[NDArray[np.int64]]


class Replacer:
    """Draws x~_t ~ p(. | x_<t), x~_t != x_t, at given positions.

    Args:
        model: the model of a role.
        tokens: what is read before a text, and padding.
        runner: runs batches, remembers what fitted into memory.
        cost: is added to.
        complete: sequences are all that is read; nothing stands before them.
    """

    def __init__(
        self, model: HeadlessModel, tokens: Tokens, runner: BatchRunner, cost: Cost, *, complete: bool = False
    ) -> None:
        self._model = model
        self._tokens = tokens
        frame = Frame() if complete else tokens.frame("a")
        self._context = frame.context + frame.before
        self._runner = runner
        self._cost = cost

    def draw(
        self, sequences: Sequence[TokenIds], positions: Sequence[Positions], seeds: Sequence[int]
    ) -> list[list[NDArray[np.int64]]]:
        """See `Backend.sample_replacements`.

        Raises:
            ValueError: a first token is to be replaced, and nothing stands before it.
        """
        shift = 0 if self._context else 1  # output p - shift of a row predicts token p of its text
        if any((draw < shift).any() for draws in positions for draw in draws):
            raise ValueError("positions: expected none at 0, because nothing stands before a text")
        started = time.perf_counter()
        drawn: list[list[NDArray[np.int64]]] = [[np.zeros(0, np.int64) for _ in draws] for draws in positions]
        active = [i for i, draws in enumerate(positions) if any(len(draw) for draw in draws)]  # a pass for no others
        planned = plan_passes([len(sequences[i]) for i in active], token_budget(self._model.device.type))

        def work(batch: Batch) -> None:
            rows = [active[k] for k in batch.rows]
            hidden = self._model.forward(input_ids=self._inputs([sequences[i] for i in rows])).rows
            hidden = hidden[:, max(0, len(self._context) - 1) :]  # (B, W, d): what predicts a text's own tokens
            wanted = [_Wanted.of(sequences[i], positions[i], seeds[i], shift) for i in rows]
            for i, found in zip(rows, self._draw(hidden, wanted), strict=True):
                drawn[i] = np.split(found, np.cumsum([len(draw) for draw in positions[i]])[:-1])
            self._cost.batches += 1
            self._cost.forward_tokens += sum(len(sequences[i]) for i in rows)

        self._runner.run(planned, work)
        self._cost.seconds += time.perf_counter() - started
        return drawn

    def _inputs(self, sequences: Sequence[TokenIds]) -> torch.Tensor:
        """The context and all tokens but the last, padded on the right."""
        width = max(map(len, sequences))
        pad = self._tokens.pad_id
        rows = [[*self._context, *ids[:-1], *[pad] * (width - len(ids))] for ids in sequences]
        return torch.tensor(rows, device=self._model.device)

    def _draw(self, hidden: torch.Tensor, wanted: Sequence[_Wanted]) -> list[NDArray[np.int64]]:
        """All draws of every text of a batch, in one transfer from the device.

        Args:
            hidden: (B, W, d) final hidden states.
            wanted: what to draw for each row.
        """
        states = torch.cat([row[w.outputs.to(row.device)] for row, w in zip(hidden, wanted, strict=True)])  # (n, d)
        original = torch.cat([w.original for w in wanted]).to(states.device)  # (n,)
        width = max(w.u.shape[1] for w in wanted)
        u = torch.cat([torch.nn.functional.pad(w.u, (0, width - w.u.shape[1])) for w in wanted])
        u = u.to(torch.float32 if states.device.type == "mps" else torch.float64).to(states.device)  # (n, K)
        parts = []
        # Logits of a part at a time: all of them, (n, V), would be larger than the model.
        for rows in torch.arange(len(states)).split(rows_per_product(self._model.vocab, states)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            logits = self._model.logits(states[part]).float()
            weights = logits.scatter(-1, original[part, None], float("-inf")).softmax(-1)
            parts.append(inverse_cdf(weights, u[part]))
        drawn = torch.cat(parts).cpu().numpy()
        ends = np.cumsum([len(w.outputs) for w in wanted])[:-1]
        return [part[w.row, w.slot] for part, w in zip(np.split(drawn, ends), wanted, strict=True)]


@dataclass(frozen=True)
class _Wanted:
    """The draws of one text, put in a table: a row for each distinct position, drawn from at most K times.

    Its stream of uniforms runs through the draws in order.

    Attributes:
        outputs: (m,) which of the row's outputs predict the distinct positions.
        original: (m,) the tokens that stand there.
        u: (m, K) uniforms, filled from the left.
        row: (k,) the table's row of each draw.
        slot: (k,) its column.
    """

    outputs: torch.Tensor
    original: torch.Tensor
    u: torch.Tensor
    row: NDArray[np.int64]
    slot: NDArray[np.int64]

    @classmethod
    def of(cls, token_ids: TokenIds, positions: Positions, seed: int, shift: int) -> _Wanted:
        """Sort the draws of one text by position; output p - `shift` of its row predicts token p."""
        # The k draws of all paraphrases in one row; equal positions share a row of the table, and so one product with
        # the output layer. A draw's column is how many draws of its position come before it.
        where = np.concatenate(positions)  # (k,)
        distinct, row = np.unique(where, return_inverse=True)
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row, minlength=len(distinct))
        slot = np.empty(len(row), np.int64)
        slot[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        u = np.zeros((len(distinct), int(counts.max())))
        u[row, slot] = uniforms(seed, len(where))
        original = torch.tensor([token_ids[p] for p in distinct])
        return cls(torch.from_numpy(distinct - shift), original, torch.from_numpy(u), row, slot)
