"""Symmetric noise on the input embeddings: no second model, no text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, EmbeddingNoise, Neighbours, OnDone, Perturbation
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role


class Embedding(Perturbation):
    """Pairs x + sigma z, x - sigma z on the input embeddings (Fu et al. 2024, the embedding domain).

    The two of a pair are adjacent and share their z. sigma = `mia_noise` times the standard deviation of the model's
    embedding matrix. Nothing is computed here: the noise is drawn from its seed while the pairs are scored.
    """

    name = "embedding"
    roles = ()
    passes = 0.0

    def settings(self) -> dict[str, object]:
        """Seed, number of pairs, sigma."""
        return {"seed": self._config.seed, "pairs": self._config.perturbations, "noise": self._config.noise}

    def neighbours(
        self,
        texts: Sequence[Document],
        backend: Backend,
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[Neighbours | None]:
        """2N noises a text. The mask rate is nan: nothing is masked.

        Raises:
            SpvmiaError: the backend cannot add noise to embeddings.
        """
        if not backend.features_of(Role.TARGET).embeddings:
            raise SpvmiaError(
                f"mia_perturbation: expected a kind that backend {backend.name!r} can score, got 'embedding', which "
                "needs the model's input embeddings; choose mask_fill or causal"
            )
        found = {i: self._of(text) for i, text in enumerate(texts) if i not in done}
        if on_done is not None and found:
            on_done(found)
        return [found.get(i) for i in range(len(texts))]

    def _of(self, text: Document) -> Neighbours:
        if not text.text:
            return Neighbours((), reason="empty text")
        config = self._config
        seeds = (stable_seed(config.seed, text.id, "embedding", pair) for pair in range(config.perturbations))
        return Neighbours(tuple(EmbeddingNoise(seed, sign, config.noise) for seed in seeds for sign in (1, -1)))
