"""Our attacks against the authors' own code on the same token log-probabilities: the same ranks, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.base import Attack, mean_logprob
from spvmia_plugin.attacks.calibrated import Ez
from spvmia_plugin.attacks.paraphrased import Spv
from spvmia_plugin.attacks.reference_free import MinK, MinKPlusPlus
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, Unscored, View
from tests.attacks import peers

GIVEN = peers.load()
ROWS: list[dict[str, Any]] = GIVEN["rows"]
RECORDS = [peers.record(row) for row in ROWS]
SCORES: dict[str, list[float]] = GIVEN["scores"]
PAGE = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text("utf-8")
ATTACKS: dict[str, Attack] = {attack.name: attack() for attack in builtin_attacks()}

Figures = NDArray[np.float64]


def cut(attack: Attack, part: slice) -> Callable[[], Figures]:
    """Our attack on a part of every text's tokens."""

    def of(signals: TokenSignals) -> TokenSignals:
        moments = [None if values is None else values[part] for values in (signals.mean, signals.std)]
        return TokenSignals(signals.logprob[part], signals.top1[part], *moments)

    return lambda: ours(
        attack, [replace(r, tokens={key: of(value) for key, value in r.tokens.items()}) for r in RECORDS]
    )


def losses() -> Figures:
    return np.array([mean_logprob(record.of(Role.TARGET)) for record in RECORDS])


def easiest_tokens() -> Figures:
    return np.array(
        [np.mean(np.sort(row["target"]["logprob"])[::-1][: len(row["target"]["logprob"]) // 5]) for row in ROWS]
    )


def by_characters() -> Figures:
    return losses() * [row["characters"] / row["compressed"] for row in ROWS]


@dataclass(frozen=True)
class Difference:
    """How a peer's code departs from ours.

    Attributes:
        why: as docs/attacks.md has it.
        theirs: what gives their ranks, from the same signals; None where the file lacks what it needs.
    """

    why: str
    theirs: Callable[[], Figures] | None = None


PER_CHARACTER = "compressed bytes a character"
SKIPS_LAST = "skips the last token"
RETOKENISED = "scores paraphrases as re-tokenised texts"

DIFFERENCES = {
    "imperial: zlib": Difference(PER_CHARACTER, by_characters),
    "wbc: zlib": Difference(PER_CHARACTER, by_characters),
    "ez: ez": Difference("drops the first token that has a log-probability", cut(Ez(), slice(1, None))),
    "open_unlearning: min_k": Difference(SKIPS_LAST, cut(MinK(), slice(None, -1))),
    "open_unlearning: min_k_pp": Difference(SKIPS_LAST, cut(MinKPlusPlus(), slice(None, -1))),
    "pandora: min_k_as_released": Difference("averages the easiest tokens", easiest_tokens),
    "imperial: min_k_pp": Difference("uniform over the vocabulary"),
    "imperial: neighbour": Difference(RETOKENISED),
    "mimir: neighbour": Difference(RETOKENISED),
    "mimir: neighbour_as_run": Difference("takes the minimum over paraphrases"),
    "detectgpt: neighbour@detect-gpt": Difference(RETOKENISED),
    "detectgpt: neighbour@ncmia": Difference(RETOKENISED),
    "detectgpt: detectgpt@detect-gpt": Difference(RETOKENISED),
    "detectgpt: detectgpt@ncmia": Difference(RETOKENISED),
}

NOT_COMPARED = {
    "recall_authors: recall": "the file lacks the signals after the prefix",
    "imperial: recall": "the file lacks the signals after the prefix",
    "mimir: recall": "the file lacks the signals after the prefix",
    "privacy_meter: rmia": "the file lacks the population",
    "imperial: bag_of_words": "a random forest on raw counts",
}


def ours(attack: Attack, records: list[RecordSignals]) -> Figures:
    found = attack.score_many(records)
    assert not any(isinstance(score, Unscored) for score in found)
    return np.array(found, dtype=np.float64)


def of_name(name: str) -> Figures:
    attack = name.split(": ")[1].split("@")[0].removesuffix("_as_run").removesuffix("_as_released")
    return ours(ATTACKS[attack], RECORDS)


def same_ranks(left: Any, right: Any) -> bool:
    """A rank correlation of 1.0000, up to sign."""
    return bool(abs(spearmanr(left, right).statistic) >= 0.99995)


@pytest.mark.parametrize("name", sorted(set(SCORES) - set(NOT_COMPARED)))
def test_ranks_as_the_authors_code_does(name: str) -> None:
    difference = DIFFERENCES.get(name)
    assert same_ranks(of_name(name), SCORES[name]) == (difference is None)
    if difference is not None and difference.theirs is not None:
        assert same_ranks(difference.theirs(), SCORES[name]), difference.why


def test_paraphrases_that_are_the_same_tokens_score_the_same() -> None:
    """The peers were given texts, and half of these token sequences are not what their text tokenises to.

    Where the mean over four agrees, all four survived; there every peer must agree in everything.
    """
    losses_, around = losses(), np.array([row["paraphrases"] for row in ROWS])
    survived = np.abs(of_name("mimir: neighbour") - SCORES["mimir: neighbour"]) < 1e-5
    assert survived.sum() == 10
    for name in ("imperial: neighbour", "detectgpt: neighbour@detect-gpt", "detectgpt: neighbour@ncmia"):
        assert np.allclose(of_name(name)[survived], np.array(SCORES[name])[survived], atol=2e-5)
    for name in ("detectgpt: detectgpt@detect-gpt", "detectgpt: detectgpt@ncmia"):
        population_std = of_name(name) * np.sqrt(4 / 3)  # ours has ddof 1, theirs 0
        assert np.allclose(population_std[survived], np.array(SCORES[name])[survived], rtol=1e-3)
    least = np.abs(losses_ - around.min(axis=1) - SCORES["mimir: neighbour_as_run"]) < 1e-5
    assert least[survived].all()
    # A paraphrase survives with probability s; four do in s^4 of the records, the least likely one in s or so.
    assert least.mean() == pytest.approx(survived.mean() ** 0.25, abs=0.12)


def test_released_is_the_score_of_the_released_code() -> None:
    given = GIVEN["spv"]
    records = [
        RecordSignals(
            text="word " * 20,
            tokens={
                (Role.TARGET, View.TEXT): peers.tokens([-target]),
                (Role.REFERENCE, View.TEXT): peers.tokens([-reference]),
            },
            neighbours={
                Role.TARGET: [peers.tokens([-loss]) for loss in target_around],
                Role.REFERENCE: [peers.tokens([-loss]) for loss in reference_around],
            },
        )
        for target, target_around, reference, reference_around in zip(
            given["target"],
            given["target_paraphrases"],
            given["reference"],
            given["reference_paraphrases"],
            strict=True,
        )
    ]
    found = ours(Spv(variant="released"), records)
    assert np.allclose(found, given["score"], atol=1e-7)
    assert same_ranks(found, given["score"])


def test_the_page_gives_every_reason() -> None:
    table = PAGE.partition("## Against the authors' own code")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]
    listed = {
        f"{peer.strip('`')}: {score}": why for peer, scores, why in rows for score in scores.strip("`").split("`, `")
    }
    expected = {name: difference.why for name, difference in DIFFERENCES.items()} | NOT_COMPARED
    assert listed.keys() == expected.keys()
    for name, why in expected.items():
        assert why in listed[name]
