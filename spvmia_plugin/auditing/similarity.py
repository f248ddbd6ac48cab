"""How alike what the target wrote and what it should have written are, by an embedding model; kept in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.signals import Continued
from spvmia_plugin.store.store import Store

if TYPE_CHECKING:
    from spvmia_plugin.models.embedding import Embedder

TEXTS_AT_A_TIME = 2048


class Similarities:
    """Cosines of continuations and truths.

    Args:
        config: `embedding_model` names the model.
        store: keeps the cosines, each under keyed hashes of its two texts.
    """

    def __init__(self, config: AuditConfig, store: Store) -> None:
        self._config = config
        self._store = store

    def check(self) -> None:
        """Make sure that there is an embedding model.

        Raises:
            SpvmiaError: none is named, or it cannot be loaded.
        """
        self._embedder.check()

    def of(self, written: Mapping[str, Continued | str]) -> dict[str, list[float]]:
        """The cosine of each continuation, by record id, of those that have any. An empty text is like nothing: 0."""
        found = {key: each for key, each in written.items() if isinstance(each, Continued)}
        name_of = self._store.keys("similarities", "texts", model=self._embedder.identity)
        names: dict[tuple[str, str], str] = {}
        for each in found.values():
            for text in each.texts:
                if text.strip() and (each.truth, text) not in names:
                    pair = [self._store.text_hash(each.truth), self._store.text_hash(text)]
                    names[each.truth, text] = name_of(json.dumps(pair, separators=(",", ":")))
        known: dict[str, float] = self._store.json.get(list(names.values()))
        missing = [pair for pair, name in names.items() if name not in known]
        for start in range(0, len(missing), TEXTS_AT_A_TIME):
            pairs = missing[start : start + TEXTS_AT_A_TIME]
            made = dict(zip((names[pair] for pair in pairs), self._cosines(pairs), strict=True))
            self._store.json.put(made)
            known.update(made)
        return {
            key: [known[names[each.truth, text]] if text.strip() else 0.0 for text in each.texts]
            for key, each in found.items()
        }

    def _cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: i for i, text in enumerate(texts)}
        vectors = self._embedder.embed(texts)
        return [float(vectors[place[one]] @ vectors[place[other]]) for one, other in pairs]

    @cached_property
    def _embedder(self) -> Embedder:
        from spvmia_plugin.models.embedding import Embedder  # brings torch

        return Embedder(self._config)
