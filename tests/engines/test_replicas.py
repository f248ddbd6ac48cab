"""Several sets of weights behind one name, at once or one after another: told apart, or said to be alike."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.served import AGAIN, CLOSEST, NOTABLE, WIDEST, distance
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from tests.engines.test_server import Memory
from tests.tiny import tiny_llama, tiny_tokenizer


def backend_of(lm, models):
    return ServerBackend(lm, AuditConfig(), str(models / "base"))


def near(model, share, seed=0):
    """The same model with other weights, by a share of their deviation."""
    found, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora" not in name and parameter.dim() > 1:
                parameter += share * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return found


def far(seed):
    """A model of its own, with log-probabilities that vary as those of a trained one."""
    found = tiny_llama(tiny_tokenizer(), seed=seed)
    for parameter in found.parameters():
        parameter.data *= 3
    return found


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("concurrent", [1, 4])
def test_two_sets_of_weights_that_take_turns_are_refused(serve, models, replicas, concurrent):
    """Request by request: each of a look's two would meet the same weights every time, if they came in one order."""
    names = [f"replica{i}" for i in range(replicas)]
    more = {name: far(7 + (i > 0)) for i, name in enumerate(names)}
    _, lm = serve(more=more, replicas=tuple(names), lm={"num_concurrent": concurrent})
    backend = backend_of(lm, models)
    way = backend.checked("replica0").way  # of one of them alone: what a self-check meets is chance
    with pytest.raises(SpvmiaError) as error:
        backend._weights.known("target", way)
    assert str(error.value).startswith("base_url: expected one model behind 'target' at http://127.0.0.1:")
    assert "from request to request (bfloat16 explains 0.05 at most): servers with other weights" in str(error.value)
    assert "one of them as base_url=... in --model_args, run the same command again when the update is" in str(
        error.value
    )


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_smaller_difference_is_told(serve, models, served, share):
    more = {"one": served["target"], "other": near(served["target"], share)}
    _, lm = serve(more=more, replicas=("one", "other"), lm={"num_concurrent": 1})
    backend = backend_of(lm, models)
    backend.score(Role.TARGET, [ScoreInput((5, 6, 7, 8))], moments=False)
    known = backend._weights.seen("target")
    assert NOTABLE <= known.spread <= WIDEST
    assert known.tolerance <= 0.1
    (note,) = [note for note in backend.notes if "from request to request" in note]
    assert f"by {known.spread:.2g} nats a token in the mean: rounding in bfloat16, or servers with" in note


def test_a_server_that_answers_the_same_has_no_such_note(serve, models):
    backend = backend_of(serve()[1], models)
    backend.identity(Role.TARGET)
    assert not [note for note in backend.notes if "from request to request" in note]


class Answering:
    """Stands in for a server: answers to the probe are a vector and this run's noise."""

    def __init__(self, backend, memory):
        memory.of(backend)
        self.weights, self.vector, self.noise, self.asked = backend._weights, None, 0.0, 0

    def name(self, vector, noise=0.0):
        self.weights._known.clear()
        self.weights.notes.clear()

        def ask(model, way):
            self.asked += 1
            return (np.full(50, vector) + noise * (self.asked % 2)).astype(np.float32)

        self.weights._ask = ask
        self.asked = 1  # the first answer is without noise
        return self.weights.name("target", None)


@pytest.fixture
def answering(serve, models):
    return Answering(backend_of(serve()[1], models), Memory())


def test_weights_have_the_name_of_the_nearest_and_not_of_the_first(answering):
    a, b = answering.name(-2.0), answering.name(-2.01)
    assert a != b
    assert answering.name(-2.01) == b
    assert answering.name(-2.01 - 0.0002, noise=0.002) == b  # AGAIN times the noise does not reach A
    assert answering.name(-2.0) == a


def test_where_two_are_near_none_is_taken(answering):
    """Rather computed anew than taken for another's."""
    a, b = answering.name(-2.0), answering.name(-2.01)
    for vector in (-2.006, -2.0101):
        c = answering.name(vector, noise=0.01)
        assert c not in (a, b)
        assert [note for note in answering.weights.notes if "may have the weights of any of 2 earlier audits" in note]
    assert answering.name(-2.01, noise=0.01) == b  # number by number what was kept
    assert not [note for note in answering.weights.notes if "earlier audit" in note]
    assert (answering.name(-2.0), answering.name(-2.01)) == (a, b)  # and the next quiet server is known again


def test_other_weights_within_the_noise_are_told(answering):
    """They may be the same: whoever reads the results has to know."""
    a = answering.name(-2.0)
    assert answering.name(-2.004, noise=0.004) == a
    (note,) = [note for note in answering.weights.notes if "was taken for the weights of an earlier audit" in note]
    assert "differ from these by 0.004 nats a token" in note
    assert answering.name(-2.0) == a
    assert answering.weights.notes == []


def test_the_noise_of_a_run_is_not_that_between_runs(answering):
    """What an answer may be from another in one run, to find other weights, is more than what makes a name."""
    a = answering.name(-2.0)
    assert answering.name(-2.0 - (AGAIN + 0.5) * 0.004, noise=0.004) != a
    assert answering.weights.seen("target").tolerance == pytest.approx(0.02, rel=1e-3)
    assert distance(np.zeros(3), np.ones(2)) == float("inf")
    assert CLOSEST < NOTABLE < WIDEST
