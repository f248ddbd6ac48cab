"""What the requested attacks need together, which model plays each role, and whether the backend can give it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from spvmia_plugin.attacks.base import Attack, BlindAttack, check_needs
from spvmia_plugin.config import AuditConfig, SelfPrompt
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, BackendFeatures
from spvmia_plugin.records import AuditData
from spvmia_plugin.signals import WRITTEN, Role, View

SELF_PROMPT, BASE_AS_REFERENCE = "self_prompt", "base"
"""Values of `mia_reference` that are no path."""

_KINDS = {
    Role.TARGET: "target",
    Role.BASE: "base",
    Role.REFERENCE: "reference",
    Role.CANDIDATE: "candidate reference",
}
CALLED = {role: _KINDS[role.kind] if role.nth == 1 else f"{_KINDS[role.kind]} {role.nth}" for role in Role}
"""What people are told of."""

GIVEN = {
    "labels": "labelled records",
    "base": "the base",
    "paraphraser": "a way to paraphrase",
    "prompts": "beginnings of such records",
    "sampling": "texts that the target writes",
    "embedding": "an embedding model",
    "reference": "a reference model",
    "held_out": "held-out records",
    "fitted": "weights fitted on other models",
    "shadow": "a shadow model",
    "weights": "the target's weights",
}
"""What an attack may be given besides the record and the target's log-probabilities of it, in words."""


TEXT_ONLY = ("ngram", "semantic", "surrogate", "bag_of_words")
"""Attacks that need no log-probability of the target, as errors offer them."""


def build_order(role: Role) -> tuple[bool, int]:
    """By which calibrated roles are built: references before candidates, each kind by number."""
    return role.kind is Role.CANDIDATE, role.nth


@dataclass(frozen=True)
class Player:
    """A role of an audit: which model plays it, and what is asked of it.

    Attributes:
        role: the role.
        model: the role whose model is scored: the base stands in for the reference where the user asked for that. None
            where there is nothing to make a model from.
        trained: whether the audit trains the model, or did so before.
        views: the views to score, and whether with moments.
    """

    role: Role
    model: Role | None
    trained: bool
    views: Mapping[View, bool]

    @property
    def is_calibrated(self) -> bool:
        """Whether a model is put behind the role: trained, or loaded from where the user says."""
        return self.model is self.role and self.role.kind in (Role.REFERENCE, Role.CANDIDATE)


def cast(attacks: Iterable[Attack], config: AuditConfig, data: AuditData) -> dict[Role, Player]:
    """The roles that the attacks need, each with all its views: what several need is computed once.

    What the audit trains has as many players as `mia_references` says, all with the same views.

    Raises:
        SpvmiaError: an attack's needs are none.
    """
    views: dict[Role, dict[View, bool]] = {}
    for attack in attacks:
        check_needs(attack)
        for need in attack.needs:
            of_role = views.setdefault(need.role, {})
            of_role[need.view] = of_role.get(need.view, False) or need.moments
    model: dict[Role, Role | None] = {role: role for role in Role}
    if config.reference == BASE_AS_REFERENCE:
        model[Role.REFERENCE] = Role.BASE
    if not data.of_candidate:
        model[Role.CANDIDATE] = None
    trained = {Role.REFERENCE: config.reference == SELF_PROMPT, Role.CANDIDATE: bool(data.of_candidate)}
    players: dict[Role, Player] = {}
    for kind in sorted(views):
        # Needs are sets: in the order of `View` instead, or batches would differ from process to process.
        asked = {view: views[kind][view] for view in View if view in views[kind]}
        is_trained = trained.get(kind, False)
        for role in kind.siblings(config.references if is_trained else 1):
            players[role] = Player(role, model[role], is_trained, asked)
    return players


def given(attack: Attack, config: AuditConfig, way: SelfPrompt | None, *, candidate: bool = True) -> tuple[str, ...]:
    """What an attacker has to have besides the record and the target's log-probabilities: keys of `GIVEN`.

    Args:
        attack: whose.
        config: of the audit.
        way: how the target was prompted for the reference; None where it was not. `whole` gives it nothing.
        candidate: whether there was a candidate reference; an attack may do without.
    """
    if isinstance(attack, BlindAttack):
        return ("labels",)
    roles, views = {need.role for need in attack.needs}, {need.view for need in attack.needs}
    roles -= set() if candidate else {Role.CANDIDATE}
    is_asked = bool(views & WRITTEN)
    from_base = Role.REFERENCE in roles and config.reference in (SELF_PROMPT, BASE_AS_REFERENCE)
    paraphrased = config.perturbation if View.NEIGHBOURS in views else None
    learnt = "shadow" in attack.config()  # of `learned`: where its weights were fitted
    own_shadow = attack.config().get("shadow") is not None
    has = {
        # `causal` paraphrases are the base's own.
        "base": from_base or bool(roles & {Role.BASE, Role.CANDIDATE}) or paraphrased == "causal",
        "paraphraser": paraphrased not in (None, "causal", "embedding"),
        "prompts": Role.REFERENCE in roles and way in ("prefix", "reply"),
        "held_out": Role.CANDIDATE in roles or bool(views & {View.PREFIXED, View.POPULATION}),
        "sampling": is_asked,
        "embedding": View.SIMILARITY in views,
        "reference": Role.REFERENCE in roles and config.reference not in (SELF_PROMPT, BASE_AS_REFERENCE),
        "fitted": learnt and not own_shadow,
        "shadow": own_shadow,
        "weights": View.GRADIENT in views or paraphrased == "embedding",  # noise on the target's own embeddings
    }
    return tuple(name for name in GIVEN if has.get(name))


