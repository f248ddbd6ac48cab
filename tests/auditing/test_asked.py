"""What attacks ask of models, by kind, and how much of it was known before the run."""

from __future__ import annotations

import dataclasses
import math

import pytest

from spvmia_plugin.auditing.asked import Amount, AskedTold, known_share, of_target, together
from spvmia_plugin.auditing.mia_audit import _self_prompted
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.signals import Role, View

from .fakes import FakeBackend, make_data
from .test_run import REGISTRY, run

TARGET, BASE, REFERENCE = Role.TARGET, Role.BASE, Role.REFERENCE


def attack(name):
    return REGISTRY.attack(name, AuditConfig.from_metadata({}, REGISTRY.attack_options))


def test_each_attack_is_told_what_it_asks_itself():
    counts = {
        (TARGET, View.TEXT): Amount(10, 400, 0),
        (TARGET, View.LOWERCASE): Amount(9, 300, 300),
        (TARGET, View.GRADIENT): Amount(8, 200, 50),
        (TARGET, View.CONTINUED): Amount(30, 600, 600),
        (BASE, View.TEXT): Amount(10, 400, 400),
    }
    own = Amount(5, 70)
    text = AskedTold("text", 10, 400)
    assert of_target(attack("loss"), counts, own) == (text,)
    assert of_target(attack("lowercase"), counts, own) == (text, AskedTold("lowercase", 9, 300))
    assert of_target(attack("grad_norm"), counts, own) == (text, AskedTold("gradient", 8, 200))
    assert of_target(attack("ngram"), counts, own) == (AskedTold("continued", 30, 600),)
    assert of_target(attack("bag_of_words"), counts, own) == ()
    assert of_target(attack("surrogate"), counts, own) == (AskedTold("self_prompts", 5, 70),)
    assert of_target(attack("surrogate"), counts, Amount()) == ()  # a reference that somebody names


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("loss", 1.0),
        ("lowercase", 0.0),
        ("grad_norm", 0.75),
        ("ngram", 0.0),
        ("ratio", 0.0),
        ("bag_of_words", math.nan),
    ],
)
def test_a_score_was_known_as_far_as_what_was_known_least_of_it(name, share):
    counts = {
        (TARGET, View.TEXT): Amount(10, 400, 0),
        (TARGET, View.LOWERCASE): Amount(10, 400, 400),
        (TARGET, View.GRADIENT): Amount(8, 200, 50),
        (TARGET, View.CONTINUED): Amount(30, 600, 600),
        (BASE, View.TEXT): Amount(10, 400, 400),
    }
    assert known_share(attack(name), counts) == pytest.approx(share, nan_ok=True)


def test_what_processes_ask_adds_up_but_the_population_is_one():
    one = {(TARGET, View.TEXT): Amount(10, 400, 1), (TARGET, View.POPULATION): Amount(5, 50, 50)}
    other = {**one, (BASE, View.TEXT): Amount(3, 4, 5)}
    assert together({}, one) == one
    assert together(one, other) == {
        (TARGET, View.TEXT): Amount(20, 800, 2),
        (TARGET, View.POPULATION): Amount(5, 50, 50),
        (BASE, View.TEXT): Amount(3, 4, 5),
    }


def test_each_reference_has_texts_of_its_own():
    told = {"texts": 10, "tokens": 7.04}
    assert _self_prompted(told, None) == Amount(10, 70)
    assert _self_prompted(told, {"count": 3}) == Amount(30, 211)
    assert _self_prompted(None, {"count": 3}) == Amount()


# In a run
def known(outcome, *names):
    return [known_share(attack(name), outcome.asked) for name in names]


def test_scores_from_the_store_are_known_attack_by_attack(tmp_path):
    first, _ = run(tmp_path, ["loss"])
    assert known(first, "loss") == [0.0]
    more, _ = run(tmp_path, ["loss", "zlib", "lowercase"])
    assert known(more, "loss", "zlib", "lowercase") == [1.0, 1.0, 0.0]
    again, _ = run(tmp_path, ["loss", "zlib", "lowercase"])
    assert known(again, "loss", "zlib", "lowercase") == [1.0, 1.0, 1.0]


def test_scores_of_some_records_are_known_in_part(tmp_path):
    data = make_data(24)
    run(tmp_path, ["loss"], data=data, records=data.records[:12])
    (share,) = known(run(tmp_path, ["loss"], data=data)[0], "loss")
    assert 0 < share < 1


class NothingToSay(FakeBackend):
    """As torch's: a sequence without a token to score is none that a batch holds."""

    def score(self, role, inputs, *, moments, on_done=None, done=()):
        def without(batch):
            on_done({i: signals for i, signals in batch.items() if inputs[i].scored})

        return super().score(role, inputs, moments=moments, on_done=without, done=done)


def test_a_record_of_one_token_is_asked_of_nobody_and_known_by_nobody(tmp_path):
    data = make_data(12)
    data = dataclasses.replace(data, records=(dataclasses.replace(data.records[0], text="x"), *data.records[1:]))
    first, _ = run(tmp_path, ["loss"], data=data, backend=NothingToSay())
    (asked,) = of_target(attack("loss"), first.asked, Amount())
    assert asked.texts == len(data.records) - 1
    assert known(first, "loss") == [0.0]
    assert known(run(tmp_path, ["loss"], data=data, backend=NothingToSay())[0], "loss") == [1.0]


def test_what_the_first_batch_computes_to_measure_the_speed_is_new(tmp_path):
    """The plan computes a batch before the scoring, which finds it in the store."""
    outcome, _ = run(tmp_path, ["loss"], quiet=False)
    assert known(outcome, "loss") == [0.0]


def test_generated_texts_and_gradients_are_counted(tmp_path):
    data = make_data(24)
    names = ["grad_norm", "ngram"]
    first, _ = run(tmp_path, names, data=data, mia_continuations=3)
    (asked,) = of_target(attack("ngram"), first.asked, Amount())
    assert asked.texts % 3 == 0
    assert 2.5 < asked.texts / len(data.records) <= 3  # two records may begin alike
    _, gradients = of_target(attack("grad_norm"), first.asked, Amount())
    assert gradients.texts == len(data.records)
    assert known(first, *names) == [0.0, 0.0]
    again, _ = run(tmp_path, names, data=data, mia_continuations=3)
    assert known(again, *names) == [1.0, 1.0]
    assert of_target(attack("ngram"), again.asked, Amount()) == (asked,)
