from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models import replacements, statistics
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.signals import Role
from tests.models.models import harness_lm
from tests.tiny import tiny_texts


@pytest.fixture(scope="module", params=["auto", "harness"])
def backend(models, request):
    return HFBackend(harness_lm(models, "lora"), AuditConfig(prefix=request.param))


def sequences(backend):
    return [backend.encode(text) for text in tiny_texts(6, words=(5, 30))]


def draws(rows, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        [np.sort(rng.choice(len(row) - 1, max(1, len(row) // 5), replace=False)) + 1 for _ in range(n)] for row in rows
    ]


def test_shapes_and_never_the_original(backend):
    rows = sequences(backend)
    positions = draws(rows)
    found = backend.sample_replacements(Role.BASE, rows, positions, range(6))
    for row, where, drawn in zip(rows, positions, found, strict=True):
        for at, tokens in zip(where, drawn, strict=True):
            assert tokens.shape == at.shape
            assert tokens.dtype == np.int64
            assert all(row[p] != token for p, token in zip(at, tokens, strict=True))


def test_they_follow_seeds_and_not_batches(backend, monkeypatch):
    rows = sequences(backend)
    positions = draws(rows)
    whole = backend.sample_replacements(Role.BASE, rows, positions, range(6))
    same = backend.sample_replacements(Role.BASE, rows[::-1], positions[::-1], range(5, -1, -1))[::-1]
    monkeypatch.setattr(replacements, "token_budget", lambda kind: 1)
    monkeypatch.setitem(statistics._HEAD_BYTES, "cpu", 1)
    alone = backend.sample_replacements(Role.BASE, rows, positions, range(6))
    other = backend.sample_replacements(Role.BASE, rows, positions, range(6, 12))
    for a, b, c, d in zip(whole, same, alone, other, strict=True):
        for k in range(4):
            assert a[k].tolist() == b[k].tolist() == c[k].tolist()
        assert [x.tolist() for x in a] != [x.tolist() for x in d]


def test_the_distribution_is_the_model_s_without_the_original(backend):
    row = sequences(backend)[0]
    n = 3000
    context = backend.frame("").context
    places = (0, 7) if context else (1, 7)
    found = backend.sample_replacements(Role.BASE, [row], [[np.array(places)] * n], [1])[0]
    with backend._roles.use(Role.BASE) as model, torch.no_grad():
        logits = model(torch.tensor([[*context, *row[:7]]])).logits[0].double()
    for column, position in enumerate(places):
        p = logits[position + len(context) - 1].softmax(-1).numpy()
        p[row[position]] = 0
        p /= p.sum()
        groups = np.arange(len(p)) % 11
        counts = np.bincount(groups[[draw[column] for draw in found]], minlength=11)
        assert chisquare(counts, np.bincount(groups, p) * n).pvalue > 0.001


def test_texts_and_draws_without_positions(backend):
    rows = sequences(backend)[:3]
    none = np.zeros(0, np.int64)
    found = backend.sample_replacements(
        Role.BASE, [*rows, []], [[none, none], [none, np.array([1])], [], [none]], range(4)
    )
    assert [[len(draw) for draw in text] for text in found] == [[0, 0], [0, 1], [], [0]]
    assert backend.sample_replacements(Role.BASE, [], [], []) == []


def test_a_token_that_nothing_stands_before_cannot_be_drawn(models):
    backend = HFBackend(harness_lm(models, "lora"), AuditConfig())
    with pytest.raises(ValueError, match="none at 0"):
        backend.sample_replacements(Role.BASE, sequences(backend)[:1], [[np.array([0, 3])]], [0])


def test_one_forward_pass_a_text(backend):
    rows = sequences(backend)
    before = backend.cost(Role.BASE).forward_tokens
    backend.sample_replacements(Role.BASE, rows, draws(rows, n=20), range(6))
    assert backend.cost(Role.BASE).forward_tokens - before == sum(map(len, rows))


def test_nothing_stands_before_a_complete_sequence(models):
    """Whatever the context of a text alone is: with the harness's prefix token the draws are those of none."""
    plain, harness = (HFBackend(harness_lm(models, "lora"), AuditConfig(prefix=p)) for p in ("auto", "harness"))
    rows = sequences(plain)
    positions = draws(rows)
    expected = plain.sample_replacements(Role.BASE, rows, positions, range(6))
    found = harness.sample_replacements(Role.BASE, rows, positions, range(6), complete=True)
    assert [[x.tolist() for x in row] for row in found] == [[x.tolist() for x in row] for row in expected]
    other = harness.sample_replacements(Role.BASE, rows, positions, range(6))
    assert [[x.tolist() for x in row] for row in other] != [[x.tolist() for x in row] for row in expected]
    with pytest.raises(ValueError, match="because nothing stands before a text"):
        harness.sample_replacements(Role.BASE, rows[:1], [[np.array([0, 3])]], [0], complete=True)
