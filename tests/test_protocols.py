"""Backends and perturbations that do not derive from our classes have all that an audit asks of them."""

from __future__ import annotations

import copy
import pickle

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import (
    Backend,
    EmbeddingNoise,
    Frame,
    Frames,
    Neighbours,
    Perturbation,
    ScoreInput,
    TrainsTogether,
    completed,
)
from spvmia_plugin.records import Document
from spvmia_plugin.signals import Role


class Duck:
    """What docs/plugins.md asked of a backend before there was a class to derive from."""

    name = "duck"

    def encode(self, text):
        return [ord(char) for char in text.strip()]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


class Proxy:
    """Passes on what it is asked, and hides nothing of it."""

    def __init__(self, inside):
        self._inside = inside

    def __getattr__(self, name):
        return getattr(self._inside, name)


class Framing(Duck):
    notes = ("mine",)

    def frame(self, text):
        return Frame((1,))

    def unknown_ids(self, role):
        return frozenset({7})


def test_what_a_backend_does_not_say_has_an_answer():
    duck = completed(Duck(), Backend)
    assert (duck.frame("a"), duck.unknown_ids(Role.BASE), duck.notes) == (Frame(), frozenset(), ())
    assert duck.survives([97])
    assert not duck.survives([97, 32])
    assert not duck.is_same(Role.TARGET, Role.BASE)
    assert (duck.processes, duck.first, duck.agree(3), duck.gather(3)) == (None, True, 3, [3])
    assert duck.remember_limits({}, print) is duck.remember_base(print, print) is None


def test_what_it_says_stays():
    for made in (completed(Framing(), Backend), completed(Proxy(Framing()), Backend)):
        assert (made.frame("a"), made.unknown_ids(Role.BASE), made.notes) == (Frame((1,)), frozenset({7}), ("mine",))
    derived = Backend(None, None)
    assert completed(derived, Backend) is derived
    assert vars(derived) == {}


def test_what_nothing_can_stand_for_is_refused_in_one_line():
    made = Backend(None, None)
    made.name = "mine"
    for ask in (made.check_training, lambda: made.identity(Role.TARGET), lambda: made.load_reference(Role.BASE, "x")):
        with pytest.raises(SpvmiaError, match="--model: mine gives no token log-probabilities; use '--model hf'"):
            ask()


def test_the_names_that_plugins_import_are_there():
    assert isinstance(Framing(), Frames) is False  # no `survives`
    assert isinstance(Backend(None, None), Frames)
    assert isinstance(Backend(None, None), TrainsTogether)


class Shout:
    """A perturbation that gets the missing texts alone, as it has no `done`."""

    name = "shout"

    def __init__(self, config):
        self.asked = []

    def check(self):
        pass

    def settings(self):
        return {}

    def neighbours(self, texts, backend, *, on_done=None):
        self.asked = [text.id for text in texts]
        made = [Neighbours((), reason=text.id) for text in texts]
        on_done(dict(enumerate(made)))
        return made


def test_a_perturbation_without_done_is_asked_for_the_missing_texts():
    made = completed(Shout(None), Perturbation)
    assert made.roles == (Role.BASE, Role.TARGET)
    assert made.passes == 1
    texts, told = [Document(f"f:{i}", "x") for i in range(4)], {}
    answer = made.neighbours(texts, None, on_done=told.update, done={0, 2})
    assert made.asked == ["f:1", "f:3"]
    assert {i: found.reason for i, found in told.items()} == {1: "f:1", 3: "f:3"}
    assert [found and found.reason for found in answer] == [None, "f:1", None, "f:3"]


def test_the_registry_completes_what_is_registered():
    from spvmia_plugin import hookimpl
    from spvmia_plugin.config import AuditConfig

    class Plugin:
        @hookimpl
        def spvmia_register_perturbations(self):
            return [Shout]

    registry = load_registry(entry_points=False)
    registry.manager.register(Plugin())
    made = registry.perturbation(AuditConfig(perturbation="shout"))
    assert isinstance(made, Shout)
    assert made.passes == 1


def test_a_sequence_keeps_its_hash_and_copies_make_their_own():
    item = ScoreInput((1, 2), (3,), EmbeddingNoise(1, -1, 0.5))
    assert hash(item) == hash(item) == hash(ScoreInput((1, 2), (3,), EmbeddingNoise(1, -1, 0.5)))
    for same in (pickle.loads(pickle.dumps(item)), copy.deepcopy(item)):
        assert same == item
        assert {item: 1}[same] == 1
    assert len({item, ScoreInput((1, 2)), ScoreInput((1, 2), (3,)), ScoreInput((1,), (3,))}) == 4
