"""What an engine is asked to read for the inputs of `Backend.score`, and signals put together from what it answers.

Equal inputs are read once. Those that exceed the context are read in rolling windows, each a pass of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.models.scoring import windows_of
from spvmia_plugin.protocols import OnDone, ScoreInput
from spvmia_plugin.signals import TokenSignals

_MOMENTS = ("mean", "std")


@dataclass(frozen=True, slots=True)
class Pass:
    """One sequence of tokens that a model reads; the last `scored` of them get a score, at least one.

    Attributes:
        owner: which of the distinct inputs it is a window of.
        token_ids: all that is read, the last token too, which nothing is predicted from.
        scored: how many tokens at its end are scored.
    """

    owner: int
    token_ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of the scored tokens of one pass: (scored,) each; no moments where none were asked for."""

    logprob: NDArray[np.float32]
    top1: NDArray[np.bool_]
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None


class Passes:
    """The passes for some inputs; gathers their answers.

    Args:
        inputs: what is scored; none carries noise.
        max_length: how many tokens the engine reads to predict the next one.
        moments: whether answers have moments.
        on_done: told of inputs as they become complete.

    Attributes:
        all: every pass.
        in_order: signals of the inputs that are complete, in input order.

    Raises:
        SpvmiaError: a context that must stand before a text whole does not fit with it.
    """

    def __init__(self, inputs: Sequence[ScoreInput], max_length: int, *, moments: bool, on_done: OnDone | None) -> None:
        self._on_done = on_done
        places: dict[ScoreInput, list[int]] = {}
        for i, item in enumerate(inputs):
            places.setdefault(item, []).append(i)
        self._places = list(places.values())
        self.in_order: list[TokenSignals | None] = [None] * len(inputs)
        self.all: list[Pass] = []
        self._windows: list[list[int]] = []  # of each distinct input: its passes
        self._answers: dict[int, Answer] = {}
        empty = []
        for owner, item in enumerate(places):
            sequence = item.context_ids + item.token_ids
            made = [Pass(owner, sequence[w.start : w.end], w.end - w.first) for w in windows_of(item, max_length)]
            self._windows.append(list(range(len(self.all), len(self.all) + len(made))))
            self.all += made
            if not made:
                empty.append(owner)
        blank = np.zeros(0, np.float32)
        moment = blank if moments else None
        self._finish({owner: TokenSignals(blank, np.zeros(0, bool), moment, moment) for owner in empty})

    def is_needed(self, rows: Collection[int], done: Collection[int]) -> bool:
        """Whether any of these passes belongs to an input that is not in the store yet."""
        return any(i not in done for row in rows for i in self._places[self.all[row].owner])

    def add(self, answers: Mapping[int, Answer]) -> None:
        """Take the answers to some passes, by their number in `all`."""
        self._answers |= answers
        finished = {}
        for owner in {self.all[row].owner for row in answers}:
            windows = self._windows[owner]
            if all(row in self._answers for row in windows):
                finished[owner] = _together([self._answers.pop(row) for row in windows])
        self._finish(finished)

    def _finish(self, finished: Mapping[int, TokenSignals]) -> None:
        done = {i: signals for owner, signals in finished.items() for i in self._places[owner]}
        for i, signals in done.items():
            self.in_order[i] = signals
        if done and self._on_done is not None:
            self._on_done(done)


def _together(answers: Sequence[Answer]) -> TokenSignals:
    """The signals of one input from its windows, first to last."""
    logprob, top1 = np.concatenate([each.logprob for each in answers]), np.concatenate([each.top1 for each in answers])
    mean, std = ([values for each in answers if (values := getattr(each, name)) is not None] for name in _MOMENTS)
    if not mean:
        return TokenSignals(logprob, top1, windows=len(answers))
    return TokenSignals(logprob, top1, np.concatenate(mean), np.concatenate(std), len(answers))
