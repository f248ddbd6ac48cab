"""Hand-made records whose scores are known."""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.attacks.base import NO_MOMENTS, SCORED_TOGETHER, Attack
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
from spvmia_plugin.attacks.lira_offline import LiraOffline
from spvmia_plugin.attacks.optimum import GradNorm, Icp
from spvmia_plugin.attacks.paraphrased import DetectGPT, Neighbour, Spv
from spvmia_plugin.attacks.population import Recall, Rmia
from spvmia_plugin.attacks.preference import Premia
from spvmia_plugin.attacks.reference_free import Loss, Lowercase, MinK, MinKPlusPlus, Zlib
from spvmia_plugin.attacks.text_only import Ngram, Semantic, Surrogate, coverage, halves, words
from spvmia_plugin.signals import Continued, RecordSignals, Role, TokenSignals, Unscored, View

HALF, QUARTER = math.log(0.5), math.log(0.25)


def signals(
    logprob: Sequence[float],
    wrong: Sequence[int] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> TokenSignals:
    top1 = np.ones(len(logprob), dtype=bool)
    top1[list(wrong)] = False
    moments = [None if values is None else np.array(values) for values in (mean, std)]
    return TokenSignals(np.array(logprob, dtype=np.float64), top1, *moments)


def record(target: TokenSignals, text: str = "a text", **others: TokenSignals) -> RecordSignals:
    """A record under the target, under other roles by name, and in other views of the target by name."""
    roles, views = {role.value: role for role in Role}, {view.value: view for view in View}
    tokens = {(Role.TARGET, View.TEXT): target}
    for name, value in others.items():
        tokens[(roles[name], View.TEXT) if name in roles else (Role.TARGET, views[name])] = value
    return RecordSignals(text, tokens)


ONE_TEXT = {Role.TARGET: [signals([-1.5])], Role.REFERENCE: [signals([-2.0])]}


def probed(target: TokenSignals, *after: TokenSignals) -> RecordSignals:
    return RecordSignals("a text", {(Role.TARGET, View.TEXT): target}, probed={Role.TARGET: after})


def preferred(chosen: TokenSignals, rejected: TokenSignals | None, *, base: tuple[TokenSignals, ...]) -> RecordSignals:
    """Both answers under the target, and under the base."""
    sides = {Role.TARGET: (chosen, rejected), Role.BASE: base}
    views = (View.TEXT, View.REJECTED)
    found = {(role, view): one for role, of in sides.items() for view, one in zip(views, of, strict=False)}
    return RecordSignals("a text", {key: one for key, one in found.items() if one is not None})


UNIFORM = signals([-math.log(100)] * 10)
PLAIN = signals([-1.0, -2.0, -3.0, -6.0])
FLAT = signals([-2.0, -2.0, -2.0, -2.0])
ERRORS = signals([-1.0, -2.0, -3.0, -6.0], wrong=[1, 2, 3])


@pytest.mark.parametrize(
    ("attack", "case", "expected"),
    [
        (Loss(), record(UNIFORM), -math.log(100)),  # a uniform model
        (Loss(), record(PLAIN), -3.0),
        (Zlib(), record(PLAIN, text="ä" * 50), -3.0 / len(zlib.compress(("ä" * 50).encode()))),
        (Zlib(), record(PLAIN, text="\ud800"), -3.0 / len(zlib.compress(b"\xed\xa0\x80"))),
        (Lowercase(), record(PLAIN, lowercase=FLAT), 2 / 3),
        (Lowercase(), record(signals([0.0]), lowercase=FLAT), 2e6),  # the floor of a denominator
        (MinK(), record(PLAIN), -6.0),  # floor(0.2 * 4) = 0, so one token
        (MinK(share=0.5), record(PLAIN), -4.5),
        (MinK(share=0.74), record(PLAIN), -4.5),  # floor, not round
        (MinK(share=1), record(PLAIN), -3.0),
        (MinKPlusPlus(share=0.5), record(signals([-1, -5, -9], mean=[-2, -2, -1], std=[0.5, 1, 0])), -3.0),
        (LiraBase(), record(PLAIN, base=FLAT, candidate=PLAIN), -1.0),
        (LiraCandidate(), record(PLAIN, base=FLAT, candidate=PLAIN), 0.0),
        # log ratios 1, 0, -1, -4, and 0.5 for the population's only token
        (InfoRmia(), replace(record(PLAIN, reference=FLAT), population=ONE_TEXT), -1.5),
        (Ratio(), record(PLAIN, base=FLAT), 2 / 3),
        (Recall(), record(PLAIN, prefixed=FLAT), 2 / 3),
        # The chosen answer gained 12 - 8 nats, the rejected one lost 1.5: sums, however long the two are.
        (Premia(), preferred(FLAT, signals([-2.5]), base=(PLAIN, signals([-1.0]))), 4.0 + 1.5),
        (Premia(), preferred(FLAT, FLAT, base=(PLAIN, PLAIN)), 0.0),
        # differences to FLAT: 1, 0, -1, -4
        (Ez(), record(signals([-1, -2, -3, -6], wrong=[0, 1, 2]), base=FLAT), 0.5),  # P = 1, M = 1
        (Ez(), record(signals([-1, -2, -3, -6], wrong=[0, 3]), base=FLAT), 0.2),
        (Ez(), record(signals([-1, -2, -3, -6], wrong=[0, 1]), base=FLAT), 1.0),  # M = 0 < P
        (Ez(), record(signals([-1, -2, -3, -6], wrong=[1]), base=FLAT), 0.5),  # both 0
        (Ez(), record(PLAIN, base=FLAT), 1.0),  # no wrong token
        (Ez(), record(ERRORS, base=FLAT, reference=PLAIN), 0.0),
        (SpvEz(), record(ERRORS, base=FLAT, reference=PLAIN), 0.5),
        (Wbc(windows=(1,)), record(PLAIN, base=FLAT), 1 / 4),
        (Wbc(windows=(2,)), record(PLAIN, base=FLAT), 1 / 3),
        (Wbc(windows=(3,)), record(PLAIN, base=FLAT), 0.0),  # 1 + 0 - 1 = 0 is no vote
        (Wbc(windows=(1, 2)), record(PLAIN, base=FLAT), (1 / 4 + 1 / 3) / 2),
        (Wbc(windows=(40, 400)), record(FLAT, base=PLAIN), 1.0),  # clamped to the text
        (SpvWbc(windows=(1,)), record(PLAIN, base=FLAT, reference=PLAIN), 0.0),
        (CandidateEz(), record(ERRORS, base=FLAT, reference=FLAT, candidate=PLAIN), 0.5),
        (CandidateWbc(windows=(1,)), record(PLAIN, base=PLAIN, reference=PLAIN, candidate=FLAT), 1 / 4),
        # differences to the mean of both: 0.5, 0, -0.5, -2, and then 0.125, 0.25, 0.25, 0.5
        (BothWbc(windows=(1,)), record(PLAIN, reference=FLAT, candidate=PLAIN), 1 / 4),
        (BothWbc(windows=(1,)), record(PLAIN, reference=FLAT, candidate=signals([-0.25, -2.5, -4.5, -11])), 1.0),
    ],
)
def test_scores(attack: Attack, case: RecordSignals, expected: float) -> None:
    assert attack.score(case) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def spv_record(text: str = "w " * 13 + "w") -> RecordSignals:
    one, two = signals([HALF, HALF]), signals([QUARTER, QUARTER])
    mixed = signals([QUARTER, HALF])
    return RecordSignals(
        text,
        {(Role.TARGET, View.TEXT): one, (Role.REFERENCE, View.TEXT): two},
        {Role.TARGET: [two, two, one, two], Role.REFERENCE: [two, mixed, two, two]},
    )


def test_spv_by_hand() -> None:
    target = 0.5 - (3 * 0.25 + 0.5) / 4
    reference = 0.25 - (3 * 0.25 + math.sqrt(0.125)) / 4
    for attack in (Spv(), Spv(variant="released")):  # the variants differ in masks and in short texts
        assert attack.score(spv_record()) == pytest.approx(target - reference, rel=1e-12)


@pytest.mark.parametrize("text", ["w " * 12 + "w", "w\n" * 20 + "w"])
def test_released_spv_never_perturbs_short_texts(text: str) -> None:
    """Words as the released code counts them, split at single spaces: a text of many lines can be one word."""
    assert Spv(variant="released").score(spv_record(text)) == Unscored(
        "fewer than 14 words, which the released code never perturbs"
    )
    assert isinstance(Spv().score(spv_record(text)), float)


def ring(target: TokenSignals, *around: TokenSignals) -> RecordSignals:
    return RecordSignals("a text", {(Role.TARGET, View.TEXT): target}, {Role.TARGET: around})


def test_neighbour_and_detectgpt_by_hand() -> None:
    case = ring(signals([-1.0]), signals([-2.0, -2.0]), signals([-4.0]))
    assert Neighbour().score(case) == pytest.approx(2.0)
    assert DetectGPT().score(case) == pytest.approx(2.0 / math.sqrt(2))  # ddof 1


def test_detectgpt_says_why_not() -> None:
    third = signals([-0.1, -0.2, -0.3])  # a mean that rounding moves, so that np.std need not be 0
    assert DetectGPT().score(ring(FLAT)) == Unscored("no paraphrase")
    assert DetectGPT().score(ring(FLAT, PLAIN)) == Unscored("fewer than 2 paraphrases")
    assert DetectGPT().score(ring(FLAT, *[third] * 7)) == Unscored("all paraphrases are equally likely")


def test_icp_by_hand() -> None:
    """PLAIN has L = -3; after the second probe it is -1.5, after the third -0.5."""
    case = probed(PLAIN, signals([-2.0] * 4), signals([-1.5] * 4), signals([-0.5] * 4))
    assert Icp().score(case) == pytest.approx(-1.0)
    assert Icp(probes=2).score(case) == pytest.approx(-1.5)
    assert Icp(probes=9).score(case) == pytest.approx(-2.5)


def test_icp_compares_the_same_tokens() -> None:
    """One that is scored alone and not after a probe, a BOS, is left out on both sides."""
    assert Icp().score(probed(PLAIN, signals([-1.0] * 3))) == pytest.approx((-2 - 3 - 6) / 3 + 1)
    assert Icp().score(probed(PLAIN, signals([-1.0] * 5))) == Unscored("the two models tokenise the text differently")


def written(truth: str, *texts: str, similarities: Sequence[float] = ()) -> RecordSignals:
    return RecordSignals(
        "a text", continued={Role.TARGET: Continued(truth, texts)}, similarities={Role.TARGET: similarities}
    )


TRUTH = "the cat sat on the mat, and slept."  # ten words and marks


def test_ngram_by_hand() -> None:
    """ "the cat sat" and "and slept ." stand in the first text: 6 of 10; the second has two words of each only."""
    case = written(TRUTH, "See, the cat sat there and slept.", "the cat slept, and sat.")
    assert Ngram().score(case) == pytest.approx(0.6)
    assert Ngram(aggregate="mean").score(case) == pytest.approx(0.3)
    assert Ngram(length=1).score(case) == pytest.approx(0.8)  # all but "on" and "mat"
    assert Ngram(length=10).score(written(TRUTH, f"Oh {TRUTH} Indeed.")) == 1.0
    assert Ngram().score(written(TRUTH, "The Cat Sat on The mat", "")) == 0.0  # as they are written
    assert Ngram(length=11).score(written(TRUTH, TRUTH)) == Unscored("fewer than 11 words to cover")


def test_overlapping_runs_count_a_word_once() -> None:
    assert coverage(list("abcde"), list("abcxbcde"), 3) == 1.0
    assert coverage(list("abcde"), list("abxcde"), 3) == pytest.approx(3 / 5)
    assert coverage(list("aaaa"), list("aaa"), 3) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "हिन्दी भाषा सुंदर है",
        "தமிழ் மொழி எளிது",
        "שָׁלוֹם עוֹלָם",
        "مُحَمَّدٌ كَاتِبٌ",
        "می‌خواهم بروم",
        unicodedata.normalize("NFD", "un café déjà vu"),
        "ক্ষমা কর",
    ],
)
def test_marks_stand_on_their_letters(text: str) -> None:
    """Words of scripts whose vowels and points are characters of their own are not cut at them."""
    assert words(text) == [unicodedata.normalize("NFC", word) for word in text.split()]
    first, second = halves(text) or ("", "")
    assert f"{first} {second}" == text  # as it is written, not as it is compared


