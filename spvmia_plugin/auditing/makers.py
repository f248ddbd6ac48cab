"""Whose code an audit ran besides ours: numbers depend on the versions of these distributions."""

from __future__ import annotations

from collections.abc import Iterable

from spvmia_plugin.auditing.counting import is_ours
from spvmia_plugin.plugins import Registry

UNKNOWN = "unknown"
"""The version of a plugin that was registered by hand, and comes from no distribution."""


def to_correct(makers: Iterable[str]) -> str:
    """What to do about what plugins handed over, with the names of those that may have."""
    return f"correct the plugin ({' or '.join(maker for maker in makers if not is_ours(maker))})"


def taking_part(
    registry: Registry,
    attacks: Iterable[str],
    backend: str,
    *,
    data: str = "",
    perturbation: str | None,
    is_calibrated: bool,
) -> dict[str, str]:
    """Versions of other people's distributions that take part in an audit, by their names.

    Args:
        registry: who registered what.
        attacks: names of those that are run.
        backend: name of the one that drives the model.
        data: "name version" of the distribution that registers the data set; empty where none does.
        perturbation: name of the one that paraphrases; None where nothing is paraphrased.
        is_calibrated: whether a reference is made: then all are asked that write its texts or train it.
    """
    makers = [registry.registered_by("attacks", name) for name in attacks]
    makers += [registry.registered_by("backends", backend), data]
    if perturbation is not None:
        makers.append(registry.registered_by("perturbations", perturbation))
    if is_calibrated:
        makers += [
            each for hook in ("spvmia_self_prompt", "spvmia_train_reference") for each in registry.implementers(hook)
        ]
    found: dict[str, str] = {}
    for maker in makers:
        if maker and not is_ours(maker):
            name, _, version = maker.rpartition(" ")
            found[name or maker] = version if name else UNKNOWN
    return dict(sorted(found.items()))
