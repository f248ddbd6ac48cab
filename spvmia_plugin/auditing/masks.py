"""Conversations: which tokens were scored, what the other mask would have given, and whether the model contradicts it.

Trainers put the loss on the answers or on everything. Which of the two it was does not show in the weights' files, but
in what they learnt: the held-out prompts, which nobody trained on, tell without any label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spvmia_plugin.attacks.base import SCORED_TOGETHER, Attack, AuditAttack, BlindAttack
from spvmia_plugin.auditing.outcome import RecordResult, Results, score_records
from spvmia_plugin.auditing.sequences import Counted
from spvmia_plugin.metrics.names import NORMAL_95
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.records import LossOn, Record
from spvmia_plugin.signals import RecordSignals, TokenSignals

CHECKED = 100
"""At most so many held-out conversations are read for the check of the mask."""
LEAST_CHECKED = 10
"""With fewer nothing is said."""
LEARNT = 0.5
"""Of the gain on the answers: where users' turns gained more, they were trained on; where less, they were not."""

LEAST_LEARNT = 0.01
"""Nats a token: a gain below it is that of a model that has learnt hardly anything, whatever its loss stood on."""

IN_WORDS: Mapping[LossOn, str] = {"all": "all tokens", "completion": "the answers alone"}
"""What people are told of the masks."""


def other_than(loss_on: LossOn) -> LossOn:
    """The other mask."""
    return "completion" if loss_on == "all" else "all"


@dataclass
class Scored:
    """What was scored of an audit's conversations, for `mia_audit`.

    Attributes:
        format: what the rows are.
        loss_on: the mask in use.
        other: results under the other mask by attack, as far as it is known.
        left_out: attacks that were not run under the other mask, and why not.
    """

    format: str
    loss_on: LossOn
    other: dict[str, Results] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def score(self, attacks: Mapping[str, Attack], signals: Mapping[str, RecordSignals]) -> None:
        """Attack some records under the other mask.

        Attacks that score all records at once are left out: a second table of all of them, for one line beside the
        numbers, which the other attacks give.
        """
        for name, attack in attacks.items():
            if isinstance(attack, AuditAttack):
                self.left_out[name] = SCORED_TOGETHER
            elif not isinstance(attack, BlindAttack):
                self.other.setdefault(name, Results()).add(score_records(attack, signals))

    def to_json(self, records: Sequence[Record]) -> dict[str, object]:
        """JSON-ready; with the AUROCs under the other mask where all records are at hand.

        Args:
            records: of the whole run, over all processes.
        """
        read = [record.rendered for record in records if record.rendered is not None and record.rendered.reason is None]
        tokens = sum(sum(each.counted[1:]) for each in read)  # nothing stands before the first
        told: dict[str, object] = {
            "format": self.format,
            "loss_on": self.loss_on,
            "tokens": tokens,
            "context_tokens": sum(len(each.token_ids) for each in read) - tokens,
        }
        if all(len(found) == len(records) for found in self.other.values()) and self.other:
            told["other"] = {
                "loss_on": other_than(self.loss_on),
                "auroc": {name: _auroc(found, records) for name, found in self.other.items()},
                **({"left_out": dict(self.left_out)} if self.left_out else {}),
            }
        return told

    def note(self, results: Mapping[str, Mapping[str, RecordResult]], records: Sequence[Record]) -> str | None:
        """One line: what the strongest attack would have had under the other mask."""
        here = {name: _auroc(results[name], records) for name in self.other}
        there = {name: _auroc(found, records) for name, found in self.other.items() if len(found) == len(records)}
        known = [name for name in there if here[name] is not None and there[name] is not None]
        if not known:
            reasons = Counter(each.reason for name in there for each in self.other[name].values() if each.reason)
            why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
            return (
                f"scored on {IN_WORDS[self.loss_on]} (mia_loss_on); what {IN_WORDS[other_than(self.loss_on)]} would "
                f"have given is not known{why}"
                if there
                else None
            )
        best = max(known, key=lambda name: here[name] or 0.0)
        best_there = max(known, key=lambda name: there[name] or 0.0)
        leader = f", and the strongest there is {best_there}, {there[best_there]:.3f}"
        strongest_there = "" if best_there == best else leader
        return (
            f"scored on {IN_WORDS[self.loss_on]} (mia_loss_on): {best} has AUROC {here[best]:.3f}; on "
            f"{IN_WORDS[other_than(self.loss_on)]} it would have {there[best]:.3f}{strongest_there}"
        )


def _auroc(found: Mapping[str, RecordResult], records: Sequence[Record]) -> float | None:
    """Of the records with a score; None where one class has none."""
    pairs = [(found[r.id].score, r.is_member) for r in records if r.id in found and found[r.id].score is not None]
    scores, members = np.array([s for s, _ in pairs], dtype=float), np.array([m for _, m in pairs], dtype=bool)
    if members.all() or not members.any():
        return None
    value = float(auroc(scores, members))
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class MaskCheck:
    """What the target gained over its base on held-out conversations, in nats a token, on answers and on the rest.

    Attributes:
        documents: how many were read.
        answers: mean gain on tokens that the model is to write.
        rest: mean gain on all others.
        stderr: of `rest` less `LEARNT` times `answers`, over documents.
    """

    documents: int
    answers: float
    rest: float
    stderr: float

    @classmethod
    def of(
        cls,
        loss_on: LossOn,
        sequences: Sequence[Counted],
        target: Sequence[TokenSignals],
        base: Sequence[TokenSignals],
    ) -> MaskCheck | None:
        """From signals of the same held-out conversations under both models; None if these are too few."""
        gains: list[tuple[float, float]] = []
        for each, of_target, of_base in zip(sequences, target, base, strict=True):
            answers = each.mask if loss_on == "completion" else each.other
            if answers is None or answers.all() or not answers.any():
                continue
            gain = of_target.logprob.astype(np.float64) - of_base.logprob
            gains.append((float(gain[answers].mean()), float(gain[~answers].mean())))
        if len(gains) < LEAST_CHECKED:
            return None
        on_answers, on_rest = np.array(gains).T
        spread = float((on_rest - LEARNT * on_answers).std(ddof=1))
        return cls(len(gains), float(on_answers.mean()), float(on_rest.mean()), spread / len(gains) ** 0.5)

    def contradiction(self, loss_on: LossOn) -> str | None:
        """What says that the mask is not the trainer's, or None."""
        margin, beyond = NORMAL_95 * self.stderr, self.rest - LEARNT * self.answers
        told = f"{self.rest:+.3f} nats a token on users' turns, {self.answers:+.3f} on answers, over the base"
        if loss_on == "completion" and self.rest > max(margin, LEAST_LEARNT) and beyond > margin:
            return (
                f"mia_loss_on: the target has learnt the users' turns too ({told}, {self.documents} held-out "
                "conversations), as one does whose loss stood on all tokens: if its training says nothing else, score "
                "these with mia_loss_on=all"
            )
        if loss_on == "all" and self.answers > max(margin, LEAST_LEARNT) and beyond < -margin:
            return (
                f"mia_loss_on: the target has not learnt the users' turns ({told}, {self.documents} held-out "
                "conversations), as one whose loss stood on the answers: if its training says nothing else, score "
                "these alone with mia_loss_on=completion"
            )
        return None

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "documents": self.documents,
            "gain_on_answers": self.answers,
            "gain_on_the_rest": self.rest,
            "stderr": self.stderr,
        }