def test_an_encoding_of_accents_makes_no_other_words() -> None:
    text = "un café déjà vu à Nîmes"
    for one, other in (("NFC", "NFD"), ("NFD", "NFC")):
        forms = [words(unicodedata.normalize(form, text)) for form in (one, other)]
        assert coverage(*forms, 3) == 1.0
    spoken, other = "हिन्दी भाषा बहुत सुंदर है और लोग इसे बोलते हैं", "आज हिन्दी में कुछ नहीं लिखा गया है"
    assert coverage(words(spoken), words(other), 3) == 0.0  # single words in common, and no three in a row


def test_words_of_scripts_with_and_without_blanks() -> None:
    assert words("Don't stop — 3.5 %!") == ["Don", "'", "t", "stop", "—", "3", ".", "5", "%", "!"]
    assert words("naïve café") == ["naïve", "café"]
    assert words("我爱你, ok") == ["我", "爱", "你", ",", "ok"]
    assert words("รัก") == ["รั", "ก"]
    assert words(" \n") == []


def test_halves_lose_only_the_white_space_between() -> None:
    assert halves("one two  three four") == ("one two", "three four")
    assert halves("one two three") == ("one", "two three")
    assert halves("我爱你们") == ("我爱", "你们")
    assert halves("one") is None
    assert halves("") is None


