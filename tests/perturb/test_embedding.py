from __future__ import annotations

import math

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.perturb.embedding import Embedding
from spvmia_plugin.protocols import EmbeddingNoise, Neighbours
from spvmia_plugin.records import Document
from tests.perturb.fakes import FakeBackend

TEXTS = [Document("a:1", "one"), Document("a:2", ""), Document("a:3", "one")]


def _of(config: AuditConfig, texts: list[Document] = TEXTS) -> list[Neighbours]:
    return Embedding(config).neighbours(texts, FakeBackend())  # type: ignore[arg-type]


def test_symmetric_pairs_are_adjacent() -> None:
    found = _of(AuditConfig(perturbations=3, noise=0.7))
    for of_text in (found[0], found[2]):
        noises = [v for v in of_text.variants if isinstance(v, EmbeddingNoise)]
        assert [noise.sign for noise in noises] == [1, -1] * 3
        assert [noise.seed for noise in noises[::2]] == [noise.seed for noise in noises[1::2]]
        assert all(noise.scale == 0.7 for noise in noises)
        assert math.isnan(of_text.mask_rate)
        assert of_text.reason is None
    seeds = {v.seed for of_text in found for v in of_text.variants if isinstance(v, EmbeddingNoise)}
    assert len(seeds) == 6  # same text, other id: other noise


def test_empty_text() -> None:
    assert _of(AuditConfig())[1].variants == ()
    assert _of(AuditConfig())[1].reason == "empty text"


def test_depends_on_id_and_seed_alone() -> None:
    reversed_texts = _of(AuditConfig(), TEXTS[::-1])
    assert list(map(repr, reversed_texts)) == list(map(repr, _of(AuditConfig())[::-1]))  # the mask rate is nan
    assert _of(AuditConfig(seed=1))[0].variants != _of(AuditConfig())[0].variants


def test_on_done() -> None:
    seen: dict[int, Neighbours] = {}
    kind = Embedding(AuditConfig())
    kind.check()
    found = kind.neighbours(TEXTS, FakeBackend(), on_done=seen.update)  # type: ignore[arg-type]
    assert seen == dict(enumerate(found))


def test_needs_embeddings() -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_perturbation: .*'fake'.*embedding.*choose mask_fill or causal"):
        Embedding(AuditConfig()).neighbours(TEXTS, FakeBackend(embeddings=False))  # type: ignore[arg-type]


def test_settings() -> None:
    base = Embedding(AuditConfig()).settings()
    assert all(
        Embedding(other).settings() != base
        for other in (AuditConfig(seed=1), AuditConfig(noise=0.1), AuditConfig(perturbations=1))
    )
    assert Embedding(AuditConfig(mask_rate=0.5)).settings() == base
