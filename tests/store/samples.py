"""Values for the store, and a comparison of them bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spvmia_plugin.protocols import EmbeddingNoise, Neighbours, TextEdits, TokenEdits
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store.store import Store


def signals(seed: int, n_tokens: int = 16, *, moments: bool = True) -> TokenSignals:
    draw = np.random.default_rng(seed)
    logprob, mean, std = (draw.standard_normal(n_tokens).astype(np.float32) for _ in range(3))
    top1 = draw.random(n_tokens) < 0.5
    return TokenSignals(logprob, top1, mean, std, 1 + seed % 3) if moments else TokenSignals(logprob, top1)


def bits(value: TokenSignals) -> tuple[object, ...]:
    arrays = (value.logprob, value.top1, value.mean, value.std, value.kth)
    return (*((a.dtype.str, a.shape, a.tobytes()) if a is not None else None for a in arrays), value.windows)


def paraphrases(seed: int) -> Neighbours:
    return Neighbours(
        (
            TokenEdits((1, 5), (seed, 70_000)),
            TextEdits(((0, 3, "caf\u00e9 \ud800"), (5, 5, ""))),
            EmbeddingNoise(2**63 + seed, -1, 0.1 + 0.2),
        ),
        mask_rate=0.1 + seed / 3,
        reason="fewer than asked" if seed % 2 else None,
    )


def some_signals(store: Store, count: int = 40, start: int = 0) -> dict[str, TokenSignals]:
    return {store.key("signals", i=i): signals(i) for i in range(start, start + count)}


def build(store: Store, key: str, content: bytes = b"weights " * 1000) -> Path:
    """A finished reference, as a training would leave it."""
    work = store.work_folder("references", key)
    (work / "checkpoint-10").mkdir(exist_ok=True)
    (work / "checkpoint-10" / "optimizer.pt").write_bytes(b"state")
    (work / "adapter_model.safetensors").write_bytes(content)
    (work / "adapter_config.json").write_text('{"r": 16}')
    return store.commit_folder("references", key)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
