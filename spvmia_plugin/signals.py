"""What attacks see: per-token signals of a text under a model. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


class Role(str, Enum):
    """A model's part in the audit."""

    TARGET = "target"
    """theta, the fine-tuned model under audit."""
    REFERENCE = "reference"
    """phi, fine-tuned on the target's own generations (or what `mia_reference` names)."""
    BASE = "base"
    """the model before fine-tuning."""
    CANDIDATE = "candidate"
    """the base fine-tuned on held-out documents (or what `mia_candidate` names)."""
    REFERENCE_2 = "reference_2"
    REFERENCE_3 = "reference_3"
    REFERENCE_4 = "reference_4"
    REFERENCE_5 = "reference_5"
    REFERENCE_6 = "reference_6"
    REFERENCE_7 = "reference_7"
    REFERENCE_8 = "reference_8"
    CANDIDATE_2 = "candidate_2"
    CANDIDATE_3 = "candidate_3"
    CANDIDATE_4 = "candidate_4"
    CANDIDATE_5 = "candidate_5"
    CANDIDATE_6 = "candidate_6"
    CANDIDATE_7 = "candidate_7"
    CANDIDATE_8 = "candidate_8"

    @property
    def kind(self) -> Role:
        """What attacks ask for: REFERENCE for REFERENCE_3, the role itself for all others."""
        return Role(self.value.partition("_")[0])

    @property
    def nth(self) -> int:
        """Which of the models of its kind it is, from 1."""
        return int(self.value.partition("_")[2] or 1)

    def siblings(self, count: int) -> tuple[Role, ...]:
        """The first `count` models of its kind, this one's kind itself before the others; one where there are no more.

        REFERENCE and CANDIDATE have up to eight (`mia_references`), every other role is one model.
        """
        return tuple(role for role in Role if role.kind is self.kind and role.nth <= count)


class View(str, Enum):
    """Which text derived from the record is scored."""

    TEXT = "text"
    """the record itself."""
    LOWERCASE = "lowercase"
    """`text.lower()`."""
    NEIGHBOURS = "neighbours"
    """its paraphrases, 2N of them."""
    PREFIXED = "prefixed"
    """the record after the ReCaLL prefix, which is conditioned on and not scored."""
    POPULATION = "population"
    """the held-out prompt documents, one and the same set for every record."""
    PROBED = "probed"
    """the record after perturbed copies of itself, one at a time, which are conditioned on and not scored."""
    REJECTED = "rejected"
    """of a preference the rejected answer, after the prompt that both answers have."""
    GRADIENT = "gradient"
    """the record read backwards too: how large the gradient of its loss is, one number."""
    CONTINUED = "continued"
    """texts that the model writes where the record's first half ends (of a conversation: where a reply begins)."""
    SIMILARITY = "similarity"
    """how alike these and the record's own second half are to an embedding model, one number a text."""


WRITTEN = frozenset({View.CONTINUED, View.SIMILARITY})
"""Views that rest on what a model writes, and need none of its log-probabilities."""


@dataclass(frozen=True, slots=True)
class Need:
    """One kind of signal an attack asks for; a run computes the union of all attacks' needs once.

    Attributes:
        role: the model.
        view: the text.
        moments: whether mean and standard deviation over the vocabulary are wanted.
        shots: of the view PREFIXED alone: how many held-out documents the prefix should hold. Where several attacks
            ask, it is one prefix, as long as the longest.
        probes: of the view PROBED alone: after how many copies the record is read. Where several attacks ask, all of
            them see the most.
    """

    role: Role
    view: View = View.TEXT
    moments: bool = False
    shots: int = 7
    probes: int = 1


