"""From signals to scores: one attack over all records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spvmia_plugin.attacks.base import Attack, BlindAttack, mean_logprob
from spvmia_plugin.audit.outcome import RecordResult
from spvmia_plugin.audit.roles import reference_role
from spvmia_plugin.records import Record
from spvmia_plugin.signals import RecordSignals, Role, Unscored, View


def judge(
    attack: Attack, signals: Mapping[str, RecordSignals], blind: Mapping[str, float | Unscored] | None = None
) -> dict[str, RecordResult]:
    """Score some records.

    Args:
        attack: scores them.
        signals: by record id.
        blind: a blind attack's scores by record id, from `blind_scores`.

    Returns:
        By record id: the score, or the reason why there is none, and the means of the samples file.
    """
    scores = blind or dict(zip(signals, attack.score_many(list(signals.values())), strict=True))
    role = reference_role(attack)
    return {
        record_id: RecordResult.of(scores[record_id], **_means(of_record, role))
        for record_id, of_record in signals.items()
    }


def blind_scores(attack: BlindAttack, audited: Sequence[Record], seed: int) -> dict[str, float | Unscored]:
    """Scores by record id of an attack that sees no model.

    Args:
        attack: scores them.
        audited: the records of all processes: it is fitted on them.
        seed: of the folds.
    """
    values = attack.score_all(
        [record.text for record in audited],
        np.array([record.is_member for record in audited], dtype=bool),
        [record.cluster for record in audited],
        seed,
    )
    return {record.id: value for record, value in zip(audited, values, strict=True)}


def _means(signals: RecordSignals, role: Role | None) -> dict[str, float | int | None]:
    """n_tokens, target and reference of the samples file."""
    target = signals.tokens.get((Role.TARGET, View.TEXT))
    reference = signals.tokens.get((role, View.TEXT)) if role else None
    return {
        "n_tokens": len(target) if target is not None else None,
        "target": mean_logprob(target) if target is not None and len(target) else None,
        "reference": mean_logprob(reference) if reference is not None and len(reference) else None,
    }
