"""What an attack is: a frozen dataclass with its hyper-parameters, its needs and a pure NumPy score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import FloatArray, MissingSignal, Need, RecordSignals, Role, TokenSignals, Unscored, View
from spvmia_plugin.util.handed_over import as_list
from spvmia_plugin.util.strict_json import is_number, is_whole

NLL_FLOOR = 1e-6
"""Negative log-likelihoods in a denominator are floored here."""


@dataclass(frozen=True)
class Attack:
    """A membership score: higher = more likely a member.

    Subclasses are frozen dataclasses whose fields are the hyper-parameters, all with defaults. They set the class
    attributes below, the property `needs` and `score_record`. The text of the class docstring starts with the formula
    and the paper.

    Class attributes:
        name: the attack's name; its tasks are `<name>_mia_<dataset>`.
        title: what people call it, in reports; the name if there is none.
        about: what it looks at, a clause for people who read no formula.
        options: which user option sets which field, `{"share": "mia_min_k"}`. A plugin may name options of its own
            here (prefix `mia_`); they are then known to `--metadata`.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    about: ClassVar[str] = ""
    options: ClassVar[Mapping[str, str]] = {}

    @property
    def needs(self) -> frozenset[Need]:
        """The signals to compute; may depend on the fields."""
        raise NotImplementedError

    def score_record(self, signals: RecordSignals) -> float:
        """Score one record.

        Raises:
            MissingSignal: the score is not defined for this record; the reason is reported and counted.
        """
        raise NotImplementedError

    def score(self, signals: RecordSignals) -> float | Unscored:
        """Score one record, or say why it has no score. Never raises for what a record lacks, never returns NaN."""
        return score_or_reason(self.score_record, signals, self.name)

    def score_many(self, records: Sequence[RecordSignals]) -> list[float | Unscored]:
        """Score records, in their order; every score is what `score` gives. Override it to share work among them."""
        return [self.score(signals) for signals in records]

    def config(self) -> dict[str, object]:
        """The hyper-parameters, JSON-ready; part of the recorded result."""
        return asdict(self)