@dataclass(frozen=True, slots=True)
class Unscored:
    """Why a record has no score. Kept and counted, never dropped."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenSignals:
    """Signals of the T scored tokens of one text under one model.

    Attributes:
        logprob: (T,) float32, l_t = log p(x_t | x_<t) in nats, of the tokens that have a context: the first one of a
            text only if something stands before it (`mia_prefix`).
        top1: (T,) bool, whether x_t was the model's most probable token.
        mean: (T,) float32, mu_t = mean of log p(v | x_<t) over the vocabulary under p, or None if not computed.
        std: (T,) float32, sigma_t = its standard deviation, or None if not computed.
        windows: number of rolling windows the text was scored in; more than 1 means it exceeds the context.
        kth: (T,) float32, log-probability of the K-th most probable token at each place, where a run asked for it
            (`mia_api_view=top_k:K`): what is less probable an interface of K log-probabilities does not show.

    All attacks see the same arrays, so nobody may write into them.
    """

    logprob: FloatArray
    top1: NDArray[np.bool_]
    mean: FloatArray | None = None
    std: FloatArray | None = None
    windows: int = 1
    kth: FloatArray | None = None
    _mean_logprob: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for values in (self.logprob, self.top1, self.mean, self.std, self.kth):
            if values is not None:
                values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def mean_logprob(self) -> float:
        """L, the mean of l_t in float64; every attack asks for it, and it is computed once."""
        if self._mean_logprob is None:
            # What np.mean does, to the bit, in a third of its time: millions of records are averaged.
            mean = float(np.add.reduce(self.logprob, dtype=np.float64) / len(self.logprob))
            object.__setattr__(self, "_mean_logprob", mean)
            return mean
        return self._mean_logprob

    def where(self, counted: NDArray[np.bool_]) -> TokenSignals:
        """Those of some of the tokens; `counted` (T,) says which."""
        mean, std, kth = (None if values is None else values[counted] for values in (self.mean, self.std, self.kth))
        return TokenSignals(self.logprob[counted], self.top1[counted], mean, std, self.windows, kth)


@dataclass(frozen=True, slots=True)
class Continued:
    """What a model wrote where a text goes on, and how the text goes on.

    Attributes:
        truth: the text's own second half; of a conversation the reply.
        texts: what the model wrote in its place, one a sample.
    """

    truth: str = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


def mean_signals(several: Sequence[TokenSignals]) -> TokenSignals:
    """One text under several models of one role as if it were one model: the mean token by token; one alone is itself.

    Args:
        several: at least one, of the same T tokens.

    Returns:
        Log-probabilities, and moments where all have them, averaged in float64; a token is the most probable one where
        at least half of the models say so.
    """
    first = several[0]
    if len(several) == 1:
        return first

    def mean(values: Sequence[FloatArray]) -> FloatArray:
        found: FloatArray = np.asarray(np.mean(values, axis=0, dtype=np.float64), dtype=np.float32)
        return found

    votes = np.sum([each.top1 for each in several], axis=0)
    means = [each.mean for each in several if each.mean is not None]
    stds = [each.std for each in several if each.std is not None]
    return TokenSignals(
        mean([each.logprob for each in several]),
        2 * votes >= len(several),
        mean(means) if len(means) == len(several) else None,
        mean(stds) if len(stds) == len(several) else None,
        max(each.windows for each in several),
    )


class MissingSignal(Exception):
    """A signal an attack needs does not exist for this record; becomes `Unscored(reason)`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class RecordSignals:
    """All signals of one record, as an attack's `score` receives them. Accessors raise `MissingSignal`.

    Where there are several references (`mia_references`), REFERENCE is their mean token by token, and so is CANDIDATE:
    an attack need not know of it. `each_of` gives the single ones.

    Attributes:
        text: the record's text (zlib and bag_of_words need it).
        tokens: signals by (role, view) for the views TEXT, LOWERCASE, PREFIXED and REJECTED.
        neighbours: signals of the paraphrases by role, in the order they were made; symmetric pairs adjacent.
        population: signals of the population by role; the same sequence object for every record of an audit.
        probed: signals of the record after each of its probes, by role, in the order they were made.
        gradients: Euclidean norm of the gradient of the record's mean NLL over its scored tokens, by role.
        continued: what was written in place of the record's second half, by role.
        similarities: of each of these texts the cosine of its embedding and the second half's, by role.
        missing: why a (role, view) is absent, where a reason is known.
        each: of a (role, view) that is the mean of several models, the signals of each of them.
        each_population: likewise of the population, model by model.
    """

    text: str = field(repr=False)
    tokens: Mapping[tuple[Role, View], TokenSignals] = field(default_factory=dict)
    neighbours: Mapping[Role, Sequence[TokenSignals]] = field(default_factory=dict)
    population: Mapping[Role, Sequence[TokenSignals]] = field(default_factory=dict)
    missing: Mapping[tuple[Role, View], str] = field(default_factory=dict)
    each: Mapping[tuple[Role, View], tuple[TokenSignals, ...]] = field(default_factory=dict)
    each_population: Mapping[Role, Sequence[Sequence[TokenSignals]]] = field(default_factory=dict)
    probed: Mapping[Role, Sequence[TokenSignals]] = field(default_factory=dict)
    gradients: Mapping[Role, float] = field(default_factory=dict)
    continued: Mapping[Role, Continued] = field(default_factory=dict)
    similarities: Mapping[Role, Sequence[float]] = field(default_factory=dict)

    @property
    def is_long(self) -> bool:
        """Whether a text of the record exceeds the model's context."""
        return any(signals.windows > 1 for signals in self.tokens.values())

    def of(self, role: Role, view: View = View.TEXT) -> TokenSignals:
        """Return the signals of one text with at least one scored token.

        Raises:
            MissingSignal: the signals are absent, or no token could be scored.
        """
        signals = self.tokens.get((role, view))
        if signals is None:
            raise MissingSignal(self._reason(role, view))
        if len(signals) == 0:
            raise MissingSignal("no scored tokens")
        return signals

    def each_of(self, role: Role, view: View = View.TEXT) -> tuple[TokenSignals, ...]:
        """Return the signals of one text under every model of a role, one where there is one.

        Raises:
            MissingSignal: as `of`: also where one of several is absent.
        """
        whole = self.of(role, view)
        return self.each.get((role, view)) or (whole,)

    def neighbours_of(self, role: Role) -> Sequence[TokenSignals]:
        """Return the signals of the paraphrases, at least one.

        Raises:
            MissingSignal: there is no paraphrase of this record.
        """
        signals = self.neighbours.get(role, ())
        if not signals:
            raise MissingSignal(self._reason(role, View.NEIGHBOURS))
        return signals

    def population_of(self, role: Role) -> Sequence[TokenSignals]:
        """Return the signals of the population texts, at least one.

        Raises:
            MissingSignal: no population was given.
        """
        signals = self.population.get(role, ())
        if not signals:
            raise MissingSignal(self._reason(role, View.POPULATION))
        return signals

    def each_population_of(self, role: Role) -> Sequence[Sequence[TokenSignals]]:
        """Return the signals of the population texts under every model of a role, one sequence of texts a model.

        Raises:
            MissingSignal: no population was given.
        """
        whole = self.population_of(role)
        return self.each_population.get(role) or (whole,)

    def probed_of(self, role: Role) -> Sequence[TokenSignals]:
        """Return the signals of the record after its probes, at least one, each with at least one scored token.

        Raises:
            MissingSignal: there is no probe of this record, or no token could be scored.
        """
        signals = self.probed.get(role, ())
        if not signals:
            raise MissingSignal(self._reason(role, View.PROBED))
        if not all(map(len, signals)):
            raise MissingSignal("no scored tokens")
        return signals

    def gradient_of(self, role: Role) -> float:
        """Return the norm of the gradient of the record's loss.

        Raises:
            MissingSignal: there is none.
        """
        if role not in self.gradients:
            raise MissingSignal(self._reason(role, View.GRADIENT))
        return self.gradients[role]

    def continued_of(self, role: Role) -> Continued:
        """Return what was written in place of the record's second half: at least one text, and one that goes on.

        Raises:
            MissingSignal: there is none.
        """
        found = self.continued.get(role)
        if found is None or not found.texts:
            raise MissingSignal(self._reason(role, View.CONTINUED))
        return found

    def similarities_of(self, role: Role) -> Sequence[float]:
        """Return how alike what was written and the second half are, one number a text, at least one.

        Raises:
            MissingSignal: there is none.
        """
        found = self.similarities.get(role, ())
        if not len(found):
            raise MissingSignal(self._reason(role, View.SIMILARITY))
        return found

    def _reason(self, role: Role, view: View) -> str:
        fallback = "no paraphrase" if view is View.NEIGHBOURS else f"no {view.value} signals of the {role.value} model"
        return self.missing.get((role, view), fallback)
