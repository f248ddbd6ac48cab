"""Embeddings of texts by a model that the user names (`mia_embedding_model`), for `semantic`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import tensors_digest
from spvmia_plugin.models.tokens import unavailable
from spvmia_plugin.util.libraries import isolated_rng, no_loading_bars, quiet_libraries

OPTION = "mia_embedding_model"
BATCH = 64


class Embedder:
    """A model of sentence-transformers, read when it is first used.

    Args:
        config: `embedding_model` names it (folder or hub id).
    """

    def __init__(self, config: AuditConfig) -> None:
        self._config = config

    def check(self) -> None:
        """Load the model.

        Raises:
            SpvmiaError: none is named, the library is missing, or the model cannot be loaded.
        """
        _ = self._model

    @cached_property
    def identity(self) -> dict[str, object]:
        """What the embeddings depend on, JSON-ready: the weights, wherever they lie."""
        return {"weights": tensors_digest(self._model), "max_length": self._model.max_seq_length}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n, d) embeddings of unit length."""
        with isolated_rng(0), quiet_libraries():
            # Of like length together, as the library sorts them; a text's embedding is what it is in any batch but for
            # rounding.
            found = self._model.encode(
                list(texts), batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True, convert_to_numpy=True
            )
        return np.asarray(found, dtype=np.float64)

    @cached_property
    def _model(self) -> Any:
        name = self._config.embedding_model
        if name is None:
            raise SpvmiaError(
                f"{OPTION}: expected the embedding model that semantic compares texts with (folder or hub id), got "
                'nothing; pass --metadata \'{"mia_embedding_model": "..."}\', or leave semantic out'
            )
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise SpvmiaError(
                f"{OPTION}: expected the package sentence-transformers, got none; pip install 'spvmia-plugin[semantic]'"
            ) from error
        try:
            with isolated_rng(0), quiet_libraries(), no_loading_bars():
                return SentenceTransformer(name, device="cpu", trust_remote_code=self._config.trust_remote_code)
        except Exception as error:  # its libraries raise what they like
            raise unavailable(OPTION, name, "an embedding model", error) from error