def test_semantic_by_hand() -> None:
    case = written(TRUTH, "one", "two", similarities=[0.25, 0.75])
    assert Semantic().score(case) == 0.75
    assert Semantic(aggregate="mean").score(case) == 0.5


def test_surrogate_by_hand() -> None:
    """PLAIN has the mean -3, FLAT -2; the target is not looked at."""
    assert Surrogate().score(record(UNIFORM, reference=FLAT, base=PLAIN)) == pytest.approx(1.0)
    assert Surrogate().score(RecordSignals("x", record(PLAIN, reference=PLAIN, base=PLAIN).tokens)) == Unscored(
        "the reference is the base"
    )


def test_a_member_is_one_that_needs_no_help() -> None:
    learnt, new = signals([-0.3] * 4), signals([-3.0] * 4)
    helped = signals([-0.2] * 4)
    known, unknown = Icp().score(probed(learnt, helped)), Icp().score(probed(new, helped))
    assert isinstance(known, float)
    assert isinstance(unknown, float)
    assert known > unknown
    flat, steep = (replace(record(PLAIN), gradients={Role.TARGET: norm}) for norm in (0.1, 10.0))
    assert GradNorm().score(flat) == pytest.approx(math.log(10))
    assert GradNorm().score(steep) == pytest.approx(-math.log(10))


