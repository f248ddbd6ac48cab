"""The verdict in words: what an outsider can and cannot tell, and how sure that is. Evidence, never proof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.leaders import NOBODY, TURNED_ROUND, Leader, Strongest
from spvmia_plugin.metrics.names import AUROC, LOW_END_NONMEMBERS, TPR_1PCT, Metric
from spvmia_plugin.report.numbers import Number, Text, audited, leading, title
from spvmia_plugin.results import Audit
from spvmia_plugin.results.model import failed, touches
from spvmia_plugin.util.console import shown

Level = Literal["evidence", "none_found", "reversed", "unresolved"]

MARKED, CLEAR = 0.8, 0.6
"""Lower ends of the interval from which the headline says "often", and from which it says "clearly"."""
_ROUND_OFF = 1e-9
"""What an AUROC of earlier versions has beside the same one that was summed in another order."""

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


_SPLIT = (
    "This audit cannot tell whether the model gives its training records away: members and others differ without it."
)


@dataclass(frozen=True)
class Verdict:
    """What the audit says.

    Attributes:
        level: "evidence" that members can be told apart, as a whole or some of them; "none_found"; "reversed" (under
            some attack members score lower, and nothing else was found); or "unresolved".
        as_a_whole: the same of all records, by the AUROC.
        most_exposed: the same of the most exposed few, by the TPR at a low FPR; never "reversed".
        by_unit: the same of whom records belong to, by all records of one together; "unresolved" where nobody said.
        headline: one sentence.
        sentences: one for the records as a whole, one for the most exposed few, each with its uncertainty; one for
            whom records belong to where these alone show evidence.
        provisional: failed preconditions that the verdict depends on.
        membership: how it is known.
        by_split: whether what tells the classes apart without the model explains all that was found.
    """

    level: Level
    as_a_whole: Level
    most_exposed: Level
    by_unit: Level
    headline: str
    sentences: tuple[Text, ...]
    provisional: int
    membership: str
    by_split: bool

    @property
    def rests_on_units(self) -> bool:
        """Whether records one by one show nothing, and all records of one to whom they belong do."""
        return self.as_a_whole == "none_found" and self.most_exposed != "evidence" and self.by_unit == "evidence"


def judge(audit: Audit) -> Verdict:
    """Put an audit's result into words."""
    doubts = sum(casts_doubt(finding, audit) for finding in failed(audit))
    found = audit.strongest
    whole = level_of(found.auroc if found else None, AUROC)
    few = level_of(found.most_exposed, found.low_end_metric) if found else "unresolved"
    few = "none_found" if few == "reversed" else few
    if whole == "none_found" and found and not found.tells_members and found.turned_round.attack is not None:
        whole = "reversed"  # by another attack than the one with the largest AUROC
    together = _together(audit)
    of_units = level_of(together[1].auroc if together else None, AUROC)
    of_units = "evidence" if together and together[1].tells_members else of_units
    alone = together if (whole, of_units) == ("none_found", "evidence") and few != "evidence" else None
    by_split = _by_the_split_alone(audit)
    known = MEMBERSHIP.get(audit.mia_audit.membership, "How membership is known was not recorded.")
    sentences = [_of_pairs(audit, found, whole)]
    if found is not None and whole != "unresolved":
        sentences.append(_picked_out(audit, found, few))
    if alone:
        sentences.append(_of_units(audit, *alone))
    return Verdict(
        level="evidence" if few == "evidence" or alone else whole,
        as_a_whole=whole,
        most_exposed=few,
        by_unit=of_units,
        headline=_SPLIT if by_split else _headline(audit, whole, few, alone, doubts > 0),
        sentences=tuple(sentences),
        provisional=doubts,
        membership=known,
        by_split=by_split,
    )


def casts_doubt(finding: Finding, audit: Audit) -> bool:
    """Whether a failed precondition touches what the verdict rests on: the AUROC or the TPR of the strongest."""
    found = audit.strongest
    if found is None:
        return touches(finding, None, AUROC.key)
    rests_on = [(AUROC.key, found.auroc), (found.low_end, found.most_exposed)]
    if not found.tells_members and (of_units := _together(audit)) is not None and of_units[1].tells_members:
        rests_on += [(AUROC.key, of_units[1].auroc), (of_units[1].low_end, of_units[1].most_exposed)]
    return any(touches(finding, leader.attack, metric) for metric, leader in rests_on)