@dataclass(frozen=True)
class BlindAttack(Attack):
    """An attack that sees texts and labels but no model: the blind baseline, scored out of fold on all records."""

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing: no model is asked."""
        return frozenset()

    def score_all(
        self, texts: Sequence[str], is_member: NDArray[np.bool_], clusters: Sequence[str], seed: int
    ) -> list[float | Unscored]:
        """Score every record by a classifier that was not fitted on its cluster."""
        raise NotImplementedError


SCORED_TOGETHER = "scored with all records of an audit together, not one by one"
INFINITE = "a feature is infinite"


@dataclass(frozen=True)
class AuditAttack(Attack):
    """An attack that scores all records of an audit at once, from features of each, and without a label.

    A run collects the features part by part, brings those of all its processes together in the order of the records'
    ids, and has them scored once. Subclasses set `feature_names`, `features` and `score_audit`.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the F features, in the order of the columns."""
        raise NotImplementedError

    def features(self, signals: RecordSignals) -> NDArray[np.float64]:
        """(F,) features of one record, NaN where a model is not there that they are of.

        Raises:
            MissingSignal: nothing can be said of this record; the reason is reported and counted.
        """
        raise NotImplementedError

    def score_audit(self, table: NDArray[np.float32]) -> list[float | Unscored]:
        """Score all records of an audit; the order of the rows may change no bit of a record's score.

        Args:
            table: (n, F) features of each.

        Returns:
            Of each row, in their order.
        """
        raise NotImplementedError

    def p_values(self, table: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """(n,) of each row, from 0 to 1, how probable its score were if the record had not been seen; None for none."""
        return None

    def told(self, table: NDArray[np.float32]) -> Mapping[str, object]:
        """What `mia_audit` is to say of how such records are scored, JSON-ready."""
        return {}

    def score_record(self, signals: RecordSignals) -> float:
        """A record by itself has no score.

        Raises:
            MissingSignal: always.
        """
        raise MissingSignal(SCORED_TOGETHER)

    def score_many(self, records: Sequence[RecordSignals]) -> list[float | Unscored]:
        """Score records as the audit that they make."""
        found = self.rows(records)
        rows = [row for row in found if not isinstance(row, Unscored)]
        scores = iter(self.scores(np.array(rows, dtype=np.float32).reshape(len(rows), len(self.feature_names))))
        return [row if isinstance(row, Unscored) else next(scores) for row in found]

    def rows(self, records: Sequence[RecordSignals]) -> list[NDArray[np.float32] | Unscored]:
        """Features of records in their order, as tables hold them, or why there are none.

        Override it to share work among them; `features` of each has to be the same to the bit.

        Raises:
            SpvmiaError: `features` returned something else.
        """
        return [self._row(signals) for signals in records]

    def _row(self, signals: RecordSignals) -> NDArray[np.float32] | Unscored:
        try:
            with np.errstate(all="ignore"):  # what overflows is told as a reason, not in a warning
                found = self.features(signals)
                row = np.asarray(found).astype(np.float32) if is_numeric(found) else None
        except MissingSignal as missing:
            return Unscored(missing.reason)
        expected = (len(self.feature_names),)
        if row is None or row.shape != expected:
            raise SpvmiaError(
                f"{self.name}: expected an array of {expected[0]} numbers from features, got "
                f"{type(found).__name__ if row is None else f'one of shape {row.shape}'}; correct the attack's plugin"
            )
        return Unscored(INFINITE) if np.isinf(row).any() else row

    def scores(self, table: NDArray[np.float32]) -> list[float | Unscored]:
        """What `score_audit` says of each row, checked.

        Raises:
            SpvmiaError: it returned something else than a score or a reason for each.
        """
        with np.errstate(all="ignore"):
            found = self.score_audit(table) if len(table) else []
        if not isinstance(found, list) or len(found) != len(table):
            got = f"{len(found)}" if isinstance(found, list) else type(found).__name__
            raise SpvmiaError(
                f"{self.name}: expected a list of {len(table)} scores from score_audit, got {got}; correct the "
                "attack's plugin"
            )
        return [each if isinstance(each, Unscored) else as_score(each, self.name, "score_audit") for each in found]


def is_numeric(found: object) -> bool:
    """Whether something is an array of real numbers."""
    return isinstance(found, np.ndarray) and found.dtype.kind in "fiu"


def score_or_reason(
    score_record: Callable[[RecordSignals], float], signals: RecordSignals, attack: str
) -> float | Unscored:
    """Call `score_record`; a missing signal and a score that is not finite become `Unscored`.

    Raises:
        SpvmiaError: it returned no number.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows or divides by zero is told in the reason, not in a warning
            value = score_record(signals)
    except MissingSignal as missing:
        return Unscored(missing.reason)
    return as_score(value, attack, "score_record")


def as_scores(found: object, count: int, attack: str, method: str) -> list[float | Unscored]:
    """What a method of an attack returned for so many records, in their order, as scores and reasons.

    Raises:
        SpvmiaError: it is no sequence of so many, or holds something else.
    """
    scores = as_list(found)
    if scores is None or len(scores) != count:
        raise SpvmiaError(
            f"{attack}: expected a list of {count} scores from {method}, got "
            f"{type(found).__name__ if scores is None else len(scores)}; correct the attack's plugin"
        )
    return [each if isinstance(each, Unscored) else as_score(each, attack, method) for each in scores]


def check_needs(attack: Attack) -> None:
    """Make sure that an attack says what it needs.

    Raises:
        SpvmiaError: its `needs` are something else than some `Need`.
    """
    needs = attack.needs
    is_some = isinstance(needs, Collection) and not isinstance(needs, (str, bytes, Mapping))
    wrong = [need for need in needs if not _is_need(need)] if is_some else [needs]
    if wrong:
        raise SpvmiaError(
            f"{attack.name}: expected a frozenset of Need(role, view) as needs, got "
            f"{'one with ' if is_some else ''}{type(wrong[0]).__name__}; correct the attack's plugin"
        )


