"""What function a model computes, asked by running it: its answers to fixed tokens, and how far two answers are apart.

Configurations, files and tensors say what a model was made of. What it computes depends on more: which adapters are
active, how they are scaled, whether they are merged or switched off, what hooks do. So models are told apart, and
found equal, by what they answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from spvmia_plugin.util.libraries import quiet_libraries

EQUAL = 1e-5
"""Log-probabilities of one function differ by at most this, in nats. Two models that do the same arithmetic on the same
weights give the same bits on the same shapes, in half precision too; what is further apart is another function."""

NEARLY_EQUAL = 1e-3
"""The same function by another arithmetic: a fresh PiSSA adapter takes its matrices from the weights and adds them
again, which moves SmolLM2's answers by 1.4e-4 in float32. Training that is worth the name moves them by far more."""

ROWS, WIDTH = 4, 16
TEXT = "On 12 May, Dr. Smith's team wrote: the café (in Paris) refunds order #4711; def f(x): return x + 1"
"""Some of everything: names, digits, punctuation, code, a character of two bytes."""


def probe_rows(vocab: int, text_ids: Sequence[int], context: int) -> list[list[list[int]]]:
    """Batches of token ids: `ROWS` rows spread evenly over the ids from 0 to `vocab` - 1, and a text by itself.

    Args:
        vocab: how many ids the model has embeddings for.
        text_ids: tokens of `TEXT`; ids that the model does not have are left out.
        context: tokens that the model can read at once. Half of it is used at most: prompts of peft take room, too.
    """
    width = max(1, min(WIDTH, context // 2))
    count = ROWS * width
    spread = [i * (vocab - 1) // (count - 1) for i in range(count)]
    text = [token_id for token_id in text_ids if token_id < vocab][:width] or [0]
    return [[spread[row::ROWS] for row in range(ROWS)], [text]]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        vocab: how many ids the model has embeddings for.
        logprobs: float32 log-probabilities of every next token, (tokens, V), one tensor a row of the probe.
        embeddings: (vocab,) float32, one number for the embedding of each token: the probe holds few of them.
    """

    vocab: int
    logprobs: tuple[torch.Tensor, ...]
    embeddings: torch.Tensor

    def digest(self) -> str:
        """Hash of the exact bits."""
        found = hashlib.sha256()
        for values in (*self.logprobs, self.embeddings):
            found.update(f"{tuple(values.shape)}".encode() + values.contiguous().numpy().tobytes())
        return found.hexdigest()

    def distance(self, other: Answer) -> float:
        """The largest difference; infinite between models of different sizes of vocabulary, or where one gives NaN."""
        pairs = list(zip((*self.logprobs, self.embeddings), (*other.logprobs, other.embeddings), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            return float("inf")
        return max(
            float(torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"), posinf=float("inf")).max())
            for a, b in pairs
            if a.numel()
        )


def ask(model: Any, text_ids: Sequence[int], context: int, autocast: torch.dtype | None) -> Answer:
    """Run a model, in the mode that it is in, on the probe.

    Args:
        model: a causal LM, wrapped by peft or not.
        text_ids: tokens of `TEXT`.
        context: tokens that it can read at once.
        autocast: dtype of the harness's mixed precision, or None.
    """
    device = torch.device(model.device)
    vocab = embedding_rows(model)
    precision = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    with _one_thread(), quiet_libraries(), torch.no_grad(), precision:
        found = []
        for rows in probe_rows(vocab, text_ids, context):
            ids = torch.tensor(rows, device=device)
            logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]  # virtual tokens come before
            found += [row.float().log_softmax(-1).cpu() for row in logits]
        return Answer(vocab, tuple(found), _embeddings(model, vocab, device))


def embedding_rows(model: Any) -> int:
    """How many token ids a model has embeddings for."""
    embed = model.get_input_embeddings()
    return int(getattr(embed, "num_embeddings", 0) or embed.weight.shape[0])


def _embeddings(model: Any, vocab: int, device: torch.device) -> torch.Tensor:
    embed = model.get_input_embeddings()
    parts = []
    for ids in torch.arange(vocab, device=device).split(4096):
        rows = embed(ids).float()
        parts.append((rows * torch.arange(rows.shape[-1], device=rows.device).cos()).sum(-1).cpu())
    return torch.cat(parts)


@contextmanager
def _one_thread() -> Iterator[None]:
    """How many threads share a sum changes its last bits; a model's name must not change with the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