def level_of(leader: Leader | None, metric: Metric) -> Level:
    """What the interval of the strongest attack's number says; nothing, where an end or the number is missing."""
    if leader is None or math.isnan(leader.value + leader.low + leader.high):
        return "unresolved"
    return "evidence" if leader.low > metric.guess else "reversed" if leader.high < metric.guess else "none_found"


def _by_the_split_alone(audit: Audit) -> bool:
    """Whether a baseline that sees no model does as well as the attacks, as far as the intervals tell."""
    found, blind = audit.strongest, audit.mia_audit.blind
    broken = any(finding.code == "blind_above_chance" for finding in failed(audit))
    return broken and found is not None and found.auroc.low <= blind.high


def _headline(
    audit: Audit, whole: Level, few: Level, units_alone: tuple[str, Strongest] | None, provisional: bool
) -> str:
    """The first sentence: whether records can be told apart as a whole, and whether some can be picked out.

    Where neither is shown, whether all records of one to whom they belong can be told from those of another.
    """
    found, is_of_canaries = audit.strongest, audit.tasks[0].is_canary_audit
    those, which = ("canaries in the training data", "canaries") if is_of_canaries else ("training records", "records")
    turned = found.turned_round if found else NOBODY
    how_well = _how_well(found.auroc.low) if found else ""
    if found and tells_more_turned_round(found) and _how_well(1 - turned.high) != how_well:
        how_well = f"{_how_well(1 - turned.high)} (by {title(str(turned.attack))}, its answers turned round)"
    if few == "evidence" and whole == "evidence":
        said = f"an outsider can tell {those} from others, {how_well}, and pick some out."
        if how_well == "often":
            said = f"an outsider can often tell which {which} this model was trained on, and pick some out."
    elif few == "evidence" and turned.attack is not None:
        said = f"an outsider can pick out the most exposed of the {those}; as a whole they score lower than others "
        said += f"under {title(turned.attack)}, which tells them apart for whoever turns its answers round."
    elif few == "evidence":
        said = f"an outsider can pick out the most exposed of the {those}, but not tell them apart as a whole."
    elif whole == "unresolved":
        return f"These data cannot say whether an outsider can tell {those} from others."
    elif whole == "reversed":
        by = f" under {title(str(spoken_of(found, whole)[1].attack))}" if found and found.n_attacks > 1 else ""
        return f"{those.capitalize()} score lower than others{by}. That points at the data, or at swapped labels."
    elif whole == "evidence":
        said = f"as a whole, {those} can be told from others, {how_well}; "
        said += f"that single ones can be picked out is not {'shown' if few == 'none_found' else 'tested'}."
    elif units_alone:
        said = f"record by record these attacks found no evidence that an outsider can tell {those} from others; "
        said += _all_of_one(*units_alone)
    else:
        said = f"these attacks found no evidence that an outsider can tell {those} from others."
    return f"Provisionally, {said}" if provisional else said[0].upper() + said[1:]


def _how_well(low: float) -> str:
    """How well records are told apart, by the lower end of an AUROC's interval."""
    return "often" if low >= MARKED else f"{'clearly' if low >= CLEAR else 'a little'} better than by chance"


def tells_more_turned_round(found: Strongest) -> bool:
    """Whether an attack below guessing tells surely more than the strongest shows, by whoever turns it round."""
    turned = found.turned_round
    return turned.attack is not None and 1 - turned.high > found.auroc.low


def _together(audit: Audit) -> tuple[str, Strongest] | None:
    """Whom records belong to, and what the strongest attacks show of all records of one together."""
    unit = audit.mia_audit.unit
    return None if unit is None or unit.together is None else (shown(unit.column), unit.together.strongest)


