"""What backends find out and have kept for the next run: batch sizes that fitted into memory, what a base answers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend
from spvmia_plugin.signals import Role
from spvmia_plugin.store import Store


def keep_bases(backend: Backend, store: Store) -> None:
    """Have the store keep what bases answer to fixed tokens, so that comparing a target with its base is paid once.

    Backends without `remember_base` have nothing to keep.
    """
    remember = getattr(backend, "remember_base", None)
    if remember is None:
        return

    def recall(base: Mapping[str, object]) -> str | None:
        key = store.key("base_answers", base=base)
        found: str | None = store.json.get([key]).get(key)
        return found

    remember(recall, lambda base, digest: store.json.put({store.key("base_answers", base=base): digest}))


class FittingBatches:
    """Batch sizes that fitted into memory, kept while an audit is unfinished: a killed one resumes with its batches.

    Backends without `remember_limits` find them out again.

    Args:
        backend: finds it out.
        store: keeps it.
    """

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._key: str | None = None

    def recall(self) -> None:
        """Begin with the sizes of a run that was not finished, and have new ones kept at once."""
        remember = getattr(self._backend, "remember_limits", None)
        if remember is None:
            return
        self._key = self._store.key(
            "batch_limits", target=self._backend.identity(Role.TARGET), device=str(self._backend.device)
        )
        known: Mapping[str, int] = self._store.json.get([self._key]).get(self._key, {})
        remember(known, self._keep)

    def forget(self) -> None:
        """The run is finished: the next one, beside fewer other processes perhaps, tries whole batches again."""
        if self._key is not None and self._store.json.get([self._key]).get(self._key):
            with contextlib.suppress(
                SpvmiaError
            ):  # the audit is done, on a disk that nothing can be written to perhaps
                self._keep({})

    def _keep(self, limits: dict[str, int]) -> None:
        if self._key is not None:
            self._store.json.put({self._key: limits})
