"""Which weights answer behind a name: known by what they answer, for a server says nothing else of them.

The log-probabilities of a fixed text stand for the weights. Two answers of one model are not the same bits on every
server: how requests are batched changes the rounding. So answers are compared with a tolerance, which follows from how
far apart a server's own answers are; vectors and their names lie in the store.
"""

from __future__ import annotations

import hashlib
import json
import threading
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
from spvmia_plugin.engines.remote import ALIKE
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import TEXT
from spvmia_plugin.models.tokens import Tokens

CLOSEST = 1e-3
"""Mean difference, in nats a token, up to which answers are of one model on a server that answers the same twice."""
TIMES = 5.0
"""On one that does not, so many times the largest mean difference between two of its answers."""
AGAIN = 2.0
"""So many times, from the answers of another run: to compute anew is better than to take other weights for these."""
NOTABLE = 0.01
"""Mean difference, in nats a token, between two answers of one run that a reader of the results should know of."""
WIDEST = ALIKE / 2
"""From here on it is refused: two engines, each with its own kernels, are no further apart in bfloat16 on one model."""
EXACT = 1e-6
"""Mean difference, in nats a token, up to which answers of two models that each answer the same twice are equal."""
ROUNDED = 1.5
"""So many times the largest difference between two answers of one model."""
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
        self._looks = 0
        self._lock = threading.Lock()

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
        """A model as it answered first, asked alone and several times at once: that is how far its answers differ.

        Raises:
            SpvmiaError: they differ by more than rounding explains, or there are none.
        """
        if model not in self._known:
            first = self._ask(model, way)
            again = [self._ask(model, way)]
            several = range(min(4, self._connection.concurrent))
            again += [found for _, found in self._connection.together(lambda _: self._ask(model, way), several)]
            spread = max(distance(first, other) for other in again)
            if spread > WIDEST:
                raise SpvmiaError(
                    f"base_url: expected one model behind {model!r} at {self._connection.shown}, got answers to one "
                    f"fixed text that differ by {spread:.2g} nats a token from request to request (bfloat16 explains "
                    f"{WIDEST:.2g} at most): servers with other weights behind one address, an update that is under "
                    "way, or noise put on what it says; give the address of one of them as base_url=... in "
                    "--model_args, run the same command again when the update is over, or load the model with "
                    "'--model hf'"
                )
            if spread >= NOTABLE:
                self.notes.append(
                    f"{model!r} answers one fixed text otherwise from request to request, by {spread:.2g} nats a token "
                    "in the mean: rounding in bfloat16, or servers with slightly other weights behind one address"
                )
            self._known[model] = Known(first, max(CLOSEST, min(TIMES * spread, ALIKE)), spread)
        return self._known[model]

    def name(self, model: str, way: Way, called: str | None = None) -> str:
        """A name for the weights: that of the one kept vector that this one is near to.

        Where it is near to several, nobody can say whose weights they are, and none of the names is taken.

        Args:
            model: as the server has it.
            way: to ask it.
            called: what it is kept by, if not by `model`.

        Raises:
            SpvmiaError: of `known`.
        """
        known, called = self.known(model, way), called or model
        described = {"served": called, "tokenizer": self._tokens.digest(), "probe": self._probes()}
        kept: list[list[Any]] = json.loads(self._recall(described) or "[]")
        apart = {str(name): distance(known.vector, np.array(vector, np.float32)) for name, vector in kept}
        name = hashlib.sha256(known.vector.tobytes()).hexdigest()
        if name in apart:  # the very same numbers
            return name
        near = [each for each, far in apart.items() if far <= max(CLOSEST, AGAIN * known.spread)]
        if len(near) == 1:
            if (far := apart[near[0]]) > CLOSEST:
                self.notes.append(
                    f"{called!r} was taken for the weights of an earlier audit, whose answers to a fixed text differ "
                    f"from these by {far:.2g} nats a token, as this server's own do: if they are others, serve them "
                    "under a name of their own"
                )
            return near[0]
        if near:  # nor is it kept: between the others, it would never be found again
            self.notes.append(
                f"{called!r} may have the weights of any of {len(near)} earlier audits: its answers to a fixed text "
                f"differ by {known.spread:.2g} nats a token from request to request, and are that near to theirs; all "
                "is scored anew, and is not found again (serve each under a name of its own)"
            )
            return name
        if kept:
            self.notes.append(f"{called!r} has other weights than in {len(kept)} earlier audits: all is scored anew")
        self._keep(described, json.dumps([*kept, [name, [round(float(value), 6) for value in known.vector]]]))
        return name

    def check(self, model: str, way: Way) -> None:
        """Make sure that the weights are those of before.

        Raises:
            SpvmiaError: they are not, or nobody answers.
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
        """One answer to the probes, in their order; each time they are sent in another one.

        A balancer that deals requests out in turn would give each of them to the same server every time.
        """
        probes = self._probes()
        with self._lock:
            self._looks += 1
            backwards = self._looks % 2 == 0
        found: dict[int, NDArray[np.float32]] = {}
        for place in sorted(range(len(probes)), reverse=backwards):
            ids = probes[place]
            try:
                read = self._connection.post(
                    {"model": model, **way.body(ids)}, partial(way.read, ids=ids), own_words=True
                )
            except Fault as fault:
                raise SpvmiaError(
                    f"base_url: expected log-probabilities of a fixed text, got a server ({self._connection.shown}) "
                    f"that {fault}; see its own log, and run the same command again"
                ) from None
            found[place] = read.logprob
        return np.concatenate([found[place] for place in range(len(probes))])


def alike(one: Known, other: Known) -> bool:
    """Whether two models of a server answer as one would: no further apart than each one's own answers are."""
    return distance(one.vector, other.vector) <= max(EXACT, ROUNDED * max(one.spread, other.spread))


def distance(one: Sequence[float] | NDArray[np.float32], other: Sequence[float] | NDArray[np.float32]) -> float:
    """Mean absolute difference of two answers, in nats a token; infinite where they are of other lengths."""
    if len(one) != len(other):
        return float("inf")
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())