def _all_of_one(of_one: str, found: Strongest) -> str:
    """What can be told from all records of one to whom they belong, where that is evidence."""
    if found.auroc.excludes(AUROC.guess):
        well = _how_well(found.auroc.low)
        return f"from all records of one {of_one} together one can tell whether they are among these, {well}."
    return f"the most exposed can be picked out from all records of one {of_one} together."


def _of_units(audit: Audit, of_one: str, found: Strongest) -> Text:
    """The same as a sentence with its numbers."""
    metric = AUROC if found.auroc.excludes(AUROC.guess) else found.low_end_metric
    path = ("unit", "together", "strongest", metric.key)
    value, low, high = (audited(audit.tasks[0], *path, end, style="per_hundred") for end in ("value", "low", "high"))
    by, ends = title(str(found.by_metric[metric.key].attack)), (" (", low, " to ", high)
    which = f"the strongest of {found.n_attacks} attacks" if found.n_attacks > 1 else "the attack"
    if metric == AUROC:
        asked = f"Shown all audited records of one {of_one} in the training data and all of another, {which} ({by})"
        return (f"{asked} names the right one about ", value, " times in 100", *ends, "). Guessing gets 50.")
    guess = f"{100 * metric.guess:g}"
    asked = f"By all audited records of each {of_one}, of 100 in the training data {which} ({by}) finds about "
    return (asked, value, *ends, f") while wrongly accusing {guess} in 100 others. Guessing finds {guess}.")


def spoken_of(found: Strongest, whole: Level) -> tuple[str, Leader]:
    """The AUROC that a verdict on all records speaks of, and what `leading` calls it by.

    That of the strongest attack, but where members score lower that of the one that tells them so (in older results
    the strongest, too).
    """
    is_other = whole == "reversed" and found.turned_round.attack is not None
    return (TURNED_ROUND, found.turned_round) if is_other else (AUROC.key, found.auroc)


def _of_pairs(audit: Audit, found: Strongest | None, level: Level) -> Text:
    """The AUROC as what it is: how often the record of a pair is named that was trained on."""
    if found is None or level == "unresolved":
        reason = found.auroc.reason if found and found.auroc.reason else "the run kept no scores of records"
        return (f"Nothing can be concluded: {shown(reason)}.",)
    key, leader = spoken_of(found, level)
    auroc, low, high = leading(audit, key, "per_hundred")
    name = title(str(leader.attack))
    if level == "reversed":
        return (
            f"Shown one training record and one other, {name} names the training record about ",
            *(auroc, " times in 100 (", low, " to ", high, "). Guessing gets 50: who turns its answers round tells "),
            "them apart.",
        )
    which = strongest_of(audit, leader) if found.n_attacks > 1 else "the attack"
    text: Text = (
        f"Shown one training record and one other, {which} ({name}) names the training record about ",
        *(auroc, " times in 100 (", low, " to ", high, "). Guessing gets 50"),
    )
    if level == "none_found":
        within = ", which lies within that range. This is no finding of safety: up to "
        most, *whose = at_most(found, high)
        return (*text, within, most, " times in 100", *whose, " cannot be ruled out with these records.")
    return (*text, ".")


def strongest_of(audit: Audit, leader: Leader) -> str:
    """What the attack with the largest AUROC is called: one may have a larger estimate, and not rule a guess out."""
    n = audit.strongest.n_attacks if audit.strongest else 0
    what_for = leads_as(audit, AUROC, leader)
    return f"the strongest that {what_for}, of {n} attacks" if what_for else f"the strongest of {n} attacks"


def leads_as(audit: Audit, metric: Metric, leader: Leader) -> str:
    """What the leader has that an attack with a larger estimate has not; empty where no estimate is larger.

    It leads for that alone (`metrics.leaders.best`): it rules a guess out, or has an interval at all.
    """
    values = (
        task.metrics.get(metric.key, math.nan) if metric == AUROC else task.mia_audit.metrics.tprs[metric].value
        for task in audit.model_attacks
        if task.attack != leader.attack
    )
    if not any(value > leader.value + _ROUND_OFF for value in values):
        return ""
    return "rules a guess out" if leader.excludes(metric.guess) else "has an interval"


