"""A model behind a completions server gives what it gives in this process; and what is kept is of one model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, EmbeddingNoise, ScoreInput
from spvmia_plugin.signals import Role
from tests.models.models import harness_lm, inputs
from tests.tiny import tiny_texts

TEXTS = [*tiny_texts(6, words=(4, 40)), "a", ""]


@pytest.fixture(scope="module")
def hf(models):
    return HFBackend(harness_lm(models, "lora"), AuditConfig())


def backend_of(lm, models, **options):
    backend = ServerBackend(lm, AuditConfig(**options), str(models / "base"))
    assert isinstance(backend, Backend)
    return backend


WAYS = [
    ({}, "prompt_logprobs"),
    ({"prompt_logprobs": "some"}, "prompt_logprobs"),
    ({"prompt_logprobs": "ignored"}, "echo"),
    ({"prompt_logprobs": "refused"}, "echo"),
    ({"prompt_logprobs": "refused", "names_ids": "refused"}, "echo"),
    ({"prompt_logprobs": "ignored", "names_ids": "tokens"}, "echo"),
    ({"prompt_logprobs": "ignored", "names_ids": "no", "says_context": False}, "echo"),
]


@pytest.mark.parametrize(("faults", "way"), WAYS)
def test_the_log_probabilities_are_those_of_the_model(serve, models, hf, faults, way):
    server, lm = serve(**faults)
    backend = backend_of(lm, models)
    assert ServerBackend.accepts(lm)
    features = backend.features_of(Role.TARGET)
    assert features.logprobs
    assert features.moments is (faults == {})
    assert backend.told["models"]["target"]["logprobs_by"] == way
    items = [*inputs(backend, TEXTS), ScoreInput(tuple(backend.encode(TEXTS[1])), tuple(backend.encode(TEXTS[0])))]
    for moments in {False, features.moments}:
        ours = backend.score(Role.TARGET, items, moments=moments)
        for a, b in zip(ours, hf.score(Role.TARGET, items, moments=moments), strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
            assert np.array_equal(a.top1, b.top1)
            assert (a.mean is None) is (not moments)
            if moments:
                assert a.mean == pytest.approx(b.mean, abs=1e-4)
                assert a.std == pytest.approx(b.std, abs=1e-4)
    assert backend.cost(Role.TARGET).forward_tokens > sum(len(item.token_ids) for item in items)
    assert 1 < server.served.most_under_way <= 4
    backend.close()
