"""Log-probability, top-1, mean and spread over the vocabulary, in chunks of rows that stay in cache.

With logits z (V,) of one position, x = z - max z, S = sum exp x, log p(v) = x_v - log S:

    mean = E_p[log p] = E_p[x] - log S        std = sqrt(E_p[x^2] - E_p[x]^2)

Everything is float32, whatever the model's dtype. The difference of squares loses digits where the spread is small
against the mean (a nearly uniform p), and such rows are done again, centred, in float64. Only one chunk of float32
logits exists at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

LogitsOf = Callable[[torch.Tensor], torch.Tensor]
"""From rows of final hidden states (n, d) to logits (n, V)."""

_HEAD_BYTES = {"cpu": 2**25}
"""Logits made by one product with the head: large enough for the product, small enough for the last-level cache."""
_HEAD_BYTES_DEVICE = 2**28
_CACHE_BYTES = 3 * 2**20
"""Float32 logits worked on at once on a CPU. Fresh buffers of that size cost more than the sums: they are kept."""
_CANCELLED = 0.02
"""Share of variance in E[x^2] below which the difference of squares is not trusted."""


@dataclass
class Statistics:
    """Statistics of n positions on the model's device: (n,) float32 each, `top1` bool; None what was not asked for."""

    logprob: torch.Tensor
    top1: torch.Tensor
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None
    kth: torch.Tensor | None = None


def token_statistics(
    rows: torch.Tensor, targets: torch.Tensor, logits_of: LogitsOf, *, vocab: int, moments: bool, kth: int = 0
) -> Statistics:
    """Statistics of the next-token distribution at n positions.

    Args:
        rows: (n, d) final hidden states, or (n, V) logits with `logits_of` the identity.
        targets: (n,) the tokens that came next.
        logits_of: the model's output layer.
        vocab: V.
        moments: whether to compute mean and standard deviation over the vocabulary.
        kth: K, to compute the log-probability of the K-th most probable token too (of the last where V < K); 0: not.
    """
    n = len(rows)
    out = torch.empty((4 if moments else 2, n), dtype=torch.float32, device=rows.device)
    below = torch.empty(n, dtype=torch.float32, device=rows.device) if kth else None
    step = rows_per_product(vocab, rows)
    kernel = (_CpuKernel if rows.device.type == "cpu" else _DeviceKernel)(vocab, moments)
    for start in range(0, n, step):
        stop = start + step
        logits = logits_of(rows[start:stop])
        kernel.fill(logits, targets[start:stop], out[:, start:stop])
        if below is not None:
            wide = logits.float()
            below[start:stop] = wide.topk(min(kth, vocab), -1).values[:, -1] - wide.logsumexp(-1)
    top1 = out[1] > 0
    mean, std = (out[2], out[3]) if moments else (None, None)
    return Statistics(out[0], top1, mean, std, below)


def rows_per_product(vocab: int, rows: torch.Tensor) -> int:
    """How many rows to send through the output layer at once."""
    budget = _HEAD_BYTES.get(rows.device.type, _HEAD_BYTES_DEVICE)
    fitting = budget // (vocab * rows.element_size())
    return int(max(16, min(4096, fitting)))


class _CpuKernel:
    """Few passes over buffers that stay in cache."""

    def __init__(self, vocab: int, moments: bool) -> None:
        self.rows = max(4, _CACHE_BYTES // (4 * vocab))
        self.fill_chunk = self._with_moments if moments else self._without_moments
        self.x = torch.empty(self.rows, vocab)
        self.y = torch.empty(self.rows, vocab)

    def fill(self, logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
        """Write (logprob, top1[, mean, std]) of `logits` into the columns of `out`."""
        for start in range(0, len(logits), self.rows):
            chunk = logits[start : start + self.rows]
            x, y = self.x[: len(chunk)], self.y[: len(chunk)]
            x.copy_(chunk)
            self.fill_chunk(x, y, targets[start : start + len(chunk), None], out[:, start : start + len(chunk)])

    @staticmethod
    def _without_moments(x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
        torch.log_softmax(x, -1, out=y)
        logprob = y.gather(-1, targets).squeeze(-1)
        out[0] = logprob
        out[1] = logprob >= y.amax(-1)

    @staticmethod
    def _with_moments(x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
        x.sub_(x.amax(-1, keepdim=True)).clamp_(min=-1e4)  # a logit of -inf has p = 0, and 0 * -inf is no number
        chosen = x.gather(-1, targets).squeeze(-1)
        torch.exp(x, out=y)
        total = y.sum(-1)
        log_total = total.log()
        first = torch.linalg.vecdot(y, x) / total
        y.mul_(x)
        second = torch.linalg.vecdot(y, x) / total
        variance = second - first.square()
        out[0] = chosen - log_total
        out[1] = chosen >= 0
        out[2] = first - log_total
        out[3] = variance.clamp(min=0).sqrt()
        unsure = variance < _CANCELLED * second
        if bool(unsure.any()):
            out[3, unsure] = _centred_std(x[unsure])


def _centred_std(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation of `x` under softmax(x), two-pass in float64; exactly 0 where rounding is all there is."""
    x = x.double()
    p = x.softmax(-1)
    mean = torch.linalg.vecdot(p, x)[:, None]
    std = torch.linalg.vecdot(p, (x - mean).square()).sqrt()
    return torch.where(std > 1e-12 * (1 + mean[:, 0].abs()), std, 0).float()


class _DeviceKernel:
    """Accelerators: centred throughout, no branch, so that the host never waits for the device."""

    def __init__(self, vocab: int, moments: bool) -> None:
        self.moments = moments

    def fill(self, logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
        """Write (logprob, top1[, mean, std]) of `logits` into the columns of `out`."""
        x = logits.float()
        x = x - x.amax(-1, keepdim=True)
        log_total = x.logsumexp(-1)
        chosen = x.gather(-1, targets[:, None]).squeeze(-1)
        out[0] = chosen - log_total
        out[1] = chosen >= 0
        if not self.moments:
            return
        p = x.softmax(-1)
        x = x.clamp_(min=-1e4)
        first = (p * x).sum(-1)
        out[2] = first - log_total
        x = x.sub_(first[:, None]).square_()
        out[3] = p.mul_(x).sum(-1).sqrt()