def at_most(found: Strongest, high: Number) -> Text:
    """Up to what the AUROC may be where nothing was found, as on a board; and whose answers are turned round for it.

    Args:
        found: what the strongest attacks show.
        high: the upper end of the strongest's interval.
    """
    key, leader = found.furthest
    if leader.reach == leader.high:
        return (high,)
    whose = "its answers" if key == AUROC.key else f"the answers of {title(str(leader.attack))}"
    return (Number(leader.reach, high.style, f"computed/strongest/{key}/reach"), f", {whose} turned round,")


def ranges(audit: Audit) -> str:
    """What the ranges behind the numbers mean."""
    found = audit.strongest
    if found is None or found.auroc.attack is None:
        return ""
    chosen = f" and for all {found.n_attacks} attacks" if found.n_attacks > 1 else ""
    return (
        f"The true values lie in the ranges with {100 * found.confidence:g} % confidence, for both questions{chosen} "
        "at once: they already allow for having chosen the strongest."
    )


def _picked_out(audit: Audit, found: Strongest, level: Level) -> Text:
    """The TPR at the lowest FPR that the non-members bear, in words."""
    metric, leader = found.low_end_metric, found.most_exposed
    accused = f"{100 * metric.fpr:g}"
    if level == "unresolved":
        reason = leader.reason or "no reason was recorded"
        return (f"How many could be picked out at {accused} false accusations in 100 cannot be told: {shown(reason)}.",)
    tpr, low, high = leading(audit, found.low_end, "per_hundred")
    supposed = "supposed training records" if audit.mia_audit.membership == "assumed" else "training records"
    name = title(str(leader.attack))
    sure = f" and {what_for}" if (what_for := leads_as(audit, metric, leader)) else ""
    most = f" that picks out most{sure}" if found.n_attacks > 1 else ""
    who = f"the attack{most} ({name}) finds"
    guess = f") while wrongly accusing {accused} in 100 others. Guessing finds {accused}"
    within = (", which lies within that range",) if leader.low <= metric.guess <= leader.high else ()
    text: Text = (f"Of 100 {supposed}, {who} about ", tpr, " (", low, " to ", high, guess, *within, ".")
    why = why_read_at(audit, found)
    return (
        *text,
        *((" It is read", *why, ".") if why else ()),
        *turned_round(found, leading(audit, TURNED_ROUND, "share")),
    )


def turned_round(found: Strongest, auroc: Sequence[Number]) -> Text:
    """What an attack below guessing leaves open of those that can be picked out; empty where there is none.

    Args:
        found: what the strongest attacks show.
        auroc: of the attack that is turned round: its value and both ends of the interval.
    """
    turned = found.turned_round
    if turned.attack is None:
        return ()
    value, low, high = auroc
    lies = f" Turned round, {title(turned.attack)} may pick out more: its AUROC, "
    return (lies, value, " (", low, " to ", high, "), lies below guessing.")


def why_read_at(audit: Audit, found: Strongest) -> Text:
    """At which FPR the most exposed few are read, and why, in words that follow "are read"; empty at the usual 1 %.

    As a rule at 1 % where enough others stand behind it, else at 5 %; at the other one where that alone rules a guess
    out.
    """
    metric, leader = found.low_end_metric, found.most_exposed
    task = next((task for task in audit.model_attacks if task.attack == leader.attack), audit.tasks[0])
    others = audited(task, "metrics", "n_nonmembers", style="count")
    have = "were audited" if task.mia_audit.metrics.n_nonmembers == task.mia_audit.n.nonmembers else "have a score"
    is_enough = task.mia_audit.metrics.n_nonmembers >= LOW_END_NONMEMBERS
    at = f" at {100 * metric.fpr:g} in 100"
    if metric == TPR_1PCT:
        rule = f" others {have}: as a rule that takes {LOW_END_NONMEMBERS}"
        return () if is_enough else (f"{at}, where a guess is ruled out, although only ", others, rule)
    if is_enough:
        return (f"{at}, where a guess is ruled out; at 1 in 100 it is not",)
    return (f"{at} because only ", others, f" others {have}: 1 in 100 takes {LOW_END_NONMEMBERS}")
