"""Scores sequences through the store: what is there is read, the rest is computed batch by batch and kept at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from spvmia_plugin.protocols import Backend, ScoreInput
from spvmia_plugin.signals import Role, TokenSignals
from spvmia_plugin.store import Store
from spvmia_plugin.util.console import progress_bar


class Scorer:
    """Token signals by role, each distinct (model, sequence) computed once.

    Args:
        backend: computes them.
        store: keeps them.
        quiet: show no progress (another process does).
        on_scored: called as batches finish, with the role that `score` was told and their tokens.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        *,
        quiet: bool = False,
        on_scored: Callable[[Role, int], None] | None = None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._quiet = quiet
        self._on_scored = on_scored
        self._role: Role | None = None
        self._is_new = store.signals.is_empty()  # then nothing has to be looked for before the work
        self._known: dict[str, TokenSignals] = {}  # by key: read from the store once
        self._names: dict[tuple[str, ScoreInput], str] = {}

    def score(
        self, role: Role, inputs: Sequence[ScoreInput], *, moments: bool, part_of: Role | None = None
    ) -> dict[ScoreInput, TokenSignals]:
        """Signals of all `inputs` under a role's model; `part_of` is the role it stands in for."""
        self._role = part_of or role
        distinct = list(dict.fromkeys(inputs))
        keys = self._keys(role, distinct)
        found = self._load(keys, moments)
        results: dict[ScoreInput, TokenSignals] = {distinct[i]: signals for i, signals in found.items()}
        if len(found) < len(distinct):
            with self._bar(role, len(distinct), len(found)) as bar:
                results |= self._compute(role, distinct, keys, moments, set(found), bar)
        return results

    def forget(self) -> None:
        """Let go of what was read and computed; the store has it."""
        self._known.clear()
        self._names.clear()

    def missing(self, role: Role, inputs: Sequence[ScoreInput], *, moments: bool) -> int:
        """How many tokens are not in the store yet: what the plan counts."""
        distinct = list(dict.fromkeys(inputs))
        found = {} if self._is_new else self._load(self._keys(role, distinct), moments)
        return sum(len(item.token_ids) for i, item in enumerate(distinct) if i not in found)

    def first_batch(self, role: Role, inputs: Sequence[ScoreInput], *, moments: bool) -> int:
        """Compute the first batch that is not in the store, as `score` would: a measurement that is no extra work.

        Returns:
            Tokens that went through the model, 0 if nothing was missing.
        """
        distinct = list(dict.fromkeys(inputs))
        keys = self._keys(role, distinct)
        found = self._load(keys, moments)
        missing = [i for i in range(len(distinct)) if i not in found]
        if not missing:
            return 0
        # A ReCaLL prefix is read once for many: what follows it says little about the others' speed.
        shortest = min(len(distinct[i].context_ids) for i in missing)
        missing = [i for i in missing if len(distinct[i].context_ids) == shortest]
        first = max(missing, key=lambda i: len(distinct[i].token_ids))  # backends begin with the longest
        before = self._backend.cost(role).forward_tokens
        self._compute(role, distinct, keys, moments, set(range(len(distinct))) - {first}, None)
        return self._backend.cost(role).forward_tokens - before

    def _compute(
        self, role: Role, inputs: list[ScoreInput], keys: list[str], moments: bool, done: Set[int], bar: Any
    ) -> dict[ScoreInput, TokenSignals]:
        def keep(batch: Mapping[int, TokenSignals]) -> None:
            made = {keys[i]: signals for i, signals in batch.items()}
            self._store.signals.put(made)
            self._known.update(made)
            if bar is not None:
                bar.update(sum(i not in done for i in batch))
                if self._on_scored is not None and self._role is not None:
                    self._on_scored(self._role, sum(len(inputs[i].token_ids) for i in batch if i not in done))

        computed = self._backend.score(role, inputs, moments=moments, on_done=keep, done=done)
        return {inputs[i]: signals for i, signals in enumerate(computed) if signals is not None}

    def _bar(self, role: Role, total: int, initial: int) -> Any:
        return progress_bar(
            desc=f"scoring: {role.value}", total=total, unit=" texts", initial=initial, quiet=self._quiet
        )

    def _load(self, keys: list[str], moments: bool) -> dict[int, TokenSignals]:
        self._known.update(self._store.signals.get(key for key in keys if not self._has(key, moments)))
        return {i: self._known[key] for i, key in enumerate(keys) if self._has(key, moments)}

    def _has(self, key: str, moments: bool) -> bool:
        return key in self._known and (not moments or self._known[key].mean is not None)

    def _keys(self, role: Role, inputs: Sequence[ScoreInput]) -> list[str]:
        identity = self._backend.identity(role)
        model = json.dumps(identity, sort_keys=True)
        for item in inputs:
            if (model, item) not in self._names:
                self._names[model, item] = signals_key(self._store, identity, self._backend.max_length, item)
        return [self._names[model, item] for item in inputs]


def signals_key(store: Store, identity: Mapping[str, object], max_length: int, item: ScoreInput) -> str:
    """The name in the store of a sequence's token signals under a model.

    Args:
        store: whose secret makes the name.
        identity: `Backend.identity` of the model, as `mia_audit` has it under `models`.
        max_length: the context that the sequence was scored in.
        item: the sequence.
    """
    return store.key("signals", model=identity, max_length=max_length, input=_json(item))


def _json(item: ScoreInput) -> list[object]:
    noise = [item.noise.seed, item.noise.sign, item.noise.scale] if item.noise else None
    return [list(item.token_ids), list(item.context_ids), noise]
