from __future__ import annotations

import math

import pytest
import torch

from spvmia_plugin.models import statistics
from spvmia_plugin.models.statistics import token_statistics

KERNELS = [statistics._CpuKernel, statistics._DeviceKernel]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.__name__)
def kernel(request, monkeypatch):
    monkeypatch.setattr(statistics, "_CpuKernel", request.param)  # the tests run on a CPU


def naive(logits: torch.Tensor, targets: torch.Tensor):
    """Float64, one row at a time, from the definitions."""
    rows = []
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        logp = row - torch.logsumexp(row, -1)
        p = logp.exp()
        support = p > 0
        mean = (p * logp)[support].sum()
        std = (p * (logp - mean) ** 2)[support].sum().sqrt()
        rows.append((logp[target].item(), logp[target].item() == logp.max().item(), mean.item(), std.item()))
    return list(zip(*rows, strict=True))


def statistics_of(logits, targets, *, moments=True):
    return token_statistics(logits, targets, identity, vocab=logits.shape[-1], moments=moments)


def identity(rows):
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.001, 0.1, 1, 5, 60])
def test_against_the_definitions_in_float64(kernel, scale, dtype):
    generator = torch.Generator().manual_seed(int(scale * 1000))
    logits = (torch.randn(67, 1031, generator=generator) * scale + 7).to(dtype)
    targets = torch.randint(0, 1031, (67,), generator=generator)
    targets[::3] = logits[::3].argmax(-1)
    found = statistics_of(logits, targets)
    logprob, top1, mean, std = naive(logits, targets)
    assert found.logprob.tolist() == pytest.approx(logprob, rel=1e-5, abs=1e-5)
    assert found.top1.tolist() == list(top1)
    assert found.mean.tolist() == pytest.approx(mean, rel=1e-5, abs=2e-5)
    assert found.std.tolist() == pytest.approx(std, rel=1e-4, abs=1e-5)


def test_without_moments_the_log_probabilities_are_the_same(kernel):
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)) * 4
    targets = torch.arange(50)
    with_moments = statistics_of(logits, targets)
    without = statistics_of(logits, targets, moments=False)
    assert without.mean is None
    assert without.std is None
    assert torch.allclose(without.logprob, with_moments.logprob, atol=1e-5)
    assert torch.equal(without.top1, with_moments.top1)


@pytest.mark.parametrize("vocab", [2, 50, 49152])
@pytest.mark.parametrize("level", [0.0, -3.7, 1000.0])
def test_a_uniform_model_is_minus_log_v_everywhere_with_no_spread(kernel, vocab, level):
    logits = torch.full((3, vocab), level)
    found = statistics_of(logits, torch.tensor([0, 1, vocab - 1]))
    for values in (found.logprob, found.mean):
        assert values.tolist() == pytest.approx([-math.log(vocab)] * 3, rel=1e-6)
    assert found.std.tolist() == [0, 0, 0]
    assert found.top1.all()  # ties are all on top


def test_impossible_tokens_do_not_spoil_the_moments(kernel):
    logits = torch.tensor([[0.0, 1.0, -math.inf, 2.0, -math.inf]])
    found = statistics_of(logits, torch.tensor([3]))
    possible = statistics_of(logits[:, [0, 1, 3]], torch.tensor([2]))
    assert found.mean.item() == pytest.approx(possible.mean.item())
    assert found.std.item() == pytest.approx(possible.std.item())


def test_a_nearly_certain_model(kernel):
    logits = torch.zeros(1, 1000)
    logits[0, 4] = 30
    found = statistics_of(logits, torch.tensor([4]))
    _, _, mean, std = naive(logits, torch.tensor([4]))
    assert found.std.item() == pytest.approx(std[0], rel=1e-4)
    assert found.mean.item() == pytest.approx(mean[0], abs=1e-6)


def test_rows_go_through_the_head_in_chunks(kernel, monkeypatch):
    monkeypatch.setitem(statistics._HEAD_BYTES, "cpu", 16 * 4 * 101)
    head = torch.nn.Linear(8, 101)
    rows, targets, sizes = torch.randn(100, 8), torch.arange(100), []

    def logits_of(chunk):
        sizes.append(len(chunk))
        return head(chunk)

    with torch.no_grad():
        found = token_statistics(rows, targets, logits_of, vocab=101, moments=True)
        assert max(sizes) == 16
        whole = statistics_of(head(rows), targets)
    assert torch.allclose(found.logprob, whole.logprob, atol=1e-5)
    assert torch.allclose(found.std, whole.std, atol=1e-5)


def test_no_rows():
    found = statistics_of(torch.empty(0, 5), torch.empty(0, dtype=torch.long))
    assert found.logprob.shape == found.std.shape == (0,)


@pytest.mark.parametrize("k", [1, 2, 20, 1030, 5000])
def test_the_kth_log_probability(kernel, k):
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(33, 1031, generator=generator) * 4
    targets = torch.randint(0, 1031, (33,), generator=generator)
    targets[::3] = logits[::3].argmax(-1)
    plain = statistics_of(logits, targets)
    found = token_statistics(logits, targets, identity, vocab=1031, moments=True, kth=k)
    for name in ("logprob", "top1", "mean", "std"):
        assert torch.equal(getattr(found, name), getattr(plain, name))  # nothing else changes
    assert plain.kth is None
    logp = logits.double() - torch.logsumexp(logits.double(), -1, keepdim=True)
    expected = [sorted(row.tolist(), reverse=True)[min(k, 1031) - 1] for row in logp]
    assert found.kth.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_kth_of_logits_that_are_minus_infinity(kernel):
    logits = torch.tensor([[0.0, -math.inf, -math.inf, 1.0]])
    found = token_statistics(logits, torch.tensor([1]), identity, vocab=4, moments=False, kth=3)
    assert found.kth.tolist() == [-math.inf]
    two = token_statistics(logits, torch.tensor([1]), identity, vocab=4, moments=False, kth=2)
    assert two.kth.tolist() == pytest.approx([-math.log(1 + math.e)])
