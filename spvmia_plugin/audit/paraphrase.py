"""Paraphrases through the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.progress import progress_bar
from spvmia_plugin.protocols import Backend, Neighbours, Perturbation
from spvmia_plugin.records import Document, Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store import Store


def paraphrase(
    records: Sequence[Record], perturbation: Perturbation, backend: Backend, store: Store, config: AuditConfig
) -> dict[str, Neighbours]:
    """The paraphrases of every record, by record id; found in the store or made and kept as they come."""
    keys = paraphrase_keys(records, perturbation, backend, store, config)
    stored = store.neighbours.get(list(keys.values()))
    missing = [record for record in records if keys[record.id] not in stored]
    result = {record.id: stored[keys[record.id]] for record in records if keys[record.id] in stored}
    if missing:
        with progress_bar(desc="paraphrasing", total=len(records), unit=" records", initial=len(result)) as bar:

            def keep(batch: Mapping[int, Neighbours]) -> None:
                store.neighbours.put({keys[missing[i].id]: found for i, found in batch.items()})
                bar.update(len(batch))

            made = perturbation.neighbours([Document(r.id, r.text) for r in missing], backend, on_done=keep)
        result |= {record.id: found for record, found in zip(missing, made, strict=True)}
        store.neighbours.put({keys[record.id]: result[record.id] for record in missing})
    return result


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
        "max_length": backend.max_length if models else None,
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
