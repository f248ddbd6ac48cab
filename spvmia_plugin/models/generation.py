"""Batched sampling with a key-value cache, each row from its own seed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from spvmia_plugin.models.batching import Batch, BatchRunner, plan_batches
from spvmia_plugin.models.head import HeadlessModel
from spvmia_plugin.models.inner import prompt_learning, takes
from spvmia_plugin.models.sampling import Sampling, inverse_cdf, uniforms
from spvmia_plugin.models.trial import each, holds, probe_ids
from spvmia_plugin.protocols import Cost, OnDone, TokenIds

TOKENS_PER_BATCH = {"cpu": 2**13}
TOKENS_PER_BATCH_DEVICE = 2**17
MAX_ROWS = {"cpu": 64}
MAX_ROWS_DEVICE = 1024
_SHED = 0.8
"""Rows that ended are taken out of the batch once fewer than this share is left: dropping copies the cache."""


class Generator:
    """Continues prompts by sampling.

    Args:
        model: the target without its output layer.
        sampling: temperature, top-k, top-p.
        end_ids: tokens that end a text.
        lead: what the tokenizer itself puts before a text (BOS or nothing): a model continues what it was trained on.
        runner: runs batches, remembers what fitted into memory.
        cost: is added to.
    """

    def __init__(
        self,
        model: HeadlessModel,
        sampling: Sampling,
        end_ids: Sequence[int],
        lead: Sequence[int],
        runner: BatchRunner,
        cost: Cost,
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._end_ids = torch.tensor(list(end_ids))
        self._lead = list(lead)
        self._runner = runner
        self._cost = cost
        self._virtual = prompt_learning(model.model)
        self._cached = holds(model, "generation", lambda: self._try((6, 6, 6, 6)))
        # peft's virtual tokens come before any padding on the left
        self._padded = self._cached and not self._virtual and holds(model, "padding", lambda: self._try((6, 3, 5, 4)))
        self.path: str | None = None
        """How texts are written, where that is not the fast path."""
        if not self._cached:
            self.path = "the whole text is read again for every token: no key-value cache that rows could share"
        elif not self._padded and not self._virtual:
            self.path = "prompts of one length at a time: padding on the left is not left out"

    def _try(self, lengths: Sequence[int]) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """Some steps from prompts of these lengths, with rows that leave on the way: see `trial.holds`."""
        texts = [[*self._lead, *probe_ids(self._model, n, start=5 * i)] for i, n in enumerate(lengths)]
        decoder = _Decoder(self._model, [list(text) for text in texts], self._virtual, cached=True)
        yield from each(decoder.last, texts)
        for step, kept in enumerate(([0, 1, 2, 3], [1, 2], [1], [0])):
            if len(kept) < len(texts):
                decoder.keep(kept)
                texts = [texts[row] for row in kept]
            tokens = probe_ids(self._model, len(texts), start=40 + 3 * step)
            decoder.step(torch.tensor(tokens))
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
            yield from each(decoder.last, texts)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        lengths: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None,
        done: Collection[int],
    ) -> list[list[int] | None]:
        """See `Backend.generate`; None where a batch held nothing but `done`."""
        started = time.perf_counter()
        texts: list[list[int] | None] = [None] * len(prompts)
        batches = [b for b in self._plan(prompts, lengths) if not all(i in done for i in b.rows)]

        def work(batch: Batch) -> None:
            rows = list(batch.rows)
            new = self._batch([prompts[i] for i in rows], [lengths[i] for i in rows], [seeds[i] for i in rows])
            finished = {i: [*prompts[i], *tokens] for i, tokens in zip(rows, new, strict=True)}
            for i, text in finished.items():
                texts[i] = text
            self._cost.batches += 1
            self._cost.generated_tokens += sum(map(len, new))
            if on_done is not None:
                on_done(finished)

        self._runner.run(batches, work)
        self._cost.seconds += time.perf_counter() - started
        return texts

    def _plan(self, prompts: Sequence[TokenIds], lengths: Sequence[int]) -> list[Batch]:
        """Prompts of like length together. Where a cache can't be padded, of one length only."""
        kind = self._model.device.type
        budget, rows = TOKENS_PER_BATCH.get(kind, TOKENS_PER_BATCH_DEVICE), MAX_ROWS.get(kind, MAX_ROWS_DEVICE)
        groups: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(len(prompt) if self._cached and not self._padded else 0, []).append(i)
        batches = []
        for group in groups.values():
            for batch in plan_batches([max(lengths[i], len(prompts[i])) + 1 for i in group], budget, rows):
                batches.append(Batch([group[i] for i in batch.rows], batch.width))
        return batches

    def _batch(self, prompts: list[TokenIds], lengths: list[int], seeds: list[int]) -> list[list[int]]:
        """New tokens of every prompt."""
        wanted = [max(0, n - len(prompt)) for prompt, n in zip(prompts, lengths, strict=True)]
        new: list[list[int]] = [[] for _ in prompts]
        active = [i for i, n in enumerate(wanted) if n > 0]
        if not active:
            return new
        draws = np.zeros((len(active), max(wanted)))
        for row, i in enumerate(active):
            draws[row, : wanted[i]] = uniforms(seeds[i], wanted[i])
        stream = torch.from_numpy(draws)
        decoder = _Decoder(
            self._model, [[*self._lead, *prompts[i]] for i in active], self._virtual, cached=self._cached
        )
        self._cost.forward_tokens += sum(len(self._lead) + len(prompts[i]) for i in active)
        kept = list(range(len(active)))  # rows of `stream` still in the batch, in the decoder's order
        for step in range(draws.shape[1]):
            chosen = self._choose(decoder.last, stream[kept, step])
            ended, tokens = torch.isin(chosen, self._end_ids).tolist(), chosen.tolist()
            alive = []
            for position, row in enumerate(kept):
                i = active[row]
                if len(new[i]) < wanted[i] and not ended[position]:
                    new[i].append(tokens[position])
                else:
                    wanted[i] = len(new[i])
                if len(new[i]) < wanted[i]:
                    alive.append(position)
            if not alive:
                break
            if len(alive) <= _SHED * len(kept):
                decoder.keep(alive)
                chosen, kept = chosen[alive], [kept[p] for p in alive]
            self._cost.forward_tokens += len(alive)
            decoder.step(chosen)
        return new

    def _choose(self, hidden: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        p = self._sampling.probabilities(self._model.logits(hidden))
        wide = torch.float32 if p.device.type == "mps" else torch.float64
        return inverse_cdf(p, u[:, None].to(wide).to(p.device)).squeeze(-1).cpu()


class _Decoder:
    """The model's state in the middle of a batch: `last` is (B, d), the final hidden state of each row's last token.

    Prompts of unequal length are padded on the left. A model without a cache that could be cut and grown (not `cached`)
    is run over the whole text at every step, padded on the right.
    """

    def __init__(self, model: HeadlessModel, rows: list[list[int]], virtual: bool, *, cached: bool) -> None:
        self._model = model
        # peft puts virtual tokens before whatever it is given: only the first pass may go through it
        self._inner = model.model.get_base_model() if virtual else None
        self._texts = rows
        width = max(map(len, rows))
        self._mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        self._padded = not bool(self._mask.all())
        self._cache: Any = None
        self._cached = cached
        if not cached:
            self._rerun()
            return
        ids = torch.tensor([[row[0]] * (width - len(row)) + row for row in rows], device=model.device)
        hidden = model.forward(input_ids=ids, use_cache=True, **self._where(width))
        self._cache, self.last = hidden.cache, hidden.rows[:, -1]

    def step(self, tokens: torch.Tensor) -> None:
        """Append one token to every row."""
        tokens = tokens.to(self._model.device)
        if not self._cached:
            for row, token in zip(self._texts, tokens.tolist(), strict=True):
                row.append(token)
            self._rerun()
            return
        if self._padded:
            self._mask = torch.cat((self._mask, self._mask.new_ones(len(tokens), 1)), dim=1)
        model = self._model if self._inner is None else self._model.sharing(self._inner)
        hidden = model.forward(input_ids=tokens[:, None], cache=self._cache, use_cache=True, **self._where(1))
        self._cache, self.last = hidden.cache, hidden.rows[:, -1]

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
        width = max(map(len, self._texts))
        ids = torch.tensor([row + [row[0]] * (width - len(row)) for row in self._texts], device=self._model.device)
        rows = self._model.forward(input_ids=ids).rows
        ends = torch.tensor([len(row) - 1 for row in self._texts], device=rows.device)
        self.last = rows[torch.arange(len(rows), device=rows.device), ends]
