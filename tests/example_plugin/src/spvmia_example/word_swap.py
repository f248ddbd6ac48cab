"""A perturbation: exchange two neighbouring words."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend, Neighbours, OnDone, TextEdits
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed


class WordSwap:
    """2N paraphrases of a text, each with one pair of neighbouring words exchanged."""

    name = "word_swap"

    def __init__(self, config: AuditConfig) -> None:
        self._count = 2 * config.perturbations
        self._seed = config.seed

    def check(self) -> None:
        """Nothing can be missing."""

    def settings(self) -> dict[str, object]:
        """What changes the result."""
        return {"variants": self._count}

    def neighbours(
        self, texts: Sequence[Document], backend: Backend, *, on_done: OnDone | None = None
    ) -> list[Neighbours]:
        """Paraphrases of every text, in input order."""
        made = [self._swap(document) for document in texts]
        if on_done is not None:
            on_done(dict(enumerate(made)))
        return made

    def _swap(self, document: Document) -> Neighbours:
        words = list(re.finditer(r"\S+", document.text))
        if len(words) < 2:
            return Neighbours((), reason="fewer than two words")
        rng = random.Random(stable_seed(self._seed, document.id, "word_swap"))
        variants = []
        for _ in range(self._count):
            first = rng.randrange(len(words) - 1)
            left, right = words[first], words[first + 1]
            variants.append(
                TextEdits(((left.start(), left.end(), right.group()), (right.start(), right.end(), left.group())))
            )
        return Neighbours(tuple(variants), mask_rate=2 / len(words))
