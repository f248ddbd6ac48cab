"""How a model's tokens are drawn: each row from its own seed, one uniform number a draw, by the inverse CDF.

A draw depends on the row's seed and its distribution alone, so neither the batch nor the device's random generator has
a say in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.models.forward import HeadlessModel

_BLOCK = 256


@dataclass(frozen=True)
class Sampling:
    """How to turn logits into probabilities: temperature first, then the k best, then the p-nucleus."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, V) float32 weights, 0 for what is not to be drawn; rows need not sum to one."""
        x = logits.float()
        if self.temperature != 1:
            # From the best downwards, so that nothing overflows however cold it is; float32 has no smaller divisor.
            x = (x - x.amax(-1, keepdim=True)) / max(self.temperature, torch.finfo(torch.float32).tiny)
        if 0 < self.top_k < x.shape[-1]:
            least = x.topk(self.top_k, -1).values[..., -1:]
            x = x.masked_fill(x < least, float("-inf"))
        p = x.softmax(-1)
        if self.top_p < 1:
            p = _nucleus(p, self.top_p)
        return p

    def choose(self, model: HeadlessModel, hidden: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """(B,) tokens on the CPU, drawn after final hidden states (B, d) at uniform numbers (B,)."""
        p = self.probabilities(model.logits(hidden))
        wide = torch.float32 if p.device.type == "mps" else torch.float64
        return inverse_cdf(p, u[:, None].to(wide).to(p.device)).squeeze(-1).cpu()


def _nucleus(p: torch.Tensor, share: float) -> torch.Tensor:
    """Keep the most probable tokens whose mass first reaches `share`; ties stay with the last that is kept."""
    ordered = p.sort(-1, descending=True).values  # (B, V)
    before = ordered.cumsum(-1) - ordered  # mass of the more probable: a token is kept while that is below the share
    last = (before < share).sum(-1, keepdim=True) - 1  # (B, 1) place of the last that is
    return p.masked_fill(p < ordered.gather(-1, last), 0.0)  # by probability, not by place: hence the ties


def inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw indices: the first v whose cumulative weight exceeds u times the total.

    Looks for the block of v first and within it then: sums over blocks take one pass over the weights, cumulative
    sums of all of them would take three and a copy in float64.

    Args:
        weights: (B, V), non-negative. An index of weight 0 is never drawn.
        uniforms: (B, K) in [0, 1).

    Returns:
        (B, K) indices.
    """
    wide = torch.float32 if weights.device.type == "mps" else torch.float64  # rounding in 49k float32 sums shows
    rows, vocab = weights.shape
    if vocab % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, _BLOCK - vocab % _BLOCK))
    blocks = weights.view(rows, -1, _BLOCK)  # (B, n, block)
    before = blocks.sum(-1).to(wide).cumsum(-1)  # (B, n): weight up to and with each block
    point = uniforms.to(wide) * before[:, -1:]  # (B, K)
    block = _first_above(before, point)  # (B, K)
    inner = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).to(wide).cumsum(-1)  # (B, K, block)
    start = torch.nn.functional.pad(before, (1, 0)).gather(1, block)  # (B, K): weight before the block
    return block * _BLOCK + _first_above(inner, (point - start)[..., None]).squeeze(-1)


def _first_above(cumulative: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """First index where `cumulative` (..., n) exceeds `point` (..., K); where rounding puts the point at the end, the
    last step up."""
    found = torch.searchsorted(cumulative, point.contiguous(), right=True)
    last = (cumulative < cumulative[..., -1:]).sum(-1, keepdim=True)
    return torch.minimum(found, last)


def uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """The stream of one row: `count` numbers in [0, 1)."""
    return np.random.default_rng(seed).random(count)
