"""What a shadow is made of: the recipe of a target, on documents that the target's records do not hold.

A shadow model (Shokri et al. 2017, arXiv 1610.05820) is fine-tuned as the target was, on other records, so that who is
a member is known of it, and a score can be fitted on it that no label of the target has touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from spvmia_plugin.checks.copies import near_copies, normalised
from spvmia_plugin.data.manifest import Manifest
from spvmia_plugin.data.sources import source_name
from spvmia_plugin.data.split import MIN_RECORDS, deal, in_units
from spvmia_plugin.data.units import units_of, without_units
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import Pool

LEAST = 50
"""Records of a class: fewer say little about hundreds of weights."""
CLASSES = ("members", "nonmembers", "prompts")
_LEAST = {"members": LEAST, "nonmembers": LEAST, "prompts": MIN_RECORDS}
_NOT_OF_THE_RECIPE = ("members", "nonmembers", "prompts", "canaries", "canary_kind", "seed", "text_column")
_SMALLER = 0.97
_SPARE_DOCUMENTS = 8


def recipe(manifest: Manifest, option: str = "--target") -> dict[str, Any]:
    """The options of `spvmia finetune` that made a target, by field: all but its base, its data and what was dealt.

    Args:
        manifest: of the target.
        option: what named it, for errors.

    Raises:
        SpvmiaError: the manifest does not say how the target was fine-tuned, or not by `spvmia finetune`.
    """
    left_out = {"model", "data", "output", "quiet", "trust_remote_code", *_NOT_OF_THE_RECIPE}
    left_out |= {"format", "loss_on", "chat_template", "record_tokens"}  # with the data
    left_out |= {"unit_column"} - manifest.settings.keys()  # there where units were dealt out
    names = [each.name for each in fields(FinetuneConfig) if each.name not in left_out]
    if missing := [name for name in names if name not in manifest.settings]:
        raise SpvmiaError(
            f"{option}: {manifest.path}: expected the settings of a fine-tuning, got none of {', '.join(missing)}; a "
            "shadow is made by the recipe of a target that 'spvmia finetune' made"
        )
    found = {name: manifest.settings[name] for name in names}
    try:
        FinetuneConfig(model="", data="", output="", **found)  # type: ignore[arg-type]  # which checks them
    except SpvmiaError as error:
        raise SpvmiaError(
            f"{option}: {manifest.path}: expected a recipe of 'spvmia finetune', got one it refuses ({error.code}); "
            "name a target that it made"
        ) from error
    return found


@dataclass(frozen=True)
class Untouched:
    """Documents that a target's records do not hold.

    Attributes:
        documents: in the order of their source, without equal texts.
        repeated: documents left out because another has their text.
        same: because one of the target's has it.
        near: because they are near copies of one of the target's.
        units: because one of the target's belongs to the same unit.
    """

    documents: tuple[Document, ...]
    repeated: int
    same: int
    near: int
    units: int = 0

    def told(self) -> str:
        """What was left out, in words; of units where there are some."""
        of_units = f"{self.units} of units that the target's records belong to, " if self.units else ""
        others = f"{self.near} near copies of those, {self.repeated} repeats"
        return f"{of_units}{self.same} that the target's records hold, {others}"


def untouched(documents: Sequence[Document], used: Sequence[Document], clean: Callable[[str], str] = str) -> Untouched:
    """Leave out every document that a target's records were cut from, all others of its unit, copies and near copies.

    Args:
        documents: to choose from.
        used: documents of the target: of its members, non-members, prompts and canaries.
        clean: what was done to the texts of `used` as they were read, where `documents` are a file that stands in.
    """
    others_units = without_units(documents, units_of(used))
    first: dict[str, Document] = {}
    for document in others_units:
        first.setdefault(normalised(clean(document.text)), document)
    taken = {normalised(document.text): document for document in used}
    others = tuple(document for text, document in first.items() if text not in taken)
    near: set[str] = set()
    if others and taken:
        copies = near_copies(
            AuditData(
                records=tuple(Record(str(i), text, True, str(i)) for i, text in enumerate(taken)),
                prompts=others,
                candidate=(),
                membership="declared",
                fingerprint="",
                source="",
                block_size=0,
            )
        )
        ids = dict(zip(copies.prompt_texts.tolist(), (document.id for document in others), strict=True))
        found = copies.pairs(copies.prompt_texts, _texts_of_records(copies.record_text))
        near = {ids[text] for text, _ in found}
    return Untouched(
        tuple(document for document in others if document.id not in near),
        repeated=len(others_units) - len(first),
        same=len(first) - len(others),
        near=len(near),
        units=len(documents) - len(others_units),
    )


def _texts_of_records(record_text: Mapping[str, int]) -> Any:
    import numpy as np

    return np.array(sorted(set(record_text.values())), dtype=np.int64)


@dataclass(frozen=True)
class Share:
    """What one shadow is made of.

    Attributes:
        seed: of its split and its training.
        ids: of its documents; no two shadows have one in common.
        sizes: records of each class.
        clusters: documents, or units, that the members and the non-members come from.
    """

    seed: int
    ids: frozenset[str]
    sizes: Mapping[str, int]
    clusters: Mapping[str, int] = field(default_factory=dict)

    def of(self, documents: Sequence[Document]) -> list[Document]:
        """Its documents, in the order of all."""
        return [document for document in documents if document.id in self.ids]


def share_out(pool: Pool, found: Untouched, sizes: Mapping[str, int], count: int, seed: int) -> list[Share]:
    """Give each of `count` shadows documents of its own, for as many records as the target has.

    Where there are too few, all shadows are smaller, each class in the same proportion. A shadow gets the documents
    that it would get if it were the last, so that one more leaves those before it as they are.

    Args:
        pool: how documents become records.
        found: what there is.
        sizes: records by class that the target has.
        count: of shadows.
        seed: of the target; that of a shadow is its number, from 1 on, higher.

    Raises:
        SpvmiaError: not enough for `LEAST` records of a class.
    """
    order = in_units(found.documents, seed, "shadows")
    shares = _shares(pool, order, sizes, count, seed)
    if shares is not None:
        return shares
    total = len(pool.packer.pack(order).records)
    wanted = count * sum(sizes.values())
    factor = min(1.0, total / wanted)
    while True:
        smaller = {name: min(number, int(factor * number)) for name, number in sizes.items()}
        least = {name: min(_LEAST[name], sizes[name]) if name == "prompts" else LEAST for name in sizes}
        if any(smaller[name] < least[name] for name in sizes):
            unit = f"records of {pool.format.block_size} tokens" if pool.format.block_size else "documents"
            each = "the shadow" if count == 1 else f"each of {count} shadows"
            raise SpvmiaError(
                f"--data: {source_name(pool.config.data)}: expected text for at least "
                f"{count * sum(least.values())} {unit} ({least['members']} members, {least['nonmembers']} non-members "
                f"and {least['prompts']} prompts for {each}) that the target's records do not hold, got {total} "
                f"from {len(order)} documents, with {found.told()} left out; name more data"
                + (", or lower --shadows" if count > 1 else "")
            )
        shares = _shares(pool, order, smaller, count, seed)
        if shares is not None:
            return shares
        factor *= _SMALLER


def _shares(
    pool: Pool, order: Sequence[Document], sizes: Mapping[str, int], count: int, seed: int
) -> list[Share] | None:
    """As `share_out`, of just these sizes; None if there is not enough."""
    shares: list[Share] = []
    start = 0
    for number in range(1, count + 1):
        own = seed + number
        # The order in which a share is dealt is not that in which it was taken: a block more or less may come out.
        length = pool.packer.pack(order[start:], sum(sizes.values())).used
        length += len(sizes) if pool.format.block_size else 0
        while True:
            part = order[start : start + length]
            dealt, _ = deal(part, pool.packer, sizes, own)
            if all(len(dealt[name]) == wanted for name, wanted in sizes.items()):
                break
            if start + length >= len(order):
                return None
            length += _SPARE_DOCUMENTS
        clusters = {name: len({record.cluster for record in dealt[name]}) for name in ("members", "nonmembers")}
        shares.append(Share(own, frozenset(document.id for document in part), dict(sizes), clusters))
        start += length
    return shares


def shadow_config(
    manifest: Manifest, data: str, share: Share, output: Path, template: Path | None, trust_remote_code: bool
) -> FinetuneConfig:
    """The fine-tuning of a shadow.

    Args:
        manifest: of the target.
        data: where its documents are.
        share: which, and how many records.
        output: its folder.
        template: a file with the manifest's chat template, where it has one.
        trust_remote_code: run the code that the base brings.
    """
    origin = manifest.data
    of_conversations: dict[str, Any] = {}
    if origin.format != "text":
        of_conversations = {"loss_on": origin.loss_on, "record_tokens": origin.record_tokens}
        of_conversations["chat_template"] = None if template is None else str(template)
    return FinetuneConfig(
        model=manifest.base_model,
        data=data,
        output=output,
        **{**recipe(manifest), "block_size": None if origin.format != "text" else origin.block_size},
        **share.sizes,  # type: ignore[arg-type]
        **of_conversations,
        format=origin.format,
        text_column=origin.column,
        seed=share.seed,
        trust_remote_code=trust_remote_code,
    )
