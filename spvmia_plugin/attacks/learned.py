"""A small learned score: frozen weights of pooled features, ranked among the audited records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import INFINITE, AuditAttack
from spvmia_plugin.attacks.pooled import COLUMN, FEATURE_NAMES, NOT_FINITE, Floats, blocks_there, features_of
from spvmia_plugin.attacks.weights import FILE, VARIANTS, Weights, read_weights, shipped
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, Unscored
from spvmia_plugin.util.files import path_problem

LEAST_RECORDS = 20
"""With fewer records to be set against each other, nobody knows what is ordinary among them."""
TOO_FEW = f"fewer than {LEAST_RECORDS} records to be set against each other"

_CALLED = {"reference": "reference", "candidate": "candidate reference"}


@dataclass(frozen=True)
class Learned(AuditAttack):
    """score = w . z: weights w of pooled features of the tokens, z their ranks among the audited records.

    Features as in `pooled.py`: means, shares and quantiles of the differences between target, base, self-prompted
    reference and candidate reference. After LT-MIA, arXiv 2604.03199, which learns one attack that carries over to
    models and data it never saw; the windows are those of WBC (arXiv 2601.02751), the calibration that of Fu et al.
    2024 (arXiv 2311.06062).

    Which one this is: a linear score on what is pooled over tokens, not a transformer over them; two references beside
    the base, which is the only one there. No label of the target is used: the weights come from other models
    (`docs/learned.md`), and a feature counts by its rank among all audited records, members and not: no record that is
    odd in many features at once outruns all others, which at a low false positive rate is what counts. That assumes a
    share of members like that of the audits which the weights are of, about half. 0 is an ordinary record of this
    audit, and scores of two audits are not on one scale.

    Attributes:
        shadow: a folder that `spvmia shadow` made, whose weights replace those of this package.
    """

    name = "learned"
    title = "Learned"
    about = "a weighted sum of many signals of the tokens, with weights learned on an audit of another model"
    options = {"shadow": "mia_shadow"}  # noqa: RUF012 - ClassVar in the base

    shadow: str | None = None

    def __post_init__(self) -> None:
        if self.shadow is not None:
            is_text = isinstance(self.shadow, str) and bool(self.shadow.strip())
            problem = path_problem(self.shadow, utf8=True) if is_text else f"{self.shadow!r:.80}"
            if problem is not None:
                raise SpvmiaError(
                    f"mia_shadow: expected a folder that 'spvmia shadow' made, got {problem}; the default is none"
                )
        _ = self.weights  # what cannot be read is refused before long work

    @cached_property
    def weights(self) -> Weights:
        """The weights of the shadow, or those of this package."""
        return shipped() if self.shadow is None else read_weights(Path(self.shadow).expanduser() / FILE)

    @property
    def fitted_on(self) -> tuple[str, ...]:
        """Fingerprints of the shadows' manifests, where the weights' card names them."""
        named = self.weights.card.settings.get("shadows")
        return tuple(map(str, named)) if isinstance(named, list | tuple) else ()

    @property
    def needs(self) -> frozenset[Need]:
        """The record under all four models."""
        return frozenset({Need(Role.TARGET, moments=True), *map(Need, (Role.BASE, Role.REFERENCE, Role.CANDIDATE))})

    @property
    def feature_names(self) -> tuple[str, ...]:
        """All features that any variant uses."""
        return FEATURE_NAMES

    def features(self, signals: RecordSignals) -> Floats:
        """(F,) features, NaN for those of a reference that is not there."""
        (found,) = features_of([signals])
        if isinstance(found, Unscored):
            raise MissingSignal(found.reason)
        return found

    def rows(self, records: Sequence[RecordSignals]) -> list[NDArray[np.float32] | Unscored]:
        """As of each record, with records of one length pooled together."""
        with np.errstate(over="ignore"):
            found = [row if isinstance(row, Unscored) else row.astype(np.float32) for row in features_of(records)]
        return [row if isinstance(row, Unscored) or not np.isinf(row).any() else Unscored(INFINITE) for row in found]

    def variant(self, table: NDArray[np.float32]) -> str | None:
        """Which of the weights fit the models that the records of an audit have; None if none of them do."""
        blocks = blocks_there(table)
        return next((name for name in self._variants if blocks.issuperset(VARIANTS[name])), None)

    def score_audit(self, table: NDArray[np.float32]) -> list[float | Unscored]:
        """The weighted sum of each record's standardised features."""
        name = self.variant(table)
        if name is None:
            return [Unscored(f"the weights are for other models: {', '.join(self._variants)}")] * len(table)
        of_variant = self.weights.variants[name]
        able = np.ones(len(table), dtype=bool)
        for feature in of_variant.names:
            able &= np.isfinite(table[:, COLUMN[feature]])
        found: list[float | Unscored] = [Unscored(TOO_FEW if is_able else NOT_FINITE) for is_able in able]
        for block, called in _CALLED.items():
            if block not in VARIANTS[name]:
                continue
            for row in np.flatnonzero(np.isnan(table[:, COLUMN[f"{block}.mean"]])):
                found[row] = Unscored(f"no signals of the {called}, which other records have")
        rows = np.flatnonzero(able)
        if len(rows) >= LEAST_RECORDS:
            scores = np.zeros(len(rows))
            # Column by column: a product of matrices would round by where a row stands.
            for feature, weight in zip(of_variant.names, of_variant.weights, strict=True):
                scores += weight * standardised(table[rows, COLUMN[feature]])
            for row, score in zip(rows, scores, strict=True):
                found[row] = float(score)
        return found

    def told(self, table: NDArray[np.float32]) -> Mapping[str, object]:
        """Which weights, the variant that was chosen, and the shadows that the weights were fitted on."""
        return {
            "weights": "shipped" if self.shadow is None else "shadow",
            "digest": self.weights.digest,
            "variant": self.variant(table),
            "card": self.weights.card.summary,
            **({"fitted_on": list(self.fitted_on)} if self.fitted_on else {}),
        }

    @property
    def _variants(self) -> list[str]:
        return [name for name in VARIANTS if name in self.weights.variants]


def standardised(column: NDArray[np.floating]) -> Floats:
    """(n,) where a feature of each record ranks among those of all records of the audit, from -sqrt(3) to sqrt(3).

    Ranks, evenly spread, have mean 0 and deviation 1 if no two values are alike; equal values have the mean of their
    ranks, so what does not vary is 0 throughout. The order of the records changes no bit.
    """
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # of the ranks of each value
    ranks: Floats = (middle[place] / len(column) - 0.5) * np.sqrt(12)
    return ranks
