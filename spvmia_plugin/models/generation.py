"""What a model writes: continuations of prompts, and tokens in place of others. Each row draws from its own seed.

One uniform number a draw, turned into a token by the inverse CDF. A draw depends on the row's seed and its distribution
alone, so neither the batch nor the device's random generator has a say in it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.models.batching import Batch, BatchRunner, plan_batches, plan_passes, token_budget
from spvmia_plugin.models.forward import HeadlessModel, each, holds, probe_ids, prompt_learning, takes
from spvmia_plugin.models.statistics import rows_per_product
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.protocols import Cost, Frame, OnDone, TokenIds

TOKENS_PER_BATCH = {"cpu": 2**13}
TOKENS_PER_BATCH_DEVICE = 2**17
MAX_ROWS = {"cpu": 128}
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
        # All uniforms of the batch, (A, W): row r holds the draws of prompt active[r], whichever rows still live then.
        draws = np.zeros((len(active), max(wanted)))
        for row, i in enumerate(active):
            draws[row, : wanted[i]] = uniforms(seeds[i], wanted[i])
        stream = torch.from_numpy(draws)
        decoder = _Decoder(
            self._model, [[*self._lead, *prompts[i]] for i in active], self._virtual, cached=self._cached
        )
        self._cost.forward_tokens += sum(len(self._lead) + len(prompts[i]) for i in active)
        # Three numberings: i of prompts, row of `stream`, position in the decoder, which holds the rows `kept`, (B,).
        kept = list(range(len(active)))
        for step in range(draws.shape[1]):
            chosen = self._choose(decoder.last, stream[kept, step])
            ended, tokens = torch.isin(chosen, self._end_ids).tolist(), chosen.tolist()
            alive = []
            for position, row in enumerate(kept):
                i = active[row]
                if len(new[i]) < wanted[i] and not ended[position]:
                    new[i].append(tokens[position])
                else:
                    wanted[i] = len(new[i])  # ended: what it draws while it stays in the batch is dropped
                if len(new[i]) < wanted[i]:
                    alive.append(position)
            if not alive:
                break
            # Rows that ended go on in the batch until enough have: each time rows are taken out, the cache is copied.
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
        # Padded on the left, so that every row's last token is in the last column and one step appends one column. The
        # mask (B, W) grows with the cache: it says which of the W columns read so far are a row's own.
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
        # (B, W), padded on the right: nothing looks ahead. The last token of each row has its state at its own column.
        width = max(map(len, self._texts))
        ids = torch.tensor([row + [row[0]] * (width - len(row)) for row in self._texts], device=self._model.device)
        rows = self._model.forward(input_ids=ids).rows
        ends = torch.tensor([len(row) - 1 for row in self._texts], device=rows.device)
        self.last = rows[torch.arange(len(rows), device=rows.device), ends]


_BLOCK = 256


@dataclass(frozen=True)
class Sampling:
    """How to turn logits into probabilities: temperature first, then the k best, then the p-nucleus."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, V) float32 weights, 0 for what is not to be drawn; rows need not sum to one."""
        x = logits.float()
        if self.temperature != 1:
            # From the best downwards, so that nothing overflows however cold it is; float32 has no smaller divisor.
            x = (x - x.amax(-1, keepdim=True)) / max(self.temperature, torch.finfo(torch.float32).tiny)
        if 0 < self.top_k < x.shape[-1]:
            least = x.topk(self.top_k, -1).values[..., -1:]
            x = x.masked_fill(x < least, float("-inf"))
        p = x.softmax(-1)
        if self.top_p < 1:
            p = _nucleus(p, self.top_p)
        return p


def _nucleus(p: torch.Tensor, share: float) -> torch.Tensor:
    """Keep the most probable tokens whose mass first reaches `share`; ties stay with the last that is kept."""
    ordered = p.sort(-1, descending=True).values  # (B, V)
    before = ordered.cumsum(-1) - ordered  # mass of the more probable: a token is kept while that is below the share
    last = (before < share).sum(-1, keepdim=True) - 1  # (B, 1) place of the last that is
    return p.masked_fill(p < ordered.gather(-1, last), 0.0)  # by probability, not by place: hence the ties


def inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw indices: the first v whose cumulative weight exceeds u times the total.

    Looks for the block of v first and within it then: sums over blocks take one pass over the weights, cumulative
    sums of all of them would take three and a copy in float64.

    Args:
        weights: (B, V), non-negative. An index of weight 0 is never drawn.
        uniforms: (B, K) in [0, 1).

    Returns:
        (B, K) indices.
    """
    wide = torch.float32 if weights.device.type == "mps" else torch.float64  # rounding in 49k float32 sums shows
    rows, vocab = weights.shape
    if vocab % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, _BLOCK - vocab % _BLOCK))
    blocks = weights.view(rows, -1, _BLOCK)  # (B, n, block)
    before = blocks.sum(-1).to(wide).cumsum(-1)  # (B, n): weight up to and with each block
    point = uniforms.to(wide) * before[:, -1:]  # (B, K)
    block = _first_above(before, point)  # (B, K)
    inner = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).to(wide).cumsum(-1)  # (B, K, block)
    start = torch.nn.functional.pad(before, (1, 0)).gather(1, block)  # (B, K): weight before the block
    return block * _BLOCK + _first_above(inner, (point - start)[..., None]).squeeze(-1)


def _first_above(cumulative: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """First index where `cumulative` (..., n) exceeds `point` (..., K); where rounding puts the point at the end, the
    last step up."""
    found = torch.searchsorted(cumulative, point.contiguous(), right=True)
    last = (cumulative < cumulative[..., -1:]).sum(-1, keepdim=True)
    return torch.minimum(found, last)


def uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """The stream of one row: `count` numbers in [0, 1)."""
    return np.random.default_rng(seed).random(count)


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
