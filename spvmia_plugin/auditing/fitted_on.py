"""Which models and records the weights of a shadow were fitted on: none of them is scored with these weights.

A score of what weights were fitted on tells how well they fit it, and nothing of what a model gives away.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.checks.copies import normalised
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.records import AuditData, Record
from spvmia_plugin.signals import Unscored
from spvmia_plugin.util.files import write_private
from spvmia_plugin.util.schema import Misfit, as_json, read
from spvmia_plugin.util.strict_json import strict_loads

FILE = "fitted_on.json"
"""The file beside the weights. It holds the key of its hashes, so it stays where it is; the card has none."""
FORMAT = 2
"""Of 1 the hashes were of all that a record holds: one with a list of tools beside it was another."""

OF_THE_MODEL = "the weights were fitted on these records and their labels"
OF_THE_RECORD = "the weights were fitted on this record and a label of it"


@dataclass(frozen=True)
class FittedShadow:
    """One shadow that weights were fitted on.

    Attributes:
        manifest: fingerprint of its manifest: of its records with their labels.
        key: of the hashes, in hexadecimal.
        records: `same_hash` of each record.
    """

    manifest: str
    key: str = field(repr=False)
    records: tuple[str, ...] = field(repr=False)


def same_hash(key: str, record: Record) -> str:
    """HMAC-SHA256 of what makes two records the same, in hexadecimal: all that is said, whatever white space it has.

    Roles, tools and borders of turns make no other record of it: weights have seen these words with a label.

    Args:
        key: in hexadecimal.
        record: of an audit. The `text` of a conversation may lack what stands in most of them, so it is not asked.
    """
    said = record.text if record.conversation is None else record.conversation.said()
    return hmac.digest(bytes.fromhex(key), normalised(said).encode("utf-8", "surrogatepass"), "sha256").hex()


class Barred(NamedTuple):
    """What is not scored.

    Attributes:
        records: by id, why not.
        note: the same in a sentence; also where nobody can tell. None where there is nothing to say.
    """

    records: Mapping[str, Unscored]
    note: str | None


def all_barred(attacks: Mapping[str, Attack], data: AuditData) -> dict[str, Barred]:
    """What the attacks with weights of a shadow do not score, by their key.

    Args:
        attacks: of the audit, by key.
        data: what is audited.

    Raises:
        SpvmiaError: as `barred`; or there would be no score at all.
    """
    found = {
        name: barred(attack, data)
        for name, attack in attacks.items()
        if isinstance(attack, Learned) and attack.shadow is not None
    }
    if found and len(found) == len(attacks) and all(len(each.records) == len(data.records) for each in found.values()):
        raise SpvmiaError(
            "mia_shadow: expected weights that were fitted on other models and records than the audited ones, got "
            "some that were fitted on every audited record and its label; leave it out, or audit another model"
        )
    return found


def barred(attack: Learned, data: AuditData) -> Barred:
    """The records of an audit that the weights of a shadow were fitted on.

    All of them, where the audited model is one of the shadows or has the records and labels of one; else those that say
    what one of theirs says. Blocks that were cut at other places are not recognised.

    Args:
        attack: with weights of a shadow.
        data: what is audited.

    Raises:
        SpvmiaError: the file beside the weights cannot be read, or belongs to others.
    """
    own = data.provenance.get("manifest_fingerprint")
    if own is not None and own in attack.fitted_on:
        return Barred(
            {record.id: Unscored(OF_THE_MODEL) for record in data.records},
            "learned: its weights were fitted on the audited model's own records and labels, so no record is scored "
            "with them; audit another model with these weights, or leave mia_shadow out",
        )
    path = Path(str(attack.shadow)).expanduser() / FILE
    shadows = _read(path, attack.fitted_on) if path.is_file() else None
    if shadows is None:
        return Barred(
            {},
            f"learned: there is no {FILE} beside the weights, so whether audited records are among those that they "
            "were fitted on is not known; give mia_shadow the whole folder that 'spvmia shadow' made",
        )
    found = {
        record.id: Unscored(OF_THE_RECORD)
        for record in data.records
        if any(same_hash(shadow.key, record) in hashes for shadow, hashes in shadows)
    }
    note = (
        f"learned: {len(found)} of {len(data.records)} records are among those that its weights were fitted on, and "
        "are not scored with them"
    )
    return Barred(found, note if found else None)


def write_fitted_on(folder: Path, shadows: Sequence[FittedShadow]) -> None:
    """Write the file beside the weights, for its owner alone.

    Raises:
        OSError: it cannot be written.
    """
    told = {"format": FORMAT, "shadows": [as_json(shadow) for shadow in shadows]}
    write_private(folder / FILE, (json.dumps(told, indent=1) + "\n").encode())


def _read(path: Path, manifests: Sequence[str]) -> list[tuple[FittedShadow, frozenset[str]]]:
    try:
        given = read(Mapping, strict_loads(path.read_bytes()), "the file")
        if given.get("format") != FORMAT:
            raise Misfit(f"format {given.get('format')!r:.20}, where this version has {FORMAT}")
        shadows: tuple[FittedShadow, ...] = read(tuple[FittedShadow, ...], given.get("shadows"), "shadows")
        for shadow in shadows:
            bytes.fromhex(shadow.key)
        if sorted(shadow.manifest for shadow in shadows) != sorted(manifests):
            raise Misfit("it belongs to other weights than those beside it")
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, Misfit) else reason_of(error)
        raise SpvmiaError(
            f"mia_shadow: expected in {path} what the weights were fitted on, got a file that cannot be used "
            f"({problem}); give the same 'spvmia shadow' command again, which writes both anew"
        ) from error
    return [(shadow, frozenset(shadow.records)) for shadow in shadows]
