"""`mia_audit`: everything a result carries besides its numbers, JSON-ready and without any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.audit.comparison import Comparison
from spvmia_plugin.audit.outcome import Outcome, RecordResult, unscored_by_reason
from spvmia_plugin.checks import Finding
from spvmia_plugin.checks.blind import BlindInterval
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.metrics.one_run import CanaryAudit
from spvmia_plugin.metrics.summary import Summary
from spvmia_plugin.records import AuditData
from spvmia_plugin.util.libraries import versions
from spvmia_plugin.util.redact import without_secrets, without_secrets_in

FORMAT = 1
"""Version of this record's layout."""


EPSILON_REASON = (
    "membership was not randomised: scores of one training run are not independent, so a per-record bound would not "
    "hold; fine-tune with 'spvmia finetune --canaries M' and run canary_audit_custom"
)


def audit_record(
    *,
    attack: Attack,
    data: AuditData,
    config: AuditConfig,
    summary: Summary,
    results: Mapping[str, RecordResult],
    outcome: Outcome,
    findings: Sequence[Finding],
    blind: BlindInterval | None,
    canaries: CanaryAudit | None,
    comparison: Comparison | None,
) -> dict[str, object]:
    """Assemble the record of one task."""
    unscored = unscored_by_reason(results)
    return {
        "format": FORMAT,
        "attack": {"name": attack.name, **attack.config()},
        "membership": data.membership,
        "metrics": summary.to_json(),
        "n": {
            "records": len(results),
            "members": sum(record.is_member for record in data.records if record.id in results),
            "nonmembers": sum(not record.is_member for record in data.records if record.id in results),
            "scored": sum(result.score is not None for result in results.values()),
            "prompts": len(data.prompts),
        },
        "unscored": unscored,
        "strongest": comparison.strongest if comparison else {},
        "epsilon_lb": canaries.to_json() if canaries else {"epsilon_lb": None, "reason": EPSILON_REASON},
        "blind": asdict(blind) if blind else {"auroc": None, "reason": "too few documents of a class to hold some out"},
        "preconditions": [finding.to_json() for finding in findings],
        "notes": without_secrets(outcome.notes),
        "cost": outcome.cost_json(),
        "stages": without_secrets(outcome.details),
        "models": without_secrets(outcome.models),
        "data": {
            "source": without_secrets_in(data.source),
            "fingerprint": data.fingerprint,
            "block_size": data.block_size,
            "base_model": without_secrets(data.base_model),
            **without_secrets(data.provenance),
            "clusters": _clusters(data, results),
        },
        "settings": without_secrets(config.to_json()),
        "seed": config.seed,
        "versions": versions(),
    }


def _clusters(data: AuditData, results: Mapping[str, RecordResult]) -> dict[str, str]:
    """The document of each record whose id does not tell it: readers of the files can then resample documents."""
    return {
        record.id: record.cluster
        for record in data.records
        if record.id in results and record.cluster != record.id.partition("#")[0]
    }
