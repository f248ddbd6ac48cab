"""Paraphrases through the store."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend, Neighbours, Perturbation
from spvmia_plugin.records import Document, Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store import Store
from spvmia_plugin.util.boundary import Quotes, is_foreign
from spvmia_plugin.util.console import progress_bar


def paraphrase(
    records: Sequence[Record],
    perturbation: Perturbation,
    backend: Backend,
    store: Store,
    config: AuditConfig,
    *,
    quiet: bool = False,
    on_made: Callable[[int], None] = lambda count: None,
) -> dict[str, Neighbours]:
    """The paraphrases of every record, by record id; found in the store or made and kept as they come.

    `on_made` is told of how many records they were just made.
    """
    keys = paraphrase_keys(records, perturbation, backend, store, config)
    result = stored_paraphrases(keys, store)
    if len(result) < len(records):
        asked, done = list(records), {i for i, record in enumerate(records) if record.id in result}
        options: dict[str, object] = {"done": done}
        if "done" not in signature(perturbation.neighbours).parameters:
            asked, options = [record for record in records if record.id not in result], {}
        with progress_bar(
            desc="paraphrasing", total=len(records), unit=" records", initial=len(result), quiet=quiet
        ) as bar:
            quotes = Quotes(lambda: [record.text for record in records])
            foreign = is_foreign(perturbation) and not config.log_text

            def checked(found: Neighbours) -> Neighbours:
                return replace(found, reason=quotes.without(found.reason)) if foreign else found

            def keep(batch: Mapping[int, Neighbours]) -> None:
                made = {asked[i].id: checked(found) for i, found in batch.items()}
                store.neighbours.put({keys[record_id]: found for record_id, found in made.items()})
                new = len(made.keys() - result.keys())
                bar.update(new)
                if new:
                    on_made(new)
                result.update(made)

            texts = [Document(record.id, record.text) for record in asked]
            answer = perturbation.neighbours(texts, backend, on_done=keep, **options)  # type: ignore[arg-type]
            keep({i: found for i, found in enumerate(answer) if found is not None and asked[i].id not in result})
    return {record.id: result[record.id] for record in records}


def stored_paraphrases(keys: Mapping[str, str], store: Store) -> dict[str, Neighbours]:
    """Those that the store holds, by record id; `keys` as from `paraphrase_keys`."""
    stored = store.neighbours.get(list(keys.values()))
    return {record_id: stored[key] for record_id, key in keys.items() if key in stored}


def paraphrase_keys(
    records: Sequence[Record], perturbation: Perturbation, backend: Backend, store: Store, config: AuditConfig
) -> dict[str, str]:
    """Store keys by record id: the text, the settings, and the models that make the paraphrases."""
    models = {role.value: backend.identity(role) for role in roles_of(perturbation)}
    settings = {
        "name": perturbation.name,
        "settings": perturbation.settings(),
        "seed": config.seed,
        "models": models,
        # In which context the models read a text.
        "context": [backend.max_length, config.prefix] if models else None,
    }
    return {
        record.id: store.key("neighbours", id=record.id, text=store.text_hash(record.text), **settings)
        for record in records
    }


def roles_of(perturbation: Perturbation) -> tuple[Role, ...]:
    """The models a perturbation asks. One that does not say may ask any: its paraphrases are kept for these alone."""
    return getattr(perturbation, "roles", (Role.BASE, Role.TARGET))


class Tally:
    """Counts paraphrases as they are made, for the record of the stage.

    Args:
        perturbation: makes them.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self._perturbation = perturbation
        self._variants = array("q")  # of each record
        self._rates = array("d")

    def add(self, neighbours: Iterable[Neighbours]) -> None:
        """Count some records' paraphrases."""
        for found in neighbours:
            self._variants.append(len(found.variants))
            if not math.isnan(found.mask_rate):
                self._rates.append(found.mask_rate)

    def to_json(self) -> dict[str, object]:
        """What was made, JSON-ready: kind, counts, achieved mask rate."""
        return {
            "kind": self._perturbation.name,
            **self._perturbation.settings(),
            "records": len(self._variants),
            "records_without": sum(not count for count in self._variants),
            "texts": sum(self._variants),
            "mask_rate": sum(self._rates) / len(self._rates) if self._rates else None,
        }
