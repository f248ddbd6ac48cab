"""Made-up corpora for the blind baseline: words at random, by document."""

from __future__ import annotations

import numpy as np

VOCABULARY = [f"w{number}" for number in range(300)]
WEIGHTS = 1 / np.arange(1, 301)
WEIGHTS /= WEIGHTS.sum()


def texts(rng: np.random.Generator, count: int, words: int = 30) -> list[str]:
    """Independent texts, every word drawn from one Zipf distribution."""
    return [" ".join(rng.choice(VOCABULARY, words, p=WEIGHTS)) for _ in range(count)]


def half(count: int) -> np.ndarray:
    return np.arange(count) % 2 == 0


def names(count: int) -> list[str]:
    return [f"file:{number}" for number in range(count)]


def auroc(scores: list[float], labels: np.ndarray) -> float:
    """By counting pairs."""
    members = [s for s, label in zip(scores, labels, strict=True) if label]
    others = [s for s, label in zip(scores, labels, strict=True) if not label]
    return sum((m > o) + (m == o) / 2 for m in members for o in others) / (len(members) * len(others))
