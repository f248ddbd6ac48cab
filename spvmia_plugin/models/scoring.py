"""Token signals of many sequences: batches planned over all of them, what is equal shared, results in input order."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.batching import Batch, BatchRunner, plan_passes, token_budget
from spvmia_plugin.models.forward import HeadlessModel, holds, probe_ids, prompt_learning
from spvmia_plugin.models.statistics import Statistics, token_statistics
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.protocols import Cost, EmbeddingNoise, OnDone, ScoreInput
from spvmia_plugin.signals import TokenSignals

_SHORT_CONTEXT = 8
"""Up to so many tokens (a BOS or two) are read again with every sequence: a shared cache would cost more."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of every token besides its log-probability and whether it is the most probable one.

    Attributes:
        moments: mean and standard deviation over the vocabulary.
        kth: K, for the log-probability of the K-th most probable token; 0 for none.
    """

    moments: bool
    kth: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the statistics, in the order of their rows."""
        return "logprob", "top1", *(("mean", "std") if self.moments else ()), *(("kth",) if self.kth else ())


@dataclass(frozen=True, slots=True)
class _Unit:
    """One window of one distinct input."""

    owner: int
    piece: Piece


class Scorer:
    """Token signals of sequences under one model.

    Args:
        model: the model of a role.
        tokens: padding and context length.
        runner: runs batches, remembers what fitted into memory.
        cost: is added to.
    """

    def __init__(self, model: HeadlessModel, tokens: Tokens, runner: BatchRunner, cost: Cost) -> None:
        self._tokens = tokens
        self._runner = runner
        self._cost = cost
        self._pass = ScoringPass(model, tokens.pad_id)
        self._budget = token_budget(model.device.type)
        self.contexts_shared = True  # False once a context had to be read again with every sequence

    def score(
        self,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None,
        done: Collection[int],
        kth: int = 0,
    ) -> list[TokenSignals | None]:
        """Signals in input order, as `Backend.score` gives them; what is equal is scored once."""
        started = time.perf_counter()
        places: dict[ScoreInput, list[int]] = {}
        for i, item in enumerate(inputs):
            places.setdefault(item, []).append(i)
        asked = Asked(moments, kth)
        results = _Results(inputs, list(places.values()), on_done, asked)
        needed = {k for k, where in enumerate(places.values()) if not all(i in done for i in where)}
        after: dict[tuple[int, ...], list[tuple[int, ScoreInput]]] = {}  # distinct inputs, numbered, by their context
        for k, item in enumerate(places):
            after.setdefault(item.context_ids, []).append((k, item))
        single: list[tuple[int, ScoreInput]] = []  # each with a context of its own: read with it, many at once
        for context, items in after.items():
            if len(items) == 1 and len(context) > _SHORT_CONTEXT:
                single += items
            else:
                self._score_group(context, items, results, needed, asked)
        self._score_group((), single, results, needed, asked)
        self._cost.seconds += time.perf_counter() - started
        return results.in_order

    def _score_group(
        self,
        context: tuple[int, ...],
        items: Sequence[tuple[int, ScoreInput]],
        results: _Results,
        needed: Collection[int],
        asked: Asked,
    ) -> None:
        """All sequences after one context (mostly: none)."""
        cached = None
        if len(context) > _SHORT_CONTEXT:
            cached = self._pass.context(context)
            self._cost.forward_tokens += len(context) if cached is not None else 0
            self.contexts_shared &= cached is not None
        units = [unit for owner, item in items for unit in self._units(owner, item, cached is not None)]
        results.expect(units)
        before = len(context) if cached is not None else 0  # cached tokens that each row takes memory for
        planned = plan_passes([len(unit.piece.inputs) + before for unit in units], self._budget)
        planned = [batch for batch in planned if any(units[i].owner in needed for i in batch.rows)]

        def work(batch: Batch) -> None:
            pieces = [units[i].piece for i in batch.rows]
            if cached is not None:
                statistics = self._pass.after(cached, pieces, asked)
            else:
                statistics = self._pass.plain(pieces, asked)
            self._cost.batches += 1
            self._cost.forward_tokens += sum(len(piece.inputs) for piece in pieces)
            results.add([units[i] for i in batch.rows], statistics)

        self._runner.run(planned, work)

    def _units(self, owner: int, item: ScoreInput, cached: bool) -> list[_Unit]:
        """The windows of one sequence; one alone where it fits the model's context."""
        before = len(item.context_ids)
        sequence = item.context_ids + item.token_ids
        windows = windows_of(item, self._tokens.max_length)
        if cached and item.token_ids:
            return [_Unit(owner, Piece(item.token_ids[:-1], item.token_ids, item.noise, 0))]
        return [
            _Unit(owner, Piece(sequence[w.start : w.end - 1], sequence[w.first : w.end], item.noise, w.start - before))
            for w in windows
        ]


_Part = tuple[NDArray[np.float32], ...]


def _signals(parts: Sequence[_Part], windows: int, asked: Asked) -> TokenSignals:
    """Put the windows of a sequence together."""
    rows = [
        parts[0][row] if len(parts) == 1 else np.concatenate([p[row] for p in parts]) for row in range(len(parts[0]))
    ]
    of = dict(zip(asked.fields, rows, strict=True))
    return TokenSignals(of["logprob"], of["top1"] > 0, of.get("mean"), of.get("std"), windows, of.get("kth"))


