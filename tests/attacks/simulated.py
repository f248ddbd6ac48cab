"""Audits that are drawn: tokens of a text under a base, a target that learnt some of the texts, and two references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

EVERY = (Role.TARGET, Role.BASE, Role.REFERENCE, Role.CANDIDATE)


def simulate(
    n: int,
    tokens: int | tuple[int, int] = 64,
    *,
    seed: int = 0,
    learnt: float = 0.25,
    scale: float = 1.0,
    roles: Sequence[Role] = EVERY,
    trained: bool = True,
    harder: float = 0.0,
) -> tuple[list[RecordSignals], np.ndarray]:
    """Records of an audit, every second a member, and their labels.

    Args:
        n: records.
        tokens: of each, or the least and the most.
        seed: of the draw.
        learnt: nats a token that members gain beyond what the kind of text does.
        scale: all differences to the base are multiplied by it: a target trained harder.
        roles: the models that there are.
        trained: whether members were trained on at all.
        harder: nats a token that texts of members are harder, for every model.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    records = []
    for number, is_member in enumerate(labels):
        length = tokens if isinstance(tokens, int) else int(rng.integers(*tokens))
        surprise = rng.exponential(2.5, length) + 0.05 + harder * is_member
        gain = scale * 0.3 * rng.gamma(0.5, 1.0, length) * np.sqrt(surprise)  # what the kind of text teaches
        logprob = {Role.BASE: -surprise}
        for role, share, noise in ((Role.REFERENCE, 0.7, 0.25), (Role.CANDIDATE, 0.9, 0.25)):
            logprob[role] = -surprise + share * gain + scale * rng.normal(0, noise, length)
        own = scale * learnt * (is_member and trained) * rng.gamma(1.0, 1.0, length) * np.minimum(surprise, 3) / 2
        logprob[Role.TARGET] = -surprise + gain + own + scale * rng.normal(0, 0.3, length)
        spread = 1 + rng.random(length)
        views = {}
        for role in roles:
            values = np.minimum(logprob[role], -1e-3).astype(np.float32)
            moments = [(values - spread * rng.normal(0.2, 1, length)).astype(np.float32), spread.astype(np.float32)]
            views[role, View.TEXT] = TokenSignals(values, values > -rng.exponential(1.0, length), *moments)
        records.append(RecordSignals(f"record {number}", views))
    return records, labels
