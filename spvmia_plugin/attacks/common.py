"""What several attacks share: paired signals of two models, means over paraphrases, checks of hyper-parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import mean_logprob
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, RecordSignals, Role, TokenSignals
from spvmia_plugin.util.strict_json import is_number, is_whole

DIFFERENT_TOKENS = "the two models tokenise the text differently"


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


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1 and not a truth value."""
    return is_whole(value) and value >= 1
