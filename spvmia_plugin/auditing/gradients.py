"""Norms of records' gradients: each distinct (model, sequence, mask) computed once, and kept as batches finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.sequences import Counted
from spvmia_plugin.auditing.stored import Decimals, Stock, as_json
from spvmia_plugin.protocols import Backend
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.console import Bar

GRADIENT_FACTOR = 3.0
"""A token of a gradient costs about this many scored ones: forward, and back through every activation."""


class StoredGradients:
    """Gradient norms by model.

    Args:
        backend: computes them.
        store: keeps them.
        quiet: show no progress (another process does).
        on_done: called as batches finish, with the role and the tokens that were not there before.
    """

    def __init__(
        self, backend: Backend, store: Store, *, quiet: bool = False, on_done: Callable[[Role, int], None]
    ) -> None:
        self._backend = backend
        self._store = store
        self._quiet = quiet
        self._on_done = on_done
        self._decimals = Decimals()
        self._new: set[str] = set()  # keys of those that were computed, and not read from the store

    def check(self, model: Role) -> None:
        """Make sure that the model has gradients; asked of each model once.

        Raises:
            SpvmiaError: it has none.
        """
        key = self._store.key("gradients", check=self._backend.identity(model))
        if not self._store.json.get([key]):
            self._backend.check_gradients(model)
            self._store.json.put({key: True})

    def of(self, role: Role, model: Role, sequences: Sequence[Counted]) -> list[float]:
        """The norms under `model` for `role`, in the order of the sequences.

        Batches are planned over all of them, so that a resumed run has those of one that was never interrupted.
        """
        keys = self._keys(model, sequences)
        distinct = dict(zip(keys, sequences, strict=True))
        found: dict[str, float] = self._store.json.get(distinct)
        if len(found) < len(distinct):
            names, asked = list(distinct), list(distinct.values())
            done = {i for i, name in enumerate(names) if name in found}
            with Bar(
                desc=f"gradients: {role.value}",
                total=len(asked),
                unit="texts",
                initial=len(done),
                quiet=self._quiet,
            ) as bar:

                def keep(batch: Mapping[int, float]) -> None:
                    made = {names[i]: norm for i, norm in batch.items()}
                    self._store.json.put(made)
                    found.update(made)
                    self._new.update(names[i] for i in batch if i not in done)
                    new = [asked[i].item for i in batch if i not in done]
                    self._on_done(role, sum(len(item.token_ids) for item in new))
                    bar.update(len(new))

                self._backend.gradient_norms(
                    model, [each.item for each in asked], [each.mask for each in asked], on_done=keep, done=done
                )
        return [found[key] for key in keys]

    def asked(self, model: Role, sequences: Sequence[Counted]) -> Amount:
        """How much was asked of a model by `of`, and how much of it was computed for it."""
        distinct = {
            key: len(each.item.token_ids) for key, each in zip(self._keys(model, sequences), sequences, strict=True)
        }
        new = sum(tokens for key, tokens in distinct.items() if key in self._new)
        return Amount(len(distinct), sum(distinct.values()), new)

    def stock(self, model: Role, sequences: Sequence[Counted]) -> Stock:
        """What the plan counts."""
        keys = self._keys(model, sequences)
        distinct = {key: len(each.item.token_ids) for key, each in zip(keys, sequences, strict=True)}
        found = self._store.json.get(distinct)
        missing = sum(tokens for key, tokens in distinct.items() if key not in found)
        return Stock(sum(key in found for key in keys), missing)

    def _keys(self, model: Role, sequences: Sequence[Counted]) -> list[str]:
        name_of = self._store.keys("gradients", "input", model=self._backend.identity(model))
        keys = []
        for each in sequences:
            mask = "null" if each.mask is None else f'"{"".join("01"[flag] for flag in each.mask.tolist())}"'
            keys.append(name_of(f"[{as_json(each.item, self._decimals)},{mask}]"))
        return keys
