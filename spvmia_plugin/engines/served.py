"""Which weights answer behind a name: known by what they answer, for a server says nothing else of them.

The log-probabilities of a fixed text stand for the weights. Two answers of one model are not the same bits on every
server: how requests are batched changes the rounding. So answers are compared with a tolerance, which follows from how
far apart a server's own answers are; vectors and their names lie in the store.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.data.tokenisation import PROBES
from spvmia_plugin.engines.completions import Fault, Way
from spvmia_plugin.engines.http import Connection
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import TEXT
from spvmia_plugin.models.tokens import Tokens

CLOSEST = 1e-3
"""Mean difference, in nats a token, up to which answers are of one model on a server that answers the same twice."""
TIMES = 5.0
"""On one that does not, so many times the largest mean difference between two of its answers."""
SPREAD_IDS = 64
LONGEST = 96
"""Tokens of a look at the weights, in each of two requests: a context that is shorter is said to be, by name."""

Recall = Callable[[Mapping[str, object]], str | None]
Keep = Callable[[Mapping[str, object], str], None]


@dataclass
class Known:
    """A model of a server, as it answered first in this run.

    Attributes:
        vector: float32 log-probabilities of the probe's tokens.
        tolerance: how far, in the mean, an answer may be from it.
        spread: how far its own answers were apart.
        seen: when it last answered so, in seconds since 1970.
    """

    vector: NDArray[np.float32]
    tolerance: float
    spread: float
    seen: float = field(default_factory=time.time)


class ServedModels:
    """Tells the weights behind the names of a server.

    Args:
        connection: to the server.
        tokens: of the models.
    """

    def __init__(self, connection: Connection, tokens: Tokens) -> None:
        self._connection = connection
        self._tokens = tokens
        self._known: dict[str, Known] = {}
        self._recall: Recall = lambda what: None
        self._keep: Keep = lambda what, answers: None
        self.notes: list[str] = []

    def remember(self, recall: Recall, keep: Keep) -> None:
        """Have vectors kept over runs: see `Backend.remember_base`."""
        self._recall, self._keep = recall, keep

    @property
    def probe_tokens(self) -> int:
        """How many tokens one look at a model costs."""
        return sum(map(len, self._probes()))

    def seen(self, model: str) -> Known | None:
        """A model as it answered first, if it was asked."""
        return self._known.get(model)

    def known(self, model: str, way: Way) -> Known:
        """A model as it answered first, asked alone and several times at once: that is how far its answers differ."""
        if model not in self._known:
            first = self._ask(model, way)
            again = [self._ask(model, way)]
            several = range(min(4, self._connection.concurrent))
            again += [found for _, found in self._connection.together(lambda _: self._ask(model, way), several)]
            spread = max(distance(first, other) for other in again)
            self._known[model] = Known(first, max(CLOSEST, TIMES * spread), spread)
        return self._known[model]

    def name(self, model: str, way: Way) -> str:
        """A name for the weights: that of a vector which was kept, where this one is within the tolerance of it."""
        known = self.known(model, way)
        described = {"served": model, "tokenizer": self._tokens.digest(), "probe": self._probes()}
        kept: list[list[Any]] = json.loads(self._recall(described) or "[]")
        for name, vector in kept:
            if distance(known.vector, np.array(vector, np.float32)) <= known.tolerance:
                return str(name)
        if kept:
            self.notes.append(f"{model!r} has other weights than in {len(kept)} earlier audits: all is scored anew")
        name = hashlib.sha256(known.vector.tobytes()).hexdigest()
        self._keep(described, json.dumps([*kept, [name, [round(float(value), 6) for value in known.vector]]]))
        return name

    def check(self, model: str, way: Way) -> None:
        """Make sure that the weights are those of before.

        Raises:
            SpvmiaError: they are not.
        """
        known = self.known(model, way)
        apart = distance(known.vector, self._ask(model, way))
        if apart > known.tolerance:
            raise SpvmiaError(
                f"base_url: expected {model!r} at {self._connection.shown} to have the same weights from start to end, "
                f"got answers to a fixed text that differ by {apart:.2g} nats a token from those of before "
                f"(at most {known.tolerance:.2g} was expected; last seen alike {time.time() - known.seen:.0f} s ago); "
                "what was computed since then was not kept; see to it that one model is served, and run the same "
                "command again"
            )
        known.seen = time.time()

    def _probes(self) -> list[list[int]]:
        """Texts of some of everything, and ids spread over the vocabulary, each as long as the context has it."""
        text = [token_id for part in (TEXT, *PROBES) for token_id in self._tokens.natural(part)]
        ids = sorted(self._tokens.tokenizer.get_vocab().values())[: int(self._tokens.tokenizer.vocab_size)]
        spread = [ids[i * (len(ids) - 1) // (SPREAD_IDS - 1)] for i in range(SPREAD_IDS)]
        return [each[: min(LONGEST, self._tokens.max_length)] for each in (text, spread)]

    def _ask(self, model: str, way: Way) -> NDArray[np.float32]:
        found = []
        for ids in self._probes():
            try:
                read = self._connection.post(
                    {"model": model, **way.body(ids)}, partial(way.read, ids=ids), own_words=True
                )
            except Fault as fault:
                raise SpvmiaError(
                    f"base_url: expected log-probabilities of a fixed text, got a server ({self._connection.shown}) "
                    f"that {fault}; see its own log, and run the same command again"
                ) from None
            found.append(read.logprob)
        return np.concatenate(found)


def distance(one: Sequence[float] | NDArray[np.float32], other: Sequence[float] | NDArray[np.float32]) -> float:
    """Mean absolute difference of two answers, in nats a token; infinite where they are of other lengths."""
    if len(one) != len(other):
        return float("inf")
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())
