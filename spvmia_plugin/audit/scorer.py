"""Scores sequences through the store: what is there is read, the rest is computed batch by batch and kept at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spvmia_plugin.progress import progress_bar
from spvmia_plugin.protocols import Backend, ScoreInput
from spvmia_plugin.signals import Role, TokenSignals
from spvmia_plugin.store import Store


class Scorer:
    """Token signals by role, each distinct (model, sequence) computed once.

    Args:
        backend: computes them.
        store: keeps them.
    """

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store

    def score(self, role: Role, inputs: Sequence[ScoreInput], *, moments: bool) -> dict[ScoreInput, TokenSignals]:
        """Signals of all `inputs` under a role's model."""
        distinct = list(dict.fromkeys(inputs))
        keys = self._keys(role, distinct)
        found = self._load(keys, moments)
        results: dict[ScoreInput, TokenSignals] = {distinct[i]: signals for i, signals in found.items()}
        if len(found) < len(distinct):
            results |= self._compute(role, distinct, keys, found, moments)
        return results

    def missing(self, role: Role, inputs: Sequence[ScoreInput], *, moments: bool) -> int:
        """How many tokens are not in the store yet: what the plan counts."""
        distinct = list(dict.fromkeys(inputs))
        found = self._load(self._keys(role, distinct), moments)
        return sum(len(item.token_ids) for i, item in enumerate(distinct) if i not in found)

    def _compute(
        self,
        role: Role,
        inputs: list[ScoreInput],
        keys: list[str],
        found: Mapping[int, TokenSignals],
        moments: bool,
    ) -> dict[ScoreInput, TokenSignals]:
        with progress_bar(desc=f"scoring: {role.value}", total=len(inputs), unit=" texts", initial=len(found)) as bar:

            def keep(batch: Mapping[int, TokenSignals]) -> None:
                self._store.signals.put({keys[i]: signals for i, signals in batch.items()})
                bar.update(sum(i not in found for i in batch))

            computed = self._backend.score(role, inputs, moments=moments, on_done=keep, done=found.keys())
        return {inputs[i]: signals for i, signals in enumerate(computed) if signals is not None}

    def _load(self, keys: list[str], moments: bool) -> dict[int, TokenSignals]:
        stored = self._store.signals.get(keys)
        return {
            i: stored[key]
            for i, key in enumerate(keys)
            if key in stored and (not moments or stored[key].mean is not None)
        }

    def _keys(self, role: Role, inputs: Sequence[ScoreInput]) -> list[str]:
        identity = self._backend.identity(role)
        return [
            self._store.key("signals", model=identity, max_length=self._backend.max_length, input=_json(item))
            for item in inputs
        ]


def _json(item: ScoreInput) -> list[object]:
    noise = [item.noise.seed, item.noise.sign, item.noise.scale] if item.noise else None
    return [list(item.token_ids), list(item.context_ids), noise]