def test_rmia_by_hand() -> None:
    def case(target: float, population: list[float]) -> RecordSignals:
        role = {
            Role.TARGET: [signals([math.log(p)]) for p in population],
            Role.BASE: [signals([HALF])] * len(population),
        }
        return RecordSignals(
            "a text",
            {(Role.TARGET, View.TEXT): signals([math.log(target)]), (Role.BASE, View.TEXT): signals([HALF])},
            population=role,
        )

    assert Rmia().score(case(0.5, [0.2, 0.4, 0.5, 0.6])) == 0.5  # strictly above
    assert Rmia().score(case(0.1, [0.2, 0.4])) == 0.0
    assert Rmia().score(case(0.9, [0.2, 0.4])) == 1.0


def test_rmia_a_weighs_the_base() -> None:
    """With a = 1 r is p_theta / p_base; with a = 0 the base counts half, and the order turns."""

    def at(p_theta: float, p_base: float) -> tuple[TokenSignals, TokenSignals]:
        return signals([math.log(p_theta)]), signals([math.log(p_base)])

    (x, x_base), (z, z_base) = at(0.5, 0.4), at(0.2, 0.1)
    case = RecordSignals(
        "a text",
        {(Role.TARGET, View.TEXT): x, (Role.BASE, View.TEXT): x_base},
        population={Role.TARGET: [z], Role.BASE: [z_base]},
    )
    assert Rmia(a=1).score(case) == 0.0  # 1.25 < 2
    assert Rmia(a=0).score(case) == 1.0  # 0.5 / 0.7 > 0.2 / 0.55


