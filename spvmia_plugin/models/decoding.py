"""A model in the middle of a batch of texts that grow: token by token, from what its key-value cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from spvmia_plugin.models.forward import HeadlessModel, takes


class Decoder:
    """The model's state in the middle of a batch: `last` is (B, d), the final hidden state of each row's last token.

    Prompts of unequal length are padded on the left. A model without a cache that could be cut and grown (not `cached`)
    is run over the whole text at every step, padded on the right.

    Args:
        model: without its output layer.
        rows: what is read first.
        virtual: whether peft puts virtual tokens before it.
        cached: whether there is a cache that rows can share.
        rewound: whether `forget` will be asked for.
    """

    def __init__(
        self, model: HeadlessModel, rows: list[list[int]], *, virtual: bool, cached: bool, rewound: bool = False
    ) -> None:
        self._model = model
        # peft puts virtual tokens before whatever it is given: only the first pass may go through it
        self._inner = model.model.get_base_model() if virtual else None
        self._texts = rows
        # Padded on the left, so that every row's last token is in the last column and one step appends one column. The
        # mask (B, W) grows with the cache: it says which of the W columns read so far are a row's own.
        self.width = width = max(map(len, rows))
        """Columns of the cache, those included that no row reads any more."""
        self._mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        self._padded = rewound or not bool(self._mask.all())
        self._cache: Any = None
        self._cached = cached
        if not cached:
            self._rerun()
            return
        ids = torch.tensor([[row[0]] * (width - len(row)) + row for row in rows], device=model.device)
        hidden = model.forward(input_ids=ids, use_cache=True, **self._where(width))
        self._cache, self.last = hidden.cache, hidden.rows[:, -1]

    def step(self, tokens: torch.Tensor, reads: Sequence[bool]) -> None:
        """Append one token to every row that reads it; the others have ended, and stay where they are.

        A row that went on would leave the positions that a model has. Rows of one length, which are not told apart by
        a mask, are never beyond the longest that reads.

        Args:
            tokens: (B,) one a row.
            reads: of each row.
        """
        tokens = tokens.to(self._model.device)
        self.width += 1
        if not self._cached:
            for row, token, read in zip(self._texts, tokens.tolist(), reads, strict=True):
                row += [token] if read else []
            self._rerun()
            return
        if self._padded:
            column = torch.tensor(reads, dtype=self._mask.dtype, device=self._mask.device)
            self._mask = torch.cat((self._mask, column[:, None]), dim=1)
        model = self._model if self._inner is None else self._model.sharing(self._inner)
        hidden = model.forward(input_ids=tokens[:, None], cache=self._cache, use_cache=True, **self._where(1))
        self._cache, self.last = hidden.cache, hidden.rows[:, -1]

    @property
    def rows(self) -> int:
        """Of the batch."""
        return len(self._mask)

    def forget(self, row: int, count: int) -> None:
        """Go back in one row: its last `count` tokens are read no more. `last` is that of a step to come.

        Their columns stay in the cache, and the mask leaves them out: what came before them never saw them.
        """
        own = self._mask[row].nonzero().flatten()
        self._mask[row, own[len(own) - count :]] = 0

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self._texts = [self._texts[row] for row in rows]
        self._mask = self._mask[rows]
        if self._cached:
            self._cache.batch_select_indices(torch.tensor(rows))  # on the CPU: layers may lie on several devices

    def _where(self, width: int) -> dict[str, torch.Tensor]:
        """Mask and positions; none for rows of one length, which need neither."""
        if not self._padded:
            return {}
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        given = {"attention_mask": self._mask}
        return given | ({"position_ids": positions} if takes(self._model.model, "position_ids") else {})

    def _rerun(self) -> None:
        # (B, W), padded on the right: nothing looks ahead. The last token of each row has its state at its own column.
        width = max(map(len, self._texts))
        ids = torch.tensor([row + [row[0]] * (width - len(row)) for row in self._texts], device=self._model.device)
        rows = self._model.forward(input_ids=ids).rows
        ends = torch.tensor([len(row) - 1 for row in self._texts], device=rows.device)
        self.last = rows[torch.arange(len(rows), device=rows.device), ends]
