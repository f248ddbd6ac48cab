"""What is to be made: shadows by the target's recipe, on documents of their own, audited as the target will be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spvmia_plugin.auditing.plan import GENERATION_FACTOR, TRAINING_FACTOR, duration
from spvmia_plugin.auditing.shadowed import audit_settings, rows_of
from spvmia_plugin.config import NO_CANDIDATE, PREFIX, AuditConfig
from spvmia_plugin.data.conversations import TEXT, load
from spvmia_plugin.data.fingerprint import derived_key, fingerprint, held_by, user_key
from spvmia_plugin.data.manifest import Manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.sources import Loaded, source_name
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import Registry
from spvmia_plugin.records import Document, clusters_called
from spvmia_plugin.shadow.fitting import FOLDS
from spvmia_plugin.training.finetune import Say, belonging_of, read_pool
from spvmia_plugin.training.shadow import (
    CLASSES,
    LEAST,
    Share,
    Untouched,
    recipe,
    shadow_config,
    share_out,
    untouched,
)
from spvmia_plugin.util.files import user_cache

MOST_SHADOWS = 64
FULL = "full"
"""The view of an interface that gives everything (`mia_api_view`)."""
_OF_THE_DATA = (
    *("members", "nonmembers", "prompts", "manifest", "split", "block_size", "text_column", "format"),
    *("loss_on", "chat_template", "record_tokens", "base_model", "shadow", "unit_column"),
)
"""Options of an audit that a shadow has from its own manifest."""


@dataclass(frozen=True)
class ShadowConfig:
    """The options of `spvmia shadow`.

    Attributes:
        target: folder of the fine-tuned target, with its manifest.
        output: folder for the shadows and the weights.
        data: where their documents are, as for `spvmia finetune`; None for the target's own source.
        shadows: how many.
        metadata: `mia_*` options that the target will be audited with.
        device: as in lm_eval's `--device`.
        trust_remote_code: run the code that the base brings.

    Raises:
        SpvmiaError: an option out of range, or one of the audit that a shadow has from its own manifest.
    """

    target: Path
    output: Path
    data: str | None = None
    shadows: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cuda:0"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.shadows <= MOST_SHADOWS:
            raise SpvmiaError(
                f"--shadows: expected a whole number >= 1 and <= {MOST_SHADOWS}, got {self.shadows}; correct it"
            )
        if (view := self.metadata.get("mia_api_view")) not in (None, FULL):
            raise SpvmiaError(
                f"--metadata: expected {FULL!r} as mia_api_view, got {view!r:.40}: weights are fitted on what nothing "
                "less gives, moments of the log-probabilities; leave it out"
            )
        for name in _OF_THE_DATA:
            if PREFIX + name in self.metadata:
                raise SpvmiaError(
                    f"--metadata: expected options of the audit that shadow and target share, got {PREFIX}{name}: "
                    "a shadow has that from --data and from the target's recipe; leave it out"
                )


@dataclass(frozen=True)
class ShadowPlan:
    """What is to be made.

    Attributes:
        manifest: of the target.
        data: where the documents are.
        settings: of the audits.
        found: the documents there are, beside the target's.
        shares: what each shadow is made of.
        rows: `auditing.shadowed.rows_of` their records.
        candidate: the documents of `mia_candidate`, empty without any.
    """

    manifest: Manifest
    data: str
    settings: AuditConfig
    found: Untouched
    shares: Sequence[Share]
    rows: Mapping[str, Any]
    candidate: Sequence[Document] = ()

    @classmethod
    def of(
        cls,
        config: ShadowConfig,
        manifest: Manifest,
        registry: Registry,
        template: Path | None,
        say: Say,
        keep: list[Loaded],
    ) -> ShadowPlan:
        """Read the data and deal the documents out. No weights are read.

        Args:
            config: what was asked for.
            manifest: of the target.
            registry: named data sets, and the attacks' options.
            template: a file with the manifest's chat template, where it has one.
            say: called with what conversations were taken for.
            keep: gets what is read as soon as it is.

        Raises:
            SpvmiaError: an unknown option; the target's data or its base are not there; too few documents are, or too
                few of them in a class of a shadow.
        """
        recipe(manifest)
        settings = AuditConfig.from_metadata(config.metadata, registry.attack_options)
        for name in ("members", "nonmembers"):
            if len(manifest.records[name]) < LEAST:
                raise SpvmiaError(
                    f"--target: {manifest.path}: expected at least {LEAST} {name}, got {len(manifest.records[name])}: "
                    "a shadow is as large as its target, and fewer records say too little; fine-tune the target on more"
                )
        data = config.data or settings.dataset_path or manifest.data.spec
        sizes = {name: len(manifest.records[name]) for name in CLASSES}
        everything = Share(manifest.data.seed, frozenset(), sizes)
        recipe_of_all = shadow_config(manifest, data, everything, config.output, template, config.trust_remote_code)
        belonging = belonging_of(recipe_of_all, registry.datasets)
        _, documents = rebuild(manifest, registry.datasets, settings.dataset_path, belonging)
        used = [document for of_class in documents.values() for document in of_class]
        candidate: Sequence[Document] = ()
        if settings.candidate not in (None, NO_CANDIDATE):
            candidate = load(str(settings.candidate), settings, "mia_candidate").documents
            used += candidate
        pool = read_pool(recipe_of_all, say, registry.datasets, keep)
        named = registry.datasets.get(manifest.data.spec)
        stands_in = named is not None and data == settings.dataset_path
        found = untouched(pool.loaded.documents, used, clean=named.clean if named and stands_in else str)
        renderer = pool.format.renderer(pool.base.tokenizer)
        rows = rows_of(pool.format.name, pool.format.block_size, None if renderer is None else renderer.identity())
        shares = share_out(pool, found, sizes, config.shadows, manifest.data.seed)
        _check_clusters(shares, clusters_called(have_units=any(each.unit is not None for each in found.documents)))
        return cls(manifest, data, settings, found, shares, rows, candidate)

    def identity(self) -> dict[str, Any]:
        """All that makes the shadows what they are, but how many; through JSON, as it is compared with a file's.

        The documents are told by a keyed hash: a file that has changed deals others. Folders of before tell those of
        conversations by what is said alone, and have no `told_by`.
        """
        key = derived_key(user_key(user_cache()), "shadow")
        told = {
            "target": self.manifest.fingerprint,
            "base_model": self.manifest.base_model,
            "recipe": recipe(self.manifest),
            "data": {**self.manifest.data.to_json(), "spec": self.data, "template": self.manifest.data.template},
            "documents": fingerprint(key, (("document", held_by(document)) for document in self.found.documents)),
            "audit": {**audit_settings(self.settings), **self._where_it_counts()},
            "records": dict(self.shares[0].sizes),
        }
        if self.manifest.data.format != TEXT:
            told["told_by"] = "all that they hold"
        if self.candidate:
            told["candidate"] = fingerprint(key, (("candidate", held_by(document)) for document in self.candidate))
        found: dict[str, Any] = json.loads(json.dumps(told))
        return found

    def _where_it_counts(self) -> dict[str, Any]:
        """Further options that change what an audit sees, where they do: folders of before know nothing of them."""
        most = max(self.shares[0].sizes[name] for name in ("members", "nonmembers"))
        told = {"mia_max_samples": self.settings.max_samples} if self.settings.max_samples < most else {}
        return {**told, **({"mia_seed": self.settings.seed} if self.settings.seed else {})}

    def card_settings(self) -> dict[str, Any]:
        """What of it stands in the card of the weights, which may leave this machine: no path."""
        told = self.identity()
        base, data = Path(self.manifest.base_model), told["data"]
        data = {name: data[name] for name in data.keys() - {"spec", "template"}}
        return {
            **{name: told[name] for name in ("target", "recipe", "audit", "records")},
            "base_model": base.name if base.is_absolute() else self.manifest.base_model,
            "data": {**data, "source": source_name(self.data)},
            "rows": dict(self.rows),
        }

    def seconds(self) -> float | None:
        """About how long a shadow takes on a machine like the target's; None where the target's manifest tells nothing.

        A token of training costs there what it cost then, and one that is scored or written a share of that.
        """
        training = self.manifest.training
        seconds, tokens = training.get("seconds"), training.get("tokens")
        if not isinstance(seconds, (int, float)) or not isinstance(tokens, int) or not seconds or not tokens:
            return None
        sizes, settings = self.shares[0].sizes, self.settings
        epochs = float(str(self.manifest.settings["epochs"]))
        trained = len(self.manifest.records["members"]) + sum(
            record.is_member for record in self.manifest.records["canaries"]
        )
        length = tokens / (trained * epochs)  # of a record
        # As many references on self-prompts as are asked for, and as many on held-out documents, or none of these.
        trained_on = settings.references * (1 if settings.candidate == NO_CANDIDATE else 2)
        own = sizes["members"] * epochs + trained_on * settings.self_prompts * settings.reference_epochs
        written = settings.references * settings.self_prompts * GENERATION_FACTOR / TRAINING_FACTOR
        scored = (sizes["members"] + sizes["nonmembers"]) * (2 + trained_on) / TRAINING_FACTOR
        return seconds / tokens * length * (own + written + scored)

    def told(self) -> list[str]:
        """The plan as people read it."""
        sizes, manifest = self.shares[0].sizes, self.manifest
        unit = f"records of {manifest.data.block_size} tokens" if manifest.data.block_size else "documents"
        full = all(sizes[name] == len(manifest.records[name]) for name in CLASSES)
        lines = [
            f"plan: {len(self.shares)} {'shadow' if len(self.shares) == 1 else 'shadows'} by the target's recipe "
            f"({manifest.method}, {manifest.settings['epochs']:g} epochs, rate {manifest.settings['lr']:g}) on "
            f"{source_name(self.data)}: {sizes['members']} members, {sizes['nonmembers']} non-members and "
            f"{sizes['prompts']} prompts each, {unit}"
            + (
                "" if full else f"; the target has {len(manifest.records['members'])} members, and no more text is left"
            ),
            f"documents: {len(self.found.documents)} that the target's records do not hold; left out: "
            f"{self.found.told()}",
        ]
        seconds = self.seconds()
        return [
            *lines,
            "estimate: told by each step before it begins"
            if seconds is None
            else f"estimate: about {duration(seconds * len(self.shares))}, if this machine is as fast as the one that "
            "trained the target",
        ]


def _check_clusters(shares: Sequence[Share], called: str) -> None:
    """Make sure that folds can be made of what each shadow is dealt, before it is trained.

    Args:
        shares: of the shadows.
        called: what their clusters are.

    Raises:
        SpvmiaError: they cannot.
    """
    for number, share in enumerate(shares, 1):
        for name, count in share.clusters.items():
            if count < FOLDS:
                raise SpvmiaError(
                    f"--data: expected {name} of at least {FOLDS} {called}, which folds can be made of, got "
                    f"{share.sizes[name]} records of {count} in shadow {number}; name data of shorter {called}, or "
                    "fine-tune the target on more or longer records"
                )
