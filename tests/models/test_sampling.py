from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from spvmia_plugin.models.sampling import Sampling, inverse_cdf, uniforms


def reference_probabilities(logits, temperature, top_k, top_p):
    """Float64, one row, by sorting."""
    x = np.asarray(logits, np.float64) / temperature
    p = np.exp(x - x.max())
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        mass = np.cumsum(p[order])
        p[order[1 + int(np.searchsorted(mass, top_p)) :]] = 0
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (20, 0.5), (1, 1.0), (0, 1e-9), (99, 1.0)])
def test_probabilities(temperature, top_k, top_p):
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(2)) * 3
    weights = Sampling(temperature, top_k, top_p).probabilities(logits)
    for row, weight in zip(logits, weights, strict=True):
        expected = reference_probabilities(row, temperature, top_k, top_p)
        assert (weight / weight.sum()).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-6])
def test_the_coldest_draws_are_the_best_token(temperature):
    """No division overflows, however small the temperature: the likeliest token has all the weight, others none."""
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(2)) * 3
    weights = Sampling(temperature).probabilities(logits)
    assert torch.equal(weights, torch.nn.functional.one_hot(logits.argmax(-1), 40).float())


def test_inverse_cdf_draws_in_proportion():
    weights = torch.tensor([[1.0, 0, 2, 5, 0]])
    drawn = inverse_cdf(weights, torch.from_numpy(uniforms(0, 8000))[None])
    counts = np.bincount(drawn[0], minlength=5)
    assert counts[1] == counts[4] == 0
    assert chisquare(counts[[0, 2, 3]], np.array([1, 2, 5]) * 1000).pvalue > 0.01


@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 5000])
def test_inverse_cdf_is_a_search_in_the_cumulative_sum(vocab):
    generator = torch.Generator().manual_seed(vocab)
    weights = torch.rand(5, vocab, generator=generator) ** 8
    weights[:, ::3] = 0
    weights[:, -1] = 1
    u = torch.rand(5, 40, generator=generator, dtype=torch.float64)
    drawn = inverse_cdf(weights, u).numpy()
    for row, draws, stream in zip(weights.double().numpy(), drawn, u.numpy(), strict=True):
        expected = np.searchsorted(np.cumsum(row), stream * row.sum(), side="right")
        assert (draws == expected).mean() > 0.99  # float32 sums may move a boundary by a rounding error
        assert (row[draws] > 0).all()


def test_inverse_cdf_at_the_edges():
    weights = torch.tensor([[0.0, 1, 0, 3, 0]])
    edges = torch.tensor([[0.0, 0.25 - 1e-12, 0.25, np.nextafter(1, 0), 1.0]], dtype=torch.float64)
    assert inverse_cdf(weights, edges).tolist() == [[1, 1, 3, 3, 3]]


def test_streams_follow_the_seed():
    assert np.array_equal(uniforms(3, 5), uniforms(3, 9)[:5])
    assert not np.array_equal(uniforms(3, 5), uniforms(4, 5))