def _is_need(need: object) -> bool:
    return isinstance(need, Need) and isinstance(need.role, Role) and isinstance(need.view, View)


LARGEST_SCORE = 1e100
"""Beyond it a score is none: differences of such numbers are infinite."""


def as_score(value: object, attack: str, method: str) -> float | Unscored:
    """What a method of an attack returned, as a score; one that is not finite, or too large, becomes `Unscored`.

    Raises:
        SpvmiaError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise SpvmiaError(
            f"{attack}: expected a number from {method}, got {type(value).__name__}; correct the attack's plugin"
        )
    try:
        score = float(value)
    except OverflowError:  # a whole number larger than any float
        score = np.inf
    if not np.isfinite(score):
        return Unscored("score is not finite")
    return score if abs(score) <= LARGEST_SCORE else Unscored(f"score is beyond {LARGEST_SCORE:g}")


def mean_logprob(signals: TokenSignals) -> float:
    """L, the mean of l_t in float64."""
    return signals.mean_logprob


def nll(signals: TokenSignals) -> float:
    """NLL = -L, floored at `NLL_FLOOR` as every denominator is."""
    return max(-mean_logprob(signals), NLL_FLOOR)


def lowest_share(values: FloatArray, share: float) -> FloatArray:
    """The max(1, floor(share * T)) lowest of `values` (T,), in ascending order."""
    count = max(1, int(np.floor(share * len(values))))
    return np.sort(values)[:count]


DIFFERENT_TOKENS = "the two models tokenise the text differently"
NO_MOMENTS = "no moments over the vocabulary: mia_api_view hides them, or the backend gives none"


def check_same_tokens(left: TokenSignals, right: TokenSignals) -> None:
    """Refuse to compare two models on one text if they scored different numbers of tokens.

    Raises:
        MissingSignal: the lengths differ, so neither token differences nor means over tokens mean anything.
    """
    if len(left) != len(right):
        raise MissingSignal(DIFFERENT_TOKENS)


def target_and(reference: Role, signals: RecordSignals) -> tuple[TokenSignals, TokenSignals]:
    """The record's signals under the target and under `reference`, token by token the same text.

    Raises:
        MissingSignal: one of them is absent, or their lengths differ.
    """
    target, other = signals.of(Role.TARGET), signals.of(reference)
    check_same_tokens(target, other)
    return target, other


def token_differences(reference: Role, signals: RecordSignals) -> NDArray[np.float64]:
    """d_t = l_t(theta) - l_t(reference), shape (T,), in float64.

    Raises:
        MissingSignal: as `target_and`.
    """
    target, other = target_and(reference, signals)
    return np.subtract(target.logprob, other.logprob, dtype=np.float64)


def paraphrase_means(signals: RecordSignals) -> NDArray[np.float64]:
    """L of every paraphrase under the target, shape (2N,).

    Raises:
        MissingSignal: there is no paraphrase, or one without tokens.
    """
    paraphrases = signals.neighbours_of(Role.TARGET)
    if not all(len(paraphrase) for paraphrase in paraphrases):
        raise MissingSignal("a paraphrase has no scored tokens")
    return np.array([mean_logprob(paraphrase) for paraphrase in paraphrases])


def check_share(option: str, value: object) -> None:
    """A share of tokens lies in (0, 1].

    Raises:
        SpvmiaError: it does not.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise SpvmiaError(f"{option}: expected a share of tokens > 0 and <= 1, got {value!r}; the default is 0.2")


def check_count(option: str, value: object, most: int, default: int) -> None:
    """A number of texts that are read: what no machine could read is refused before it is planned.

    Raises:
        SpvmiaError: it is no whole number from 1 to `most`.
    """
    if not is_count(value) or value > most:  # type: ignore[operator]  # a whole number
        raise SpvmiaError(
            f"{option}: expected a whole number >= 1 and <= {most}, got {value!r}; the default is {default}"
        )


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1 and not a truth value."""
    return is_whole(value) and value >= 1
