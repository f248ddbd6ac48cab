"""Paraphrases through the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature

from spvmia_plugin.boundary import Quotes, is_foreign
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.progress import progress_bar
from spvmia_plugin.protocols import Backend, Neighbours, Perturbation
from spvmia_plugin.records import Document, Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store import Store


def paraphrase(
    records: Sequence[Record],
    perturbation: Perturbation,
    backend: Backend,
    store: Store,
    config: AuditConfig,
    *,
    quiet: bool = False,
) -> dict[str, Neighbours]:
    """The paraphrases of every record, by record id; found in the store or made and kept as they come."""
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
                bar.update(len(made.keys() - result.keys()))
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


def describe(neighbours: Mapping[str, Neighbours], perturbation: Perturbation) -> dict[str, object]:
    """What was made, JSON-ready: kind, counts, achieved mask rate."""
    rates = [n.mask_rate for n in neighbours.values() if not math.isnan(n.mask_rate)]
    return {
        "kind": perturbation.name,
        **perturbation.settings(),
        "records": len(neighbours),
        "records_without": sum(not n.variants for n in neighbours.values()),
        "texts": sum(len(n.variants) for n in neighbours.values()),
        "mask_rate": sum(rates) / len(rates) if rates else None,
    }
