"""The attacks: frozen dataclasses, pure NumPy. `docs/attacks.md` compares them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spvmia_plugin.attacks.base import Attack

PLACES = {
    "loss": "reference_free:Loss",
    "zlib": "reference_free:Zlib",
    "lowercase": "reference_free:Lowercase",
    "min_k": "reference_free:MinK",
    "min_k_pp": "reference_free:MinKPlusPlus",
    "icp": "optimum:Icp",
    "grad_norm": "optimum:GradNorm",
    "ngram": "text_only:Ngram",
    "semantic": "text_only:Semantic",
    "neighbour": "paraphrased:Neighbour",
    "detectgpt": "paraphrased:DetectGPT",
    "lira_base": "calibrated:LiraBase",
    "lira_candidate": "calibrated:LiraCandidate",
    "ratio": "calibrated:Ratio",
    "ez": "calibrated:Ez",
    "wbc": "calibrated:Wbc",
    "premia": "preference:Premia",
    "recall": "population:Recall",
    "rmia": "population:Rmia",
    "bag_of_words": "bag_of_words:BagOfWords",
    "spv_ez": "calibrated:SpvEz",
    "spv_wbc": "calibrated:SpvWbc",
    "spv": "paraphrased:Spv",
    "surrogate": "text_only:Surrogate",
    "candidate_ez": "calibrated:CandidateEz",
    "candidate_wbc": "calibrated:CandidateWbc",
    "both_wbc": "calibrated:BothWbc",
    "lira_offline": "lira_offline:LiraOffline",
    "info_rmia": "informia:InfoRmia",
    "learned": "learned:Learned",
}
"""Where each built-in attack is defined, as `module:class` in this package: nothing is imported before it is used.

In the order of tables: reference-free, calibrated by the base, by a population, by self-prompts, by held-out documents,
by several references; learned.
"""


WHITE_BOX = frozenset({"grad_norm"})
"""Attacks that need the target's weights. Groups leave them out: they run on models of which one sees only answers."""

SAMPLED = frozenset({"ngram", "semantic"})
"""Attacks for which the target writes `mia_continuations` texts a record. Groups leave them out: that takes about as
long as all other attacks together (docs/text-only.md)."""

PAIRED = frozenset({"premia"})
"""Attacks on both answers of a preference, which score nothing else. Groups leave them out: other rows have one side.
"""
APART = WHITE_BOX | SAMPLED | PAIRED
"""Attacks that no group holds: they are named by themselves."""

GROUPED = tuple(name for name in PLACES if name not in APART)
"""The attacks of the group of each data set, `mia_<dataset>`, in the order of tables."""


@cache
def builtin_attacks() -> tuple[type[Attack], ...]:
    """The classes in `PLACES`, in its order."""
    found = (place.split(":") for place in PLACES.values())
    return tuple(getattr(import_module(f"{__name__}.{module}"), name) for module, name in found)