def seen_of_target(attack: Attack, api_view: str) -> str:
    """What an attacker saw of the target: `nothing`, `text`, or log-probabilities as `mia_api_view` shows them."""
    of_target = {need.view for need in attack.needs if need.role is Role.TARGET}
    if of_target - WRITTEN:
        return api_view
    return "nothing" if isinstance(attack, BlindAttack) else "text"


def check_features(
    attacks: Mapping[str, Attack],
    players: Mapping[Role, Player],
    perturbation: str,
    backend: Backend,
    *,
    features_of: Callable[[Role], BackendFeatures] | None = None,
    view: str | None = None,
) -> None:
    """Refuse, before any work, attacks that cannot be served.

    Args:
        attacks: by key.
        players: of all of them.
        perturbation: `mia_perturbation`.
        backend: says what it can do with each role's model.
        features_of: what attackers can do with them instead, through `view`.
        view: the `mia_api_view` through which `features_of` looks, where that is why something is lacking.

    Raises:
        SpvmiaError: names the attacks that cannot run and those that can.
    """
    asked = features_of or backend.features_of
    lacking = {
        key: set() if isinstance(attack, BlindAttack) else _lacking(attack, players, perturbation, asked)
        for key, attack in attacks.items()
    }
    able = sorted(key for key, lacks in lacking.items() if not lacks)
    unable = sorted(attacks.keys() - set(able))
    if unable:
        rest = f"; these can run: {', '.join(able)}" if able else ""
        lacks = {name for found in lacking.values() for _, name in found}
        # What the target gives by itself was looked at before; of a view, this one alone asks it for more.
        if view is not None and view.startswith("top_k:") and "logprobs" in lacks:
            raise SpvmiaError(
                f"mia_api_view: expected a view of what backend {backend.name!r} gives, got {view}, which needs the "
                "log-probability of the K-th most probable token at each place: it has none, so these attacks can't "
                f"run: {', '.join(unable)}{rest}; set mia_api_view=rounded:D, noised:S or full, or use '--model hf'"
            )
        if view is not None:
            raise SpvmiaError(
                f"mia_api_view: expected attacks that {view} shows enough for, got {', '.join(unable)}, which need "
                f"more of the target{rest}; leave these attacks out, or set mia_api_view=full"
            )
        whys = [
            why
            for role in sorted({role for found in lacking.values() for role, _ in found})
            if (why := backend.lacks(role))
        ]
        remedy = (
            "gradients need the model's weights, in memory and not packed beyond training: leave these attacks out, or "
            "load the model so with '--model hf'"
            if lacks == {"gradients"}
            else "use '--model hf' or a backend plugin that gives token log-probabilities, or attacks that need none "
            f"of the target's: {', '.join(TEXT_ONLY)}"
        )
        raise SpvmiaError(
            f"--model: {backend.name!r} lacks what these attacks need, so they can't run: {', '.join(unable)}{rest}; "
            f"{'; '.join(whys) or remedy}"
        )


def _lacking(
    attack: Attack,
    players: Mapping[Role, Player],
    perturbation: str,
    features_of: Callable[[Role], BackendFeatures],
) -> set[tuple[Role, str]]:
    """Which of the features that an attack needs are not there, each with the role that lacks it."""
    lacks: set[tuple[Role, str]] = set()
    for need in attack.needs:
        player = players[need.role]
        model = player.model or need.role
        has = features_of(model)
        wanted = {
            "logprobs": need.view not in WRITTEN,
            "generate": need.view in WRITTEN,
            "moments": need.moments,
            "embeddings": perturbation == "embedding" and need.view is View.NEIGHBOURS,
            "gradients": need.view is View.GRADIENT,
            "train": player.trained,
        }
        lacks |= {(model, name) for name, is_wanted in wanted.items() if is_wanted and not getattr(has, name)}
        # What a reference is trained on the target writes.
        if player.trained and need.role.kind is Role.REFERENCE and not features_of(Role.TARGET).generate:
            lacks.add((Role.TARGET, "generate"))
    return lacks


def shots(attacks: Collection[Attack]) -> int:
    """How many held-out documents the ReCaLL prefix should hold: the most that an attack asks for, 0 if none does."""
    asked = (need.shots for attack in attacks for need in attack.needs if need.view is View.PREFIXED)
    return max(asked, default=0)


def probes(attacks: Collection[Attack]) -> int:
    """After how many perturbed copies of itself a record is read: the most that an attack asks for, 0 if none does."""
    asked = (need.probes for attack in attacks for need in attack.needs if need.view is View.PROBED)
    return max(asked, default=0)


def reference_role(attack: Attack) -> Role | None:
    """The model the attack calibrates with, if any."""
    roles = {need.role for need in attack.needs}
    return next((role for role in (Role.REFERENCE, Role.CANDIDATE, Role.BASE) if role in roles), None)
