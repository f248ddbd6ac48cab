"""What a model writes: continuations of prompts, and conversations turn after turn."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch

from spvmia_plugin.models.batching import Batch, BatchRunner, plan_batches
from spvmia_plugin.models.conversing import SHED, Conversations
from spvmia_plugin.models.decoding import Decoder
from spvmia_plugin.models.forward import HeadlessModel, each, holds, probe_ids, prompt_learning
from spvmia_plugin.models.sampling import Sampling, uniforms
from spvmia_plugin.protocols import Cost, Follow, OnDone, TokenIds, Turn

TOKENS_PER_BATCH = {"cpu": 2**13}
"""At least so many, with padding, in a batch; `CACHE_BYTES` may allow for more."""
TOKENS_PER_BATCH_DEVICE = 2**17
CACHE_BYTES = {"cpu": 2**31}
"""What the key-value cache of a batch may take. A step reads all weights, whether for 4 rows or for 64 (a few times as
long on a CPU), and lasts until the longest of the batch has ended: the fewer batches, the better."""
MAX_ROWS = {"cpu": 128}
MAX_ROWS_DEVICE = 1024


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
        self._ends = frozenset(end_ids)
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

    @property
    def rewinds(self) -> bool:
        """Whether a row can go back while others go on: `converse` needs that.

        Not where layers keep a window: the columns that a row has left would count as tokens in it.
        """
        if not self._padded or self._virtual or self._model.kept is None or self._model.kept.slides:
            return False
        return holds(self._model, "rewinding", self._try_rewinding)

    def _try_rewinding(self) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """Rows that go back by 2, 0 and 1 tokens, and on by other ones."""
        texts = [[*self._lead, *probe_ids(self._model, n, start=5 * i)] for i, n in enumerate((6, 3, 5))]
        decoder = Decoder(self._model, [list(text) for text in texts], virtual=self._virtual, cached=True, rewound=True)
        for row, count in enumerate((2, 0, 1)):
            decoder.forget(row, count)
            texts[row] = texts[row][: len(texts[row]) - count]
        for step in range(3):
            tokens = probe_ids(self._model, len(texts), start=40 + 3 * step)
            decoder.step(torch.tensor(tokens), [True] * len(tokens))
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
            yield from each(decoder.last, texts)

    def _try(self, lengths: Sequence[int]) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        """Some steps from prompts of these lengths, with rows that leave on the way: see `trial.holds`."""
        texts = [[*self._lead, *probe_ids(self._model, n, start=5 * i)] for i, n in enumerate(lengths)]
        decoder = Decoder(self._model, [list(text) for text in texts], virtual=self._virtual, cached=True)
        yield from each(decoder.last, texts)
        for step, kept in enumerate(([0, 1, 2, 3], [1, 2], [1], [0])):
            if len(kept) < len(texts):
                decoder.keep(kept)
                texts = [texts[row] for row in kept]
            tokens = probe_ids(self._model, len(texts), start=40 + 3 * step)
            decoder.step(torch.tensor(tokens), [True] * len(tokens))
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
        budget, rows = self._room()
        groups: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(len(prompt) if self._cached and not self._padded else 0, []).append(i)
        batches = []
        for group in groups.values():
            for batch in plan_batches([max(lengths[i], len(prompts[i])) + 1 for i in group], budget, rows):
                batches.append(Batch([group[i] for i in batch.rows], batch.width))
        return batches

    def _room(self) -> tuple[int, int]:
        """Tokens, with padding, and rows that a batch may have."""
        kind = self._model.device.type
        budget = TOKENS_PER_BATCH.get(kind, TOKENS_PER_BATCH_DEVICE)
        if self._cached and kind in CACHE_BYTES and self._model.kept is not None:
            budget = max(budget, CACHE_BYTES[kind] // self._model.kept.token_bytes)
        return budget, MAX_ROWS.get(kind, MAX_ROWS_DEVICE)

    def _batch(self, prompts: list[TokenIds], lengths: list[int], seeds: list[int]) -> list[list[int]]:
        """New tokens of every prompt."""
        wanted = [max(0, n - len(prompt)) for prompt, n in zip(prompts, lengths, strict=True)]
        new: list[list[int]] = [[] for _ in prompts]
        active = [i for i, n in enumerate(wanted) if n > 0]
        if not active:
            return new
        # All uniforms of the batch, (A, W): row r holds the draws of prompt active[r], whichever rows still live then.
        draws = np.zeros((len(active), max(wanted)))
        for row, i in enumerate(active):
            draws[row, : wanted[i]] = uniforms(seeds[i], wanted[i])
        stream = torch.from_numpy(draws)
        decoder = Decoder(
            self._model, [[*self._lead, *prompts[i]] for i in active], virtual=self._virtual, cached=self._cached
        )
        self._cost.forward_tokens += sum(len(self._lead) + len(prompts[i]) for i in active)
        # Three numberings: i of prompts, row of `stream`, position in the decoder, which holds the rows `kept`, (B,).
        kept = list(range(len(active)))
        for step in range(draws.shape[1]):
            chosen = self._sampling.choose(self._model, decoder.last, stream[kept, step])
            tokens = chosen.tolist()
            alive = []
            for position, row in enumerate(kept):
                i = active[row]
                if len(new[i]) < wanted[i] and tokens[position] not in self._ends:
                    new[i].append(tokens[position])
                else:
                    wanted[i] = len(new[i])  # ended: what it draws while it stays in the batch is dropped
                if len(new[i]) < wanted[i]:
                    alive.append(position)
            if not alive:
                break
            # Rows that ended go on in the batch until enough have: each time rows are taken out, the cache is copied.
            if decoder.width >= self._model.most_columns:
                # Padded on the left, short rows beside a long one use columns up though they have positions left.
                kept = [kept[p] for p in alive]
                texts = [[*self._lead, *prompts[active[row]], *new[active[row]]] for row in kept]
                decoder = Decoder(self._model, texts, virtual=self._virtual, cached=self._cached)
                self._cost.forward_tokens += sum(map(len, texts))
                continue
            if len(alive) <= SHED * len(kept):
                decoder.keep(alive)
                chosen, kept = chosen[alive], [kept[p] for p in alive]
            self._cost.forward_tokens += len(alive)
            decoder.step(chosen, [len(new[active[row]]) < wanted[active[row]] for row in kept])
        return new

    def converse(self, turns: Mapping[int, Turn], follow: Follow) -> None:
        """See `Backend.converse`; a turn is that of `generate`: drawn from its own seed. Needs `rewinds`."""
        started = time.perf_counter()
        at = dict(turns)  # where each conversation stands: after memory ran out, a smaller batch goes on from there
        keys = list(turns)
        budget, rows = self._room()

        def work(batch: Batch) -> None:
            # After memory ran out the batch is a part of the planned one: so many tokens fit, and no more.
            fits = min(budget, self._runner.limit or budget)
            writer = Conversations(self._model, self._sampling, self._ends, fits, rows, self._cost, at, follow)
            writer.write([keys[k] for k in batch.rows if keys[k] in at])

        widths = [len(turn.opening) + turn.room for turn in turns.values()]
        self._runner.run(plan_batches(widths, budget, rows), work)
        self._cost.seconds += time.perf_counter() - started