def test_rmia_computes_a_population_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = Rmia._population

    def counted(self: Rmia, target: Sequence[TokenSignals], base: Sequence[TokenSignals]) -> np.ndarray:
        nonlocal calls
        calls += 1
        return original(self, target, base)

    monkeypatch.setattr(Rmia, "_population", counted)
    population = {role: [signals([-1.0]), signals([-3.0])] for role in (Role.TARGET, Role.BASE)}
    other = {Role.TARGET: [signals([-0.1])], Role.BASE: [signals([-0.1])]}
    case = record(PLAIN, base=FLAT).tokens
    first, second = RecordSignals("a", case, population=population), RecordSignals("b", case, population=other)
    got = Rmia().score_many([first, first, second, first])
    assert calls == 2
    assert got == [Rmia().score(item) for item in (first, first, second, first)]


@pytest.mark.parametrize(
    ("attack", "case", "reason"),
    [
        (Loss(), RecordSignals("a text"), "no text signals of the target model"),
        (Loss(), record(signals([])), "no scored tokens"),
        (Loss(), record(signals([-math.inf])), "score is not finite"),
        (Loss(), RecordSignals("x", missing={(Role.TARGET, View.TEXT): "too long"}), "too long"),
        (LiraCandidate(), record(PLAIN), "no text signals of the candidate model"),
        (BothWbc(), record(PLAIN, reference=FLAT), "no text signals of the candidate model"),
        (BothWbc(), record(PLAIN, candidate=FLAT), "no text signals of the reference model"),
        (LiraOffline(), record(PLAIN, reference=FLAT), SCORED_TOGETHER),  # test_over_references.py has cases of several
        (InfoRmia(), replace(record(PLAIN), population=ONE_TEXT), "no text signals of the reference model"),
        (LiraBase(), record(PLAIN, base=UNIFORM), "the two models tokenise the text differently"),
        (Ez(), record(PLAIN, base=UNIFORM), "the two models tokenise the text differently"),
        (Wbc(), record(PLAIN, base=UNIFORM), "the two models tokenise the text differently"),
        (Ratio(), record(PLAIN, base=UNIFORM), "the two models tokenise the text differently"),
        (Rmia(), record(PLAIN, base=UNIFORM), "the two models tokenise the text differently"),
        (Rmia(), record(PLAIN, base=FLAT), "no population signals of the target model"),
        (MinKPlusPlus(), record(PLAIN), NO_MOMENTS),
        (MinKPlusPlus(), record(signals([-1.0], mean=[-2.0])), NO_MOMENTS),
        (MinKPlusPlus(), record(signals([-1.0], mean=[-2.0], std=[0.0])), "all sigma are 0"),
        (Neighbour(), record(PLAIN), "no paraphrase"),
        (Neighbour(), ring(PLAIN, FLAT, signals([])), "a paraphrase has no scored tokens"),
        (Recall(), record(PLAIN), "no prefixed signals of the target model"),
        (Lowercase(), record(PLAIN), "no lowercase signals of the target model"),
        (Icp(), record(PLAIN), "no probed signals of the target model"),
        (Icp(), probed(PLAIN, signals([])), "no scored tokens"),
        (Premia(), record(PLAIN, base=FLAT), "no rejected signals of the target model"),
        (Premia(), record(PLAIN, rejected=FLAT), "no text signals of the base model"),
        (Premia(), preferred(PLAIN, FLAT, base=(PLAIN,)), "no rejected signals of the base model"),
        (Premia(), preferred(PLAIN, FLAT, base=(UNIFORM, FLAT)), "the two models tokenise the text differently"),
        (Premia(), preferred(PLAIN, FLAT, base=(PLAIN, UNIFORM)), "the two models tokenise the text differently"),
        (Premia(), preferred(PLAIN, signals([]), base=(PLAIN, signals([]))), "no scored tokens"),
        (
            Premia(),
            RecordSignals(
                "x",
                preferred(PLAIN, None, base=(PLAIN,)).tokens,
                missing={(Role.TARGET, View.REJECTED): "no preference: the row has no rejected answer"},
            ),
            "no preference: the row has no rejected answer",
        ),
        (Ngram(), record(PLAIN), "no continued signals of the target model"),
        (Ngram(), written(TRUTH), "no continued signals of the target model"),
        (Ngram(), written("a cat", "a cat"), "fewer than 3 words to cover"),
        (Ngram(), RecordSignals("x", missing={(Role.TARGET, View.CONTINUED): "too short"}), "too short"),
        (Semantic(), written(TRUTH, "one"), "no similarity signals of the target model"),
        (Semantic(), written(TRUTH, "one", similarities=[math.nan]), "score is not finite"),
        (Surrogate(), record(PLAIN, base=FLAT), "no text signals of the reference model"),
        (Surrogate(), record(PLAIN, reference=FLAT), "no text signals of the base model"),
        (Surrogate(), record(PLAIN, reference=FLAT, base=UNIFORM), "the two models tokenise the text differently"),
        (GradNorm(), record(PLAIN), "no gradient signals of the target model"),
        (GradNorm(), replace(record(PLAIN), gradients={Role.TARGET: 0.0}), "score is not finite"),
        (GradNorm(), replace(record(PLAIN), gradients={Role.TARGET: math.nan}), "score is not finite"),
        (GradNorm(), replace(record(PLAIN), missing={(Role.TARGET, View.GRADIENT): "too long"}), "too long"),
    ],
)
def test_reasons(attack: Attack, case: RecordSignals, reason: str) -> None:
    assert attack.score(case) == Unscored(reason)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ([FLAT], "target and reference did not score the same paraphrases"),
        ([FLAT, UNIFORM], "the two models tokenise the text differently"),
        ([FLAT, signals([])], "a text or paraphrase has no scored tokens"),
    ],
)
def test_spv_reasons(reference: list[TokenSignals], reason: str) -> None:
    target = [FLAT, signals([]) if len(reference[-1]) == 0 else FLAT]
    case = RecordSignals(
        "a text",
        {(Role.TARGET, View.TEXT): PLAIN, (Role.REFERENCE, View.TEXT): FLAT},
        {Role.TARGET: target, Role.REFERENCE: reference},
    )
    assert Spv().score(case) == Unscored(reason)


class Longest(Wbc):
    """An attack of a plugin that counts windows in a way of its own."""

    def score_record(self, signals: RecordSignals) -> float:
        return float(len(self.differences(signals)))


def test_an_attack_derived_from_windows_scores_many_in_its_own_way() -> None:
    assert Longest().score_many([record(PLAIN, base=FLAT)] * 2) == [4.0, 4.0]
