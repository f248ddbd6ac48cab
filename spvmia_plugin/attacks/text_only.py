"""Attacks that see no log-probability of the target, only what it writes: they run behind any interface."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from spvmia_plugin.attacks.base import Attack, check_same_tokens, is_count, mean_logprob
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, View

AGGREGATES: Mapping[str, Callable[[Sequence[float]], Any]] = {"max": np.max, "mean": np.mean}
"""How the values of a record's continuations become one."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_JOINERS = "\u200c\u200d"
"""Between letters of Indic scripts and of Persian, without a blank."""


@cache
def _word() -> re.Pattern[str]:
    """A run of letters and digits, a mark of punctuation, or a character of a script that puts no blanks between words.

    Each with the marks that stand on it: vowels of Indic scripts, points of Hebrew and Arabic, accents that are
    characters of their own. To `re` these are neither letters nor blanks.
    """
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith("M"))
    on = f"[{marks}{_JOINERS}]"
    letter = rf"[^\W{_UNSPACED}]"
    return re.compile(rf"[{_UNSPACED}]{on}*|{letter}+(?:{on}+{letter}*)*|[^\w\s]{on}*")


def words(text: str) -> list[str]:
    """The words and marks of a text, in order, as they are written, however accents are encoded."""
    return _word().findall(unicodedata.normalize("NFC", text))


def halves(text: str) -> tuple[str, str] | None:
    """A text's beginning and how it goes on, cut before the middle word; None where it has fewer than two words.

    White space between the two belongs to neither: a prompt that ends in a blank is read as other tokens.
    """
    found = list(_word().finditer(text))
    if len(found) < 2:
        return None
    start = found[len(found) // 2].start()
    return text[:start].rstrip(), text[start:]


def coverage(truth: Sequence[str], text: Sequence[str], length: int) -> float:
    """The share of the words of `truth` that lie in a run of at least `length` words which `text` has too.

    Longer runs are made of runs of `length`, so these alone are looked for.
    """
    runs = {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}
    covered = np.zeros(len(truth), dtype=bool)
    for i in range(len(truth) - length + 1):
        if tuple(truth[i : i + length]) in runs:
            covered[i : i + length] = True
    return float(covered.mean())


@dataclass(frozen=True)
class Continuing(Attack):
    """An attack on what the target writes where a record's first half ends.

    Attributes:
        aggregate: `max` or `mean` of the values of a record's continuations.
    """

    options = {"aggregate": "mia_aggregate"}  # noqa: RUF012 - ClassVar in the base

    aggregate: str = "max"

    def __post_init__(self) -> None:
        if not isinstance(self.aggregate, str) or self.aggregate not in AGGREGATES:
            raise SpvmiaError(
                f"mia_aggregate: expected one of {', '.join(AGGREGATES)}, got {self.aggregate!r}; the default is max"
            )


@dataclass(frozen=True)
class Ngram(Continuing):
    """score = max over the continuations o of Cov_L(o, s), s the record's second half, o written by the target.

    N-Gram Coverage Attack, Hallinan et al. 2025, arXiv 2508.09603: the target is given the first half of the record's
    words and goes on d times; Cov_L(o, s) = the share of the words of s that lie in a run of at least L words which o
    has too. L = 3 (`mia_ngram_length`), d = `mia_continuations`, each at most as many tokens as s.

    Which one this is: their equation, coverage of the truth by a continuation, with the maximum over continuations that
    they settle on (`mia_aggregate=mean` for the mean). Their code also reports the share of the continuation's words
    that the truth covers, sums over L (the creativity index) and longest common substrings, and picks by a validation
    set; it splits words by NLTK's tweet tokenizer after taking accents off, cuts at sentences by default, and
    samples with top_p .95. Here words are runs of letters, single marks of punctuation and single characters of scripts
    without blanks, each with what stands on it, as they are written, in Unicode's normal form C; sampling is by
    `mia_temperature`, `mia_top_k`, `mia_top_p`. Of a conversation the longest reply that carried loss is written anew
    after what stands before it, as theirs on TULU.

    Attributes:
        length: L, in words.
    """

    name = "ngram"
    title = "N-gram coverage, text only"
    about = "how many of the text's own words the model writes when given its first half"
    options = {"aggregate": "mia_aggregate", "length": "mia_ngram_length"}  # noqa: RUF012 - ClassVar in the base

    length: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.length):
            raise SpvmiaError(
                f"mia_ngram_length: expected a whole number of words >= 1, got {self.length!r}; the default is 3"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What the target writes."""
        return frozenset({Need(Role.TARGET, View.CONTINUED)})

    def score_record(self, signals: RecordSignals) -> float:
        """The largest coverage, or the mean."""
        continued = signals.continued_of(Role.TARGET)
        truth = words(continued.truth)
        if len(truth) < self.length:
            raise MissingSignal(f"fewer than {self.length} words to cover")
        return float(
            AGGREGATES[self.aggregate]([coverage(truth, words(each), self.length) for each in continued.texts])
        )


@dataclass(frozen=True)
class Semantic(Continuing):
    """score = max over the continuations o of cos(e(o), e(s)), e the embedding by `mia_embedding_model`.

    No paper: the similarity in `ngram` (Hallinan et al. 2025, arXiv 2508.09603) by meaning and not by words, so that
    what is remembered in other words counts.

    Which one this is: `ngram` in all but the similarity. The embedding model is the user's to name, and part of the
    score: another model ranks otherwise. An empty continuation has the similarity 0.
    """

    name = "semantic"
    title = "Semantic similarity, text only"
    about = "how near in meaning what the model writes comes to the text, when given its first half"

    @property
    def needs(self) -> frozenset[Need]:
        """What the target writes, and how alike it is to the truth."""
        return frozenset({Need(Role.TARGET, View.CONTINUED), Need(Role.TARGET, View.SIMILARITY)})

    def score_record(self, signals: RecordSignals) -> float:
        """The largest similarity, or the mean."""
        signals.continued_of(Role.TARGET)
        return float(AGGREGATES[self.aggregate](signals.similarities_of(Role.TARGET)))


@dataclass(frozen=True)
class Surrogate(Attack):
    """score = L_phi - L_base: the self-prompted reference phi in place of the target it was trained on.

    No log-probability of the target is seen: phi learnt from the target's own texts what the target knows, the members
    among it, and gives log-probabilities of its own. An auxiliary model trained on what a black box answers, as in
    arXiv 2606.10481; the self-prompting is that of Fu et al. 2024, arXiv 2311.06062.

    Which one this is: `lira_base` with phi in place of the target. phi is what calibrates `spv`, where what it gives
    members is taken away: whatever this attack finds, calibration by phi loses. Where the base stands in for
    phi (`mia_reference=base`) there is nothing to compare.
    """

    name = "surrogate"
    title = "Surrogate, text only"
    about = "how probable the text is under a model fine-tuned on what this one writes: it needs no probabilities"

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the reference and the base."""
        return frozenset({Need(Role.REFERENCE), Need(Role.BASE)})

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means."""
        surrogate, base = signals.of(Role.REFERENCE), signals.of(Role.BASE)
        check_same_tokens(surrogate, base)
        if np.array_equal(surrogate.logprob, base.logprob):
            raise MissingSignal("the reference is the base")
        return mean_logprob(surrogate) - mean_logprob(base)
