"""A plugin for spvmia-plugin: the attack `quantile` and the perturbation `word_swap`."""

from __future__ import annotations

from collections.abc import Iterable

from spvmia_example.quantile import Quantile
from spvmia_example.word_swap import WordSwap
from spvmia_plugin import hookimpl
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.protocols import Perturbation


@hookimpl
def spvmia_register_attacks() -> Iterable[type[Attack]]:
    """Add `quantile_mia_<dataset>`."""
    return [Quantile]


@hookimpl
def spvmia_register_perturbations() -> Iterable[type[Perturbation]]:
    """Add `mia_perturbation=word_swap`."""
    return [WordSwap]