class _Results:
    """Collects windows into signals, and reports sequences as they become complete."""

    def __init__(
        self, inputs: Sequence[ScoreInput], places: list[list[int]], on_done: OnDone | None, asked: Asked
    ) -> None:
        self.in_order: list[TokenSignals | None] = [None] * len(inputs)
        self._places = places
        self._asked = asked
        self._on_done = on_done
        self._parts: dict[int, dict[int, _Part]] = {}
        self._expected: dict[int, list[_Unit]] = {}
        empty = [k for k, where in enumerate(places) if not inputs[where[0]].scored]
        blank = torch.zeros(len(asked.fields), 0)
        self._finish({k: _signals([tuple(blank.numpy())], 1, asked) for k in empty})

    def expect(self, units: Sequence[_Unit]) -> None:
        """Say which windows make up which sequence."""
        for unit in units:
            self._expected.setdefault(unit.owner, []).append(unit)

    def add(self, units: Sequence[_Unit], statistics: Statistics) -> None:
        """Take the statistics of one batch. One transfer from the device for all of it."""
        given = [getattr(statistics, name) for name in self._asked.fields]
        arrays = torch.stack([values.float() for values in given]).cpu().numpy()
        finished = {}
        start = 0
        for unit in units:
            end = start + len(unit.piece.targets)
            parts = self._parts.setdefault(unit.owner, {})
            parts[id(unit)] = tuple(arrays[:, start:end].copy())
            start = end
            expected = self._expected[unit.owner]
            if len(parts) == len(expected):
                del self._parts[unit.owner]
                finished[unit.owner] = _signals([parts[id(u)] for u in expected], len(expected), self._asked)
        self._finish(finished)

    def _finish(self, finished: dict[int, TokenSignals]) -> None:
        done = {i: signals for k, signals in finished.items() for i in self._places[k]}
        for i, signals in done.items():
            self.in_order[i] = signals
        if done and self._on_done is not None:
            self._on_done(done)


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

    def plain(self, pieces: Sequence[Piece], asked: Asked) -> Statistics:
        """Statistics of all pieces' targets, one piece after the other."""
        hidden = self._model.forward(**self._inputs(pieces)).rows
        rows = [row[len(p.inputs) - len(p.targets) : len(p.inputs)] for row, p in zip(hidden, pieces, strict=True)]
        return self._statistics(rows, pieces, asked)

    def after(self, context: Context, pieces: Sequence[Piece], asked: Asked) -> Statistics:
        """The same, conditioned on a context that is already in the cache; the context's output predicts the first."""
        width = max(len(p.inputs) for p in pieces)
        first = context.last
        rows = [first] * len(pieces)
        if width:
            hidden = self._model.forward(
                **self._inputs(pieces), cache=context.expanded(len(pieces)), use_cache=True
            ).rows
            rows = [torch.cat((first, row[: len(p.inputs)])) for row, p in zip(hidden, pieces, strict=True)]
        return self._statistics(rows, pieces, asked)

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

    def _statistics(self, rows: list[torch.Tensor], pieces: Sequence[Piece], asked: Asked) -> Statistics:
        targets = torch.tensor([t for p in pieces for t in p.targets], device=rows[0].device)
        return token_statistics(
            torch.cat(rows),
            targets,
            self._model.logits,
            vocab=self._model.vocab,
            moments=asked.moments,
            kth=asked.kth,
        )

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
            of_row = drawn[key][start:] * (piece.noise.sign * piece.noise.scale * std)
            if piece.noise.only is not None:
                chosen = torch.zeros(rows, 1)
                chosen[[p - start for p in piece.noise.only if 0 <= p - start < rows]] = 1
                of_row = of_row * chosen
            noise[i, first : first + rows] = of_row
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


@dataclass(frozen=True, slots=True)
class Window:
    """One pass over part of a sequence: the model reads `start` to `end - 1`; tokens `first` to `end` are scored."""

    start: int
    first: int
    end: int


def windows_of(item: ScoreInput, max_length: int) -> list[Window]:
    """The windows in which a sequence, context and tokens, is read.

    Raises:
        SpvmiaError: a long context, as of a ReCaLL prefix, would not be before all that is scored.
    """
    total = len(item.context_ids) + len(item.token_ids)
    if len(item.context_ids) > _SHORT_CONTEXT and total - 1 > max_length:
        raise SpvmiaError(
            f"ReCaLL prefix: expected prefix and text to fit the context of {max_length} tokens, "
            f"got {total - 1}; use fewer shots (mia_recall_shots) or shorter records"
        )
    return rolling_windows(total - item.scored, total, max_length)


def rolling_windows(first: int, total: int, max_length: int) -> list[Window]:
    """Cut a sequence into windows of at most `max_length` input tokens.

    The first window reads from the start; every later one has one token before those it scores; the last one is
    filled up with as much context as fits, because the model reads that many tokens anyway.

    Args:
        first: the first token to score; what is before it (at least one token) is conditioned on.
        total: tokens of the sequence, context and text.
        max_length: the model's context.
    """
    windows: list[Window] = []
    while first < total:
        end = min(first + max_length, total) if windows else min(max_length + 1, total)
        windows.append(Window(max(0, end - 1 - max_length), first, end))
        first = end
    return windows
