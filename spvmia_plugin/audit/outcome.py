"""What a run gives back: a score or a reason for every record and attack, and what it cost."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spvmia_plugin.checks import Finding
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


class Results(Mapping[str, RecordResult]):
    """One attack's results by record id, in arrays: a tenth of what as many objects take.

    Args:
        found: to begin with.
    """

    def __init__(self, found: Mapping[str, RecordResult] | None = None) -> None:
        self._row: dict[str, int] = {}
        self._numbers = {name: array("d") for name in ("score", "target", "reference")}  # NaN: none
        self._n_tokens = array("q")  # -1: none
        self._reason = array("q")  # number in `_reasons`
        self._reasons: dict[str | None, int] = {}
        self.add(found or {})

    def add(self, found: Mapping[str, RecordResult]) -> None:
        """Take results of records that have none here yet."""
        for record_id, result in found.items():
            self._row[record_id] = len(self._reason)
            for name, values in self._numbers.items():
                value = getattr(result, name)
                values.append(math.nan if value is None else value)
            self._n_tokens.append(-1 if result.n_tokens is None else result.n_tokens)
            self._reason.append(self._reasons.setdefault(result.reason, len(self._reasons)))

    def __getitem__(self, record_id: str) -> RecordResult:
        row = self._row[record_id]
        score, target, reference = (None if math.isnan(v[row]) else v[row] for v in self._numbers.values())
        n_tokens = self._n_tokens[row]
        reason = list(self._reasons)[self._reason[row]]
        return RecordResult(score, reason, None if n_tokens < 0 else n_tokens, target, reference)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._row

    def shares_ids_with(self, other: Results) -> Results:
        """Hold the ids once, where another has the same ones in the same order."""
        if self._row == other._row:
            self._row = other._row
        return self

    def unscored_by_reason(self) -> dict[str, int]:
        """How many records have no score, by reason, the most frequent first."""
        names, counts = list(self._reasons), Counter(self._reason)
        told = {name: counts[number] for number, name in enumerate(names) if name is not None}
        return dict(Counter(told).most_common())


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

    results: dict[str, Mapping[str, RecordResult]] = field(default_factory=dict)
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
    if isinstance(results, Results):
        return results.unscored_by_reason()
    return dict(Counter(result.reason for result in results.values() if result.reason is not None).most_common())
