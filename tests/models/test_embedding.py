"""Embeddings by a model of sentence-transformers, made small here; refused by name where there is none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from spvmia_plugin.auditing.similarity import Similarities
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.embedding import Embedder
from spvmia_plugin.signals import Continued
from spvmia_plugin.store.store import Store
from tests.tiny import save_tiny

TEXTS = ["the river in winter", "an invoice for Anna", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain model, of which the library takes the mean over tokens."""
    pytest.importorskip("sentence_transformers", reason="the extra [semantic] is not installed")
    return save_tiny(tmp_path_factory.mktemp("embedding") / "model")


def test_embeddings_have_unit_length_and_do_not_depend_on_each_other(folder):
    embedder = Embedder(AuditConfig(embedding_model=str(folder)))
    before = torch.get_rng_state()
    found = embedder.embed(TEXTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.dtype == np.float64
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    for text, row in zip(TEXTS, found, strict=True):
        assert embedder.embed([text])[0] == pytest.approx(row, abs=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == 3


def test_the_identity_is_that_of_the_weights(folder, tmp_path):
    one = Embedder(AuditConfig(embedding_model=str(folder))).identity
    same = Embedder(AuditConfig(embedding_model=str(folder / ".")))
    other = save_tiny(tmp_path / "other", seed=3)
    assert same.identity == one
    assert Embedder(AuditConfig(embedding_model=str(other))).identity != one
    assert str(folder) not in str(one)


def test_similarities_by_a_model_are_kept(folder, tmp_path, monkeypatch):
    config = AuditConfig(embedding_model=str(folder))
    written = {"a": Continued(TEXTS[0], (TEXTS[0], TEXTS[1]))}
    with Store(tmp_path) as store:
        made = Similarities(config, store)
        made.check()
        found = made.of(written)
        one, other = Embedder(config).embed(TEXTS[:2])
        assert found["a"] == pytest.approx([1.0, float(one @ other)], abs=1e-5)
        monkeypatch.setattr(Embedder, "embed", None)
        assert Similarities(config, store).of(written) == found


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no such model"])
def test_a_model_that_is_not_there(folder, name):
    with pytest.raises(SpvmiaError, match=r"^mia_embedding_model: expected an embedding model in .*, got '.*'") as told:
        Embedder(AuditConfig(embedding_model=name)).check()
    assert "\n" not in str(told.value)


def test_without_the_extra_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SpvmiaError, match=r"pip install 'spvmia-plugin\[semantic\]'$"):
        Embedder(AuditConfig(embedding_model="org/model")).check()
    with pytest.raises(SpvmiaError, match=r"^mia_embedding_model: expected the embedding model .*, got nothing"):
        Embedder(AuditConfig()).check()
