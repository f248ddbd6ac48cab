"""What the requested attacks need together, and whether the backend can give it."""

from __future__ import annotations

from collections.abc import Mapping

from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import BackendFeatures
from spvmia_plugin.signals import Need, Role, View


def union_of_needs(attacks: Mapping[str, Attack]) -> dict[tuple[Role, View], bool]:
    """(role, view) -> whether moments are needed, over all attacks: each is computed once."""
    union: dict[tuple[Role, View], bool] = {}
    for attack in attacks.values():
        for need in attack.needs:
            key = (need.role, need.view)
            union[key] = union.get(key, False) or need.moments
    return union


def check_features(attacks: Mapping[str, Attack], config: AuditConfig, features: BackendFeatures, name: str) -> None:
    """Refuse, before any work, attacks the backend cannot serve.

    Raises:
        SpvmiaError: names the attacks that cannot run and those that can.
    """
    unable = {key for key, attack in attacks.items() if not _can_run(attack, config, features)}
    if not unable:
        return
    able = sorted(set(attacks) - unable)
    rest = f"; these can run: {', '.join(able)}" if able else ""
    raise SpvmiaError(
        f"--model: {name!r} lacks what these attacks need, so they can't run: {', '.join(sorted(unable))}{rest}; "
        "use '--model hf' or a backend plugin that gives token log-probabilities"
    )


def _can_run(attack: Attack, config: AuditConfig, features: BackendFeatures) -> bool:
    if isinstance(attack, BlindAttack):
        return True
    needs: frozenset[Need] = attack.needs
    roles = {need.role for need in needs}
    trains = (Role.REFERENCE in roles and config.reference == "self_prompt") or (
        Role.CANDIDATE in roles and config.candidate is not None
    )
    noise = config.perturbation == "embedding" and any(need.view is View.NEIGHBOURS for need in needs)
    return (
        features.logprobs
        and (features.moments or not any(need.moments for need in needs))
        and (features.embeddings or not noise)
        and ((features.train and features.generate) or not trains)
    )


def reference_role(attack: Attack) -> Role | None:
    """The model the attack calibrates with, if any."""
    roles = {need.role for need in attack.needs}
    return next((role for role in (Role.REFERENCE, Role.CANDIDATE, Role.BASE) if role in roles), None)
