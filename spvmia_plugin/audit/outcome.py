"""What a run gives back: a score or a reason for every record and attack, and what it cost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spvmia_plugin.metrics.finding import Finding
from spvmia_plugin.protocols import Cost
from spvmia_plugin.signals import Unscored


@dataclass(frozen=True, slots=True)
class RecordResult:
    """One record under one attack, as it stands in the harness's samples file.

    Attributes:
        score: the attack's score, or None.
        reason: why there is none.
        n_tokens: scored tokens of the record under the target; None where nothing was scored.
        target: mean log-probability under the target, in nats a token.
        reference: the same under the model the attack calibrates with.
    """

    score: float | None
    reason: str | None = None
    n_tokens: int | None = None
    target: float | None = None
    reference: float | None = None

    def to_json(self) -> str:
        """The JSON string of `resps[0][0]`."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RecordResult:
        """Read `to_json`'s string."""
        return cls(**json.loads(text))

    @classmethod
    def of(cls, value: float | Unscored, **means: float | int | None) -> RecordResult:
        """Wrap an attack's answer; what is not finite is null in the file, and no score."""
        known: dict[str, Any] = {k: v if v is not None and math.isfinite(v) else None for k, v in means.items()}
        if isinstance(value, Unscored):
            return cls(None, value.reason, **known)
        number = float(value)
        return cls(number, None, **known) if math.isfinite(number) else cls(None, "score is not finite", **known)


@dataclass
class Outcome:
    """Everything one audit computed.

    Attributes:
        results: by attack key, by record id.
        stages: what each stage cost, in the order they ran.
        notes: plain sentences about the run (long texts, capped shots), for people.
        details: JSON-ready records of the stages: self-prompts, reference, paraphrases.
        models: identity of the model behind each role.
        findings: what limits the numbers and shows only beside the model; what the data show is known before.
    """

    results: dict[str, dict[str, RecordResult]] = field(default_factory=dict)
    stages: dict[str, Cost] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
    models: dict[str, object] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def cost_json(self) -> dict[str, dict[str, float]]:
        """Cost per stage, JSON-ready."""
        return {name: asdict(cost) for name, cost in self.stages.items()}


def unscored_by_reason(results: Mapping[str, RecordResult]) -> dict[str, int]:
    """How many records have no score, by reason, the most frequent first."""
    return dict(Counter(result.reason for result in results.values() if result.reason is not None).most_common())
