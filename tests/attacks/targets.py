"""The one table of attacks under test, and random records for them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.attacks.calibrated import (
    BothWbc,
    CandidateEz,
    CandidateWbc,
    Ez,
    LiraBase,
    LiraCandidate,
    Ratio,
    SpvEz,
    SpvWbc,
    Wbc,
)
from spvmia_plugin.attacks.informia import InfoRmia
from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.attacks.lira_offline import LiraOffline
from spvmia_plugin.attacks.optimum import GradNorm, Icp
from spvmia_plugin.attacks.paraphrased import DetectGPT, Neighbour, Spv
from spvmia_plugin.attacks.population import Recall, Rmia
from spvmia_plugin.attacks.preference import Premia
from spvmia_plugin.attacks.reference_free import Loss, Lowercase, MinK, MinKPlusPlus, Zlib
from spvmia_plugin.attacks.text_only import Ngram, Semantic, Surrogate
from spvmia_plugin.signals import Continued, RecordSignals, Role, TokenSignals, Unscored, View
from tests.attacks import naive

Score = float | Unscored


@dataclass(frozen=True)
class Target:
    """An attack and what is known of it.

    Attributes:
        attack: with its hyper-parameters; its `repr` is the test id.
        naive: the formula in plain Python, None for those that score all records at once (in tests of their own).
        shifted: the score after c was added to every l_t and mu_t, from (score, c, record); None: not implied.
        scaled: the score after every l_t, mu_t and sigma_t was multiplied by k, from (score, k); None: not implied.
    """

    attack: Attack
    naive: Callable[[RecordSignals], float | None] | None
    shifted: Callable[[float, float, RecordSignals], float] | None = None
    scaled: Callable[[float, float], float] | None = None

    def __str__(self) -> str:
        return repr(self.attack)


def same(score: float, *_: object) -> float:
    return score


def times(score: float, k: float) -> float:
    return score * k


def plus(score: float, c: float, _: RecordSignals) -> float:
    return score + c


TARGETS = [
    Target(Loss(), naive.loss, plus, times),
    Target(Zlib(), naive.zlib_, lambda s, c, r: s + c / len(zlib.compress(r.text.encode())), times),
    Target(Lowercase(), naive.lowercase, None, same),
    Target(MinK(), lambda r: naive.min_k(r, 0.2), plus, times),
    Target(MinK(share=0.55), lambda r: naive.min_k(r, 0.55), plus, times),
    Target(MinKPlusPlus(), lambda r: naive.min_k_pp(r, 0.2), same, same),
    Target(MinKPlusPlus(share=1), lambda r: naive.min_k_pp(r, 1.0), same, same),
    Target(Icp(), lambda r: naive.icp(r, 1), same, times),
    Target(Icp(probes=3), lambda r: naive.icp(r, 3), same, times),
    Target(GradNorm(), naive.grad_norm, same, same),
    Target(Ngram(), lambda r: naive.ngram(r, 3, max), same, same),
    Target(Ngram(length=1, aggregate="mean"), lambda r: naive.ngram(r, 1, naive.mean), same, same),
    Target(Semantic(), lambda r: naive.semantic(r, max), same, same),
    Target(Semantic(aggregate="mean"), lambda r: naive.semantic(r, naive.mean), same, same),
    Target(Neighbour(), naive.neighbour, same, times),
    Target(DetectGPT(), naive.detectgpt, same, same),
    Target(LiraBase(), lambda r: naive.lira(r, Role.BASE), same, times),
    Target(LiraCandidate(), lambda r: naive.lira(r, Role.CANDIDATE), same, times),
    Target(Ratio(), naive.ratio, None, same),
    Target(Ez(), lambda r: naive.ez(r, Role.BASE), same, same),
    Target(Wbc(), lambda r: naive.wbc(r, Role.BASE, (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)), same, same),
    Target(Wbc(windows=(1, 7)), lambda r: naive.wbc(r, Role.BASE, (1, 7)), same, same),
    Target(Premia(), naive.premia, same, times),
    Target(Recall(), naive.recall, None, same),
    Target(Rmia(), lambda r: naive.rmia(r, 0.3)),
    Target(Rmia(a=1.0), lambda r: naive.rmia(r, 1.0), same),
    Target(BagOfWords(), None, same, same),
    Target(SpvEz(), lambda r: naive.ez(r, Role.REFERENCE), same, same),
    Target(SpvWbc(windows=(3,)), lambda r: naive.wbc(r, Role.REFERENCE, (3,)), same, same),
    Target(Surrogate(), naive.surrogate, same, times),
    Target(CandidateEz(), lambda r: naive.ez(r, Role.CANDIDATE), same, same),
    Target(CandidateWbc(windows=(2, 9)), lambda r: naive.wbc(r, Role.CANDIDATE, (2, 9)), same, same),
    Target(BothWbc(windows=(1, 4)), lambda r: naive.both_wbc(r, (1, 4)), same, same),
    Target(LiraOffline(), None, same, same),  # its twin needs all records: test_over_references.py
    Target(InfoRmia(), naive.info_rmia, same),
    Target(Spv(), lambda r: naive.spv(r, "paper"), lambda s, c, _: s * math.exp(c)),
    Target(Spv(variant="released"), lambda r: naive.spv(r, "released"), lambda s, c, _: s * math.exp(c)),
    Target(Learned(), None),
]

WORDS = "the of bank Oil rally over Shares said in new to Reuters on a profit fall Game win team for"


def tokens(rng: np.random.Generator, length: int, dtype: type = np.float32) -> TokenSignals:
    """Random signals in multiples of 1/1024, so that sums and shifts are exact."""

    def draw(scale: float) -> np.ndarray:
        return (-np.round(rng.exponential(scale, length) * 1024) / 1024).astype(dtype)

    std = -draw(2.0)
    std[rng.random(length) < 0.1] = 0
    return TokenSignals(draw(2.0), rng.random(length) < 0.4, draw(3.0), std)


def make_population(rng: np.random.Generator, size: int = 12) -> dict[Role, list[TokenSignals]]:
    lengths = rng.integers(0, 40, size)
    return {role: [tokens(rng, length) for length in lengths] for role in (Role.TARGET, Role.BASE, Role.REFERENCE)}


def make_record(
    rng: np.random.Generator,
    population: dict[Role, list[TokenSignals]],
    length: int | None = None,
    dtype: type = np.float32,
) -> RecordSignals:
    """A record with every signal there is, four paraphrases, and 14 to 40 words."""
    length = int(rng.integers(1, 70)) if length is None else length
    views = {(role, View.TEXT): tokens(rng, length, dtype) for role in Role if role.nth == 1}
    views[Role.TARGET, View.LOWERCASE] = tokens(rng, length + 2, dtype)
    views[Role.TARGET, View.PREFIXED] = tokens(rng, length, dtype)
    lengths = rng.integers(2, 50, 4)
    rejected = int(rng.integers(1, 70))
    views |= {(role, View.REJECTED): tokens(rng, rejected, dtype) for role in (Role.TARGET, Role.BASE)}
    return RecordSignals(
        text=" ".join(rng.choice(WORDS.split(), rng.integers(14, 40))),
        tokens=views,
        neighbours={role: [tokens(rng, n, dtype) for n in lengths] for role in (Role.TARGET, Role.REFERENCE)},
        population=population,
        probed={Role.TARGET: [tokens(rng, max(length - skipped, 0), dtype) for skipped in (0, 0, 1, 0)]},
        gradients={Role.TARGET: float(rng.exponential())},
        continued={Role.TARGET: Continued(*_continued(rng))},
        similarities={Role.TARGET: rng.uniform(-1, 1, 4).tolist()},
    )


def _continued(rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A second half, and four texts in its place, which have a run of its words in common with it or not."""
    truth = [str(word) for word in rng.choice(WORDS.split(), rng.integers(5, 30))]
    texts = []
    for start in rng.integers(0, len(truth), 4):
        around = [str(word) for word in rng.choice(WORDS.split(), rng.integers(0, 20))]
        texts.append(" ".join([*around, *truth[start : start + int(rng.integers(0, 9))], "."]))
    return " ".join(truth), tuple(texts)


def make_records(count: int, seed: int = 0, dtype: type = np.float32) -> list[RecordSignals]:
    rng = np.random.default_rng(seed)
    population = make_population(rng)
    return [make_record(rng, population, dtype=dtype) for _ in range(count)]


def scores(attack: Attack, records: Sequence[RecordSignals], seed: int = 3) -> list[Score]:
    """Scores as a run computes them; labels and documents of the blind baseline follow from the text."""
    if isinstance(attack, BlindAttack):
        texts = [record.text for record in records]
        return attack.score_all(texts, np.array([len(text) % 2 == 0 for text in texts]), texts, seed)
    return attack.score_many(records)


def transform(record: RecordSignals, change: Callable[[TokenSignals], TokenSignals]) -> RecordSignals:
    """Apply a change to all signals of a record."""
    return replace(
        record,
        tokens={key: change(value) for key, value in record.tokens.items()},
        neighbours={role: [change(value) for value in values] for role, values in record.neighbours.items()},
        population={role: [change(value) for value in values] for role, values in record.population.items()},
        probed={role: [change(value) for value in values] for role, values in record.probed.items()},
    )
