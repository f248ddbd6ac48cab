"""Frozen weights of `learned`: numbers and what is known of where they come from, as JSON; nothing in it is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from spvmia_plugin.attacks.pooled import COLUMN, NAMES, VERSION
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.util.schema import Misfit, as_json, read
from spvmia_plugin.util.strict_json import strict_loads

FORMAT = 1
"""Version of the file's layout."""
FILE = "learned.json"
"""The file in a folder that `spvmia shadow` makes."""
SHIPPED = "learned_weights.json"
"""The file of this package."""

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "both": ("target", "base", "reference", "candidate", "both"),
    "candidate": ("target", "base", "candidate"),
    "reference": ("target", "base", "reference"),
    "base": ("target", "base"),
}
"""By the references that there are besides the base, the blocks of features; what is tried first stands first."""


def names_of(variant: str) -> tuple[str, ...]:
    """The features that a variant may use."""
    return tuple(name for block in VARIANTS[variant] for name in NAMES[block])


@dataclass(frozen=True)
class Variant:
    """Weights for the models that there are.

    Attributes:
        names: features, in the order of the weights.
        weights: of the standardised features.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Card:
    """What people have to know of weights before they use them.

    Attributes:
        summary: one line: fitted on what.
        audits: of each audit they were fitted on what is known of it: base, data, strength, seed, members, non-members.
        records: of all audits.
        settings: of the fit.
        control: with permuted labels, by variant.
        versions: of the libraries.
        date: of the fit.
    """

    summary: str
    audits: tuple[dict[str, Any], ...] = ()
    records: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""


@dataclass(frozen=True)
class Weights:
    """Weights by variant, and their card.

    Attributes:
        card: where they come from.
        variants: by name, as in `VARIANTS`.
        format: version of the layout.
        features: version of the features' definitions.

    Raises:
        Misfit: a variant or feature is unknown, twice there, or not one of the variant's; a weight is missing.
    """

    card: Card
    variants: Mapping[str, Variant]
    format: int = FORMAT
    features: int = VERSION

    def __post_init__(self) -> None:
        if not self.variants or (unknown := sorted(self.variants.keys() - VARIANTS.keys())):
            got = unknown[0] if self.variants else "none"
            raise Misfit(f"expected variants out of {', '.join(VARIANTS)}, got {got!r}")
        for variant, found in self.variants.items():
            if len(found.names) != len(found.weights) or not found.names:
                raise Misfit(
                    f"expected a weight for each feature of {variant}, got {len(found.weights)} for {len(found.names)}"
                )
            allowed = set(names_of(variant))
            if (foreign := next((name for name in found.names if name not in allowed), None)) is not None:
                what = "one that it has no model for" if foreign in COLUMN else "an unknown one"
                raise Misfit(f"expected features of {variant}, got {what}: {foreign[:80]!r}")
            if len(set(found.names)) < len(found.names):
                raise Misfit(f"expected each feature of {variant} once")

    @cached_property
    def digest(self) -> str:
        """Which weights these are: of the numbers and the names alone, not of the card."""
        told = {name: as_json(self.variants[name]) for name in sorted(self.variants)}
        return hashlib.sha256(json.dumps([self.features, told], sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        variants = {name: as_json(variant) for name, variant in self.variants.items()}
        return {"format": self.format, "features": self.features, "card": as_json(self.card), "variants": variants}


def read_weights(
    path: Path, option: str = "mia_shadow", remedy: str = "make them anew with 'spvmia shadow'"
) -> Weights:
    """Read weights.

    Args:
        path: of the file.
        option: that named it, for the message.
        remedy: what to do about a file that is none.

    Raises:
        SpvmiaError: there is no such file, it is not what `write_weights` writes, or is of another version.
    """
    try:
        return parse_weights(path.read_bytes())
    except OSError as error:
        problem = error.strerror or type(error).__name__
        remedy = f"correct the path, or {remedy}"
    except Misfit as misfit:
        problem = str(misfit)
    raise SpvmiaError(f"{option}: expected weights that this version reads, got {path} ({problem}); {remedy}")


def parse_weights(content: bytes) -> Weights:
    """Weights from the bytes of a file.

    Raises:
        Misfit: they are none.
    """
    try:
        given = strict_loads(content)
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, for NaN, or nested without end
        raise Misfit(f"no JSON ({reason_of(error)})") from None
    given = read(Mapping, given, "the file")
    for key, known in (("format", FORMAT), ("features", VERSION)):
        if read(int, given.get(key), key) != known:
            raise Misfit(f"{key} {given[key]}, where this version has {known}")
    variants = read(Mapping, given.get("variants"), "variants")
    card: Card = read(Card, given.get("card"), "card")
    return Weights(card, {name: read(Variant, value, f"variants.{name}") for name, value in variants.items()})


def write_weights(path: Path, weights: Weights) -> None:
    """Write weights: the same weights are the same bytes."""
    path.write_text(json.dumps(weights.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


@cache
def shipped() -> Weights:
    """The weights of this package."""
    return parse_weights((resources.files(__package__) / SHIPPED).read_bytes())
