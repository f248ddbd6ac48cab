"""The verdict in words: what an outsider can and cannot tell, and how sure that is. Evidence, never proof."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.report.numbers import Number, Text, audited, metric, strongest_task, title, with_interval
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.results.model import failed, touches
from spvmia_plugin.util.console import shown

Level = Literal["evidence", "none_found", "reversed", "unresolved"]

MARKED, CLEAR = 0.8, 0.6
"""Lower ends of the interval from which the headline says "often", and from which it says "clearly"."""

ENOUGH_NONMEMBERS = 370
"""Below so many the lower limit of the TPR at 1 % FPR is always 0: no non-member lies surely above the threshold."""

MEMBERSHIP: Mapping[str, str] = {
    "manifest": "Who is a member is known from the manifest that was written when the model was fine-tuned.",
    "declared": "Who is a member is what the given files declare; if they are wrong, so are the numbers.",
    "assumed": "Who is a member is only assumed: a public data set, and a model that nobody vouches for.",
}

CANNOT_SHOW = (
    "These are statistics about the audited records as a group. A high score is never proof that one record was used "
    "for training, and a low one does not make a record safe. The outsider is taken to see the probabilities that the "
    "model gives to each token of a text. Other attacks, other records or another training run may tell more."
)


@dataclass(frozen=True)
class Verdict:
    """What the audit says.

    Attributes:
        level: "evidence" that members can be told apart, "none_found", "reversed" (members score lower), or
            "unresolved".
        headline: one sentence.
        sentences: the strongest attack, and how many records can be picked out, each with its uncertainty.
        provisional: failed preconditions that the verdict depends on.
        membership: how it is known.
    """

    level: Level
    headline: str
    sentences: tuple[Text, ...]
    provisional: int
    membership: str


def judge(audit: Audit) -> Verdict:
    """Put an audit's result into words."""
    doubts = sum(casts_doubt(finding, audit) for finding in failed(audit))
    level = _level(audit)
    sentences = [_of_pairs(audit, level)]
    best = strongest_task(audit)
    if level != "unresolved" and best is not None:
        sentences.append(_picked_out(best))
        most = max(audit.model_attacks, key=_tpr)
        if _tpr(most) > _tpr(best) >= 0:
            tpr, low, high = with_interval(most, TPR_1PCT.key, "per_hundred")
            sentences.append(
                (
                    f"Another attack, {title(most.attack)}, picks out most at that rate: about ",
                    *(tpr, " (", low, " to ", high, "). It was chosen for that, so its number is too high on average."),
                )
            )
    known = MEMBERSHIP.get(audit.mia_audit.membership, "How membership is known was not recorded.")
    return Verdict(level, _headline(audit, level, doubts > 0), tuple(sentences), doubts, known)


def casts_doubt(finding: Finding, audit: Audit) -> bool:
    """Whether a failed precondition touches the AUROC of the strongest attack, which the verdict rests on."""
    return touches(finding, audit.strongest.name if audit.strongest else None, AUROC.key)


def _level(audit: Audit) -> Level:
    found = audit.strongest
    if found is None or found.name is None or math.isnan(found.interval[0]):
        return "unresolved"
    low, high = found.interval
    return "evidence" if low > AUROC.guess else "reversed" if high < AUROC.guess else "none_found"


def _headline(audit: Audit, level: Level, provisional: bool) -> str:
    if level == "unresolved":
        return "These data cannot say whether an outsider can tell training records from others."
    if level == "reversed":
        return "Training records score lower than others. That points at the data, or at swapped labels."
    low = audit.strongest.interval[0] if audit.strongest else math.nan
    if level == "none_found":
        said = "these attacks found no evidence that an outsider can tell training records from others."
    elif low >= MARKED:
        said = "an outsider can often tell which records this model was trained on."
    elif low >= CLEAR:
        said = "an outsider can tell training records from others, clearly better than by chance."
    else:
        said = "an outsider can tell training records from others a little better than by chance."
    return f"Provisionally, {said}" if provisional else said[0].upper() + said[1:]


def _of_pairs(audit: Audit, level: Level) -> Text:
    """The AUROC as what it is: how often the record of a pair is named that was trained on."""
    found = audit.strongest
    if found is None or found.name is None or level == "unresolved":
        reason = found.reason if found and found.reason else "the run kept no scores of records"
        return (f"Nothing can be concluded: {shown(reason)}.",)
    auroc, low, high = strongest_numbers(audit, "per_hundred")
    which = f"the strongest of {found.n_attacks} attacks" if found.n_attacks > 1 else "the attack"
    text: Text = (
        f"Shown one training record and one other, {which} ({title(found.name)}) names the training record about ",
        *(auroc, " times in 100 (", low, " to ", high, "). Guessing gets 50"),
    )
    if level == "none_found":
        within = ", which lies within that range. This is no finding of safety: up to "
        return (*text, within, high, " times in 100 cannot be ruled out with these records.")
    return (*text, ".")


def ranges(audit: Audit) -> str:
    """What the ranges behind the numbers mean."""
    found = audit.strongest
    if found is None or found.name is None:
        return ""
    chosen = f"; the first allows for having chosen the strongest of {found.n_attacks}" if found.n_attacks > 1 else ""
    return f"In brackets: the range that the true value lies in with {100 * found.confidence:g} % confidence{chosen}."


def strongest_numbers(audit: Audit, style: str) -> tuple[Number, Number, Number]:
    """AUROC of the strongest attack and both ends of its simultaneous interval."""
    found = audit.strongest
    if found is None or audit.mia_audit.strongest:
        first = audit.tasks[0]
        low, high = (audited(first, "strongest", "interval", end, style=style) for end in (0, 1))
        return audited(first, "strongest", "auroc", style=style), low, high
    task = strongest_task(audit)
    auroc = metric(task, AUROC.key, style) if task else Number(found.auroc, style, "computed/strongest/auroc")
    low, high = (Number(found.interval[end], style, f"computed/strongest/interval/{end}") for end in (0, 1))
    return auroc, low, high


def _picked_out(task: TaskResult) -> Text:
    """The TPR at 1 % FPR in words."""
    tpr, low, high = with_interval(task, TPR_1PCT.key, "per_hundred")
    if tpr.value is None or math.isnan(tpr.value):
        reason = task.mia_audit.metrics.tpr_at_1pct_fpr.reason or "no reason was recorded"
        return (f"How many could be picked out at 1 false accusation in 100 cannot be told: {shown(reason)}.",)
    others = audited(task, "metrics", "n_nonmembers", style="count")
    # The range reaches down to 0 whatever the estimate: the threshold rests on too few non-members.
    too_few = low.value == 0 and others.value is not None and others.value < ENOUGH_NONMEMBERS
    reach = f" others were audited; from {ENOUGH_NONMEMBERS} on it need not."
    supposed = "supposed training records" if task.mia_audit.membership == "assumed" else "training records"
    return (
        f"Of 100 {supposed}, it can pick out about ",
        *(tpr, " (", low, " to ", high, ") while wrongly accusing 1 in 100 others. Guessing picks out 1"),
        *((", which lies within that range",) if (low.value or 0.0) <= TPR_1PCT.guess <= (high.value or 0.0) else ()),
        ".",
        *((" The range reaches 0 because only ", others, reach) if too_few else ()),
    )


def _tpr(task: TaskResult) -> float:
    value = task.metrics.get(TPR_1PCT.key, math.nan)
    return -1.0 if math.isnan(value) else value
