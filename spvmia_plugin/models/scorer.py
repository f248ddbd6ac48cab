"""Scores many sequences: plans batches over all of them, shares what is equal, gives results back in input order."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.batching import Batch, BatchRunner, plan_passes, token_budget
from spvmia_plugin.models.head import HeadlessModel
from spvmia_plugin.models.passes import Context, Piece, ScoringPass
from spvmia_plugin.models.statistics import Statistics
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.models.windows import rolling_windows
from spvmia_plugin.protocols import Cost, OnDone, ScoreInput
from spvmia_plugin.signals import TokenSignals

_FIELDS = ("logprob", "top1", "mean", "std")

_SHORT_CONTEXT = 8
"""Up to so many tokens (a BOS or two) are read again with every sequence: a shared cache would cost more."""


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
        self, inputs: Sequence[ScoreInput], *, moments: bool, on_done: OnDone | None, done: Collection[int]
    ) -> list[TokenSignals | None]:
        """See `Backend.score`."""
        started = time.perf_counter()
        places: dict[ScoreInput, list[int]] = {}
        for i, item in enumerate(inputs):
            places.setdefault(item, []).append(i)
        results = _Results(inputs, list(places.values()), on_done, moments)
        needed = {k for k, where in enumerate(places.values()) if not all(i in done for i in where)}
        for context, items in _by_context(list(places)).items():
            self._score_group(context, items, results, needed, moments)
        self._cost.seconds += time.perf_counter() - started
        return results.in_order

    def _score_group(
        self,
        context: tuple[int, ...],
        items: Sequence[tuple[int, ScoreInput]],
        results: _Results,
        needed: Collection[int],
        moments: bool,
    ) -> None:
        """All sequences after one context (mostly: none)."""
        cached = self._read_context(context) if len(context) > _SHORT_CONTEXT else None
        units = [unit for owner, item in items for unit in self._units(owner, item, cached is not None)]
        results.expect(units)
        before = len(context) if cached is not None else 0  # cached tokens that each row takes memory for
        planned = plan_passes([len(unit.piece.inputs) + before for unit in units], self._budget)
        planned = [batch for batch in planned if any(units[i].owner in needed for i in batch.rows)]

        def work(batch: Batch) -> None:
            pieces = [units[i].piece for i in batch.rows]
            if cached is not None:
                statistics = self._pass.after(cached, pieces, moments=moments)
            else:
                statistics = self._pass.plain(pieces, moments=moments)
            self._cost.batches += 1
            self._cost.forward_tokens += sum(len(piece.inputs) for piece in pieces)
            results.add([units[i] for i in batch.rows], statistics)

        self._runner.run(planned, work)

    def _read_context(self, context: tuple[int, ...]) -> Context | None:
        """The cache of the tokens before every sequence, where the model has one to share."""
        cached = self._pass.context(context)
        if cached is not None:
            self._cost.forward_tokens += len(context)
        self.contexts_shared &= cached is not None
        return cached

    def _units(self, owner: int, item: ScoreInput, cached: bool) -> list[_Unit]:
        """The windows of one sequence; one alone where it fits the model's context."""
        before = len(item.context_ids)
        sequence = item.context_ids + item.token_ids
        first = len(sequence) - item.scored
        if before > _SHORT_CONTEXT and len(sequence) - 1 > self._tokens.max_length:
            raise SpvmiaError(
                f"ReCaLL prefix: expected prefix and text to fit the context of {self._tokens.max_length} tokens, "
                f"got {len(sequence) - 1}; use fewer shots (mia_recall_shots) or shorter records"
            )
        if cached and item.token_ids:
            return [_Unit(owner, Piece(item.token_ids[:-1], item.token_ids, item.noise, 0))]
        return [
            _Unit(owner, Piece(sequence[w.start : w.end - 1], sequence[w.first : w.end], item.noise, w.start - before))
            for w in rolling_windows(first, len(sequence), self._tokens.max_length)
        ]


def _by_context(items: Sequence[ScoreInput]) -> dict[tuple[int, ...], list[tuple[int, ScoreInput]]]:
    """Distinct inputs, numbered, by the context before them."""
    groups: dict[tuple[int, ...], list[tuple[int, ScoreInput]]] = {}
    for k, item in enumerate(items):
        groups.setdefault(item.context_ids, []).append((k, item))
    return groups


_Part = tuple[NDArray[np.float32], ...]


def _signals(parts: Sequence[_Part], windows: int) -> TokenSignals:
    """Put the windows of a sequence together."""
    rows = [
        parts[0][row] if len(parts) == 1 else np.concatenate([p[row] for p in parts]) for row in range(len(parts[0]))
    ]
    logprob, top1, *moments = rows
    mean, std = moments or (None, None)
    return TokenSignals(logprob, top1 > 0, mean, std, windows)


class _Results:
    """Collects windows into signals, and reports sequences as they become complete."""

    def __init__(
        self, inputs: Sequence[ScoreInput], places: list[list[int]], on_done: OnDone | None, moments: bool
    ) -> None:
        self.in_order: list[TokenSignals | None] = [None] * len(inputs)
        self._places = places
        self._on_done = on_done
        self._parts: dict[int, dict[int, _Part]] = {}
        self._expected: dict[int, list[_Unit]] = {}
        empty = [k for k, where in enumerate(places) if not inputs[where[0]].scored]
        blank = torch.zeros(4 if moments else 2, 0)
        self._finish({k: _signals([tuple(blank.numpy())], 1) for k in empty})

    def expect(self, units: Sequence[_Unit]) -> None:
        """Say which windows make up which sequence."""
        for unit in units:
            self._expected.setdefault(unit.owner, []).append(unit)

    def add(self, units: Sequence[_Unit], statistics: Statistics) -> None:
        """Take the statistics of one batch. One transfer from the device for all of it."""
        given = [getattr(statistics, name) for name in _FIELDS]
        arrays = torch.stack([values.float() for values in given if values is not None]).cpu().numpy()
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
                finished[unit.owner] = _signals([parts[id(u)] for u in expected], len(expected))
        self._finish(finished)

    def _finish(self, finished: dict[int, TokenSignals]) -> None:
        done = {i: signals for k, signals in finished.items() for i in self._places[k]}
        for i, signals in done.items():
            self.in_order[i] = signals
        if done and self._on_done is not None:
            self._on_done(done)
