"""The top of the page: each thing that was found as one number, one sentence, how sure it is, and one picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.metrics.leaders import TURNED_ROUND, Strongest
from spvmia_plugin.metrics.names import AUROC, BOUNDED_BY, EPSILON, TPR_1PCT
from spvmia_plugin.report.base import base_tells, told_by_base
from spvmia_plugin.report.numbers import Number, Text, audited, counted, leading, metric, title
from spvmia_plugin.report.verdict import (
    Level,
    Verdict,
    at_most,
    leads_as,
    level_of,
    spoken_of,
    strongest_of,
    tells_more_turned_round,
    turned_round,
)
from spvmia_plugin.results import Audit
from spvmia_plugin.results.bound import WORST_FIRST, Bound, Held, Outcome, hold
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import worded

_BELOW_GUESSING = 0.4
"""Where the scale of a share of pairs begins, unless something lies below."""
_TONES: Mapping[Level | Outcome, str] = {
    "evidence": "found",
    "exceeded": "found",
    "none_found": "quiet",
    "within": "quiet",
    "reversed": "doubt",
    "not_shown": "doubt",
    "unresolved": "doubt",
    "not_evaluable": "doubt",
}
"""The colour of a claim. None is green: no audit shows that a model is safe."""
_OUTCOMES: Mapping[Outcome, str] = {
    "within": "holds",
    "exceeded": "exceeded",
    "not_shown": "not shown",
    "not_evaluable": "not tested",
}
_SURE: Mapping[Outcome, str] = {
    "within": "The upper ends of all attacks' intervals lie below it. They hold at once, with 95 % confidence.",
    "exceeded": "The lower end of an interval that allows for all attacks lies above it, with 95 % confidence.",
    "not_shown": "The intervals reach beyond it: neither that it holds nor that it is broken is shown.",
    "not_evaluable": "This audit says nothing of it.",
}

_ROUND_OFF = 1e-9
_BASE_TELLS = " The base tells them apart, too, before any of the fine-tuning: so much of it isn't the fine-tuning's."
_IN_PART = "What was not tested can't be said to hold, so neither can the bound as a whole."


@dataclass(frozen=True)
class Bar:
    """An interval on a scale.

    Attributes:
        start: where the scale begins.
        end: where it ends.
        low: lower end of the interval; with `high` the whole scale where nothing is known.
        high: upper end.
        value: the estimate, None for none.
        guess: what guessing gets, None where it is off the scale.
        limit: a bound that was declared, or None.
    """

    start: float
    end: float
    low: float
    high: float
    value: float | None = None
    guess: float | None = None
    limit: float | None = None

    def at(self, value: float) -> float:
        """Where a value stands, from 0 to 1 and on the scale."""
        return round(min(max((value - self.start) / (self.end - self.start), 0.0), 1.0), 4)


@dataclass(frozen=True)
class Claim:
    """One card.

    Attributes:
        about: what it is about.
        tone: "found", "quiet" or "doubt".
        big: the number, or a word where there is none.
        unit: what the number counts.
        sentence: what was found.
        certainty: how sure that is.
        terms: the same in the field's terms; a line for each number.
        bars: what to draw, each with what it is of, empty for none, and words for those who can't see it.
        hundred: what to draw of a hundred records: for each "sure", "likely", "maybe", "rest" or "unknown".
        alt: of `hundred`, in words.
    """

    about: str
    tone: str
    big: Text
    unit: str
    sentence: Text
    certainty: Text
    terms: Sequence[Text] = ()
    bars: Sequence[tuple[str, Bar, str]] = ()
    hundred: Sequence[str] = ()
    alt: str = ""


def start_of(lowest: float) -> float:
    """Where a scale of AUROCs begins: a little below guessing, or at the tenth below what lies lower."""
    return min(_BELOW_GUESSING, max(0.0, math.floor(10 * lowest) / 10))


def claims(audit: Audit, verdict: Verdict, base: Audit | None = None) -> list[Claim]:
    """What stands at the top of the page of an audit; with that of its base on the same records, if there is one."""
    found = [_whole(audit, verdict.as_a_whole, base), _few(audit, verdict), *_units(audit)]
    found += [*_bound(audit), *_canaries(audit)]
    return [_provisional(claim) for claim in found] if verdict.provisional else found


def _provisional(claim: Claim) -> Claim:
    """A number that may be the data's, not the model's, is no alarm and no relief."""
    return replace(claim, tone="doubt", certainty=(*claim.certainty, " Provisional: see the conditions above."))


def _whole(audit: Audit, level: Level, base: Audit | None) -> Claim:
    found, about = audit.strongest, "The records as a whole"
    if found is None or level == "unresolved":
        reason = found.auroc.reason if found and found.auroc.reason else "the run kept no scores of records"
        bar = Bar(_BELOW_GUESSING, 1.0, _BELOW_GUESSING, 1.0, guess=AUROC.guess)
        return Claim(
            about,
            _TONES[level],
            ("unknown",),
            "",
            (f"Nothing can be concluded: {shown(worded(reason))}.",),
            ("Everything from guessing to certain remains possible.",),
            bars=[("", bar, "A scale from guessing to certain, all of which remains possible.")],
        )
    key, leader = spoken_of(found, level)
    furthest = f"the furthest below guessing of {found.n_attacks} attacks"
    which = furthest if level == "reversed" else strongest_of(audit, leader)
    which = which if found.n_attacks > 1 else "the attack"
    auroc, low, high = leading(audit, key, "per_hundred")
    sentence = (
        f"Shown a training record and another one, {which} ({title(str(leader.attack))}) names the training "
        "record that often."
    )
    bar = Bar(start_of(leader.low), 1.0, leader.low, leader.high, leader.value, AUROC.guess)
    alt = f"A scale from guessing, 50 in 100, to certain: {auroc}, with a range from {low} to {high}."
    return Claim(
        about,
        _TONES[level],
        (auroc,),
        "of 100 pairs",
        (sentence,),
        (
            *_how_sure(low, high, AUROC.guess, level, at_most(found, high)),
            *(_turned_tells_more(audit, found) if level == "evidence" else ()),
            *((_BASE_TELLS,) if base_tells(base) else ()),
        ),
        [_in_terms(audit, key, AUROC.label), *_by_itself(base)],
        [("", bar, alt)],
    )


def _turned_tells_more(audit: Audit, found: Strongest) -> Text:
    """An attack below guessing that tells surely more than the strongest does; empty where there is none."""
    if not tells_more_turned_round(found):
        return ()
    value, low, high = leading(audit, TURNED_ROUND, "share")
    told = f" {title(str(found.turned_round.attack))} tells more, its answers turned round: its {AUROC.label}, "
    return (told, value, " (", low, " to ", high, "), lies below guessing.")


def _few(audit: Audit, verdict: Verdict) -> Claim:
    found, about, level = audit.strongest, "The most exposed few", verdict.most_exposed
    if found is None or level == "unresolved" or verdict.as_a_whole == "unresolved":
        few = found.low_end_metric if found else TPR_1PCT
        reason = (found.most_exposed.reason or found.auroc.reason) if found else None
        accused = f"{100 * few.fpr:g}"
        told = f"How many could be picked out at {accused} false accusations in 100 cannot be told"
        return Claim(
            about,
            _TONES["unresolved"],
            ("not tested",),
            "",
            (f"{told}: {shown(worded(reason or 'the run kept no scores of records'))}.",),
            ("Any number from none to all remains possible.",),
            hundred=["unknown"] * 100,
            alt="A hundred training records, of which it is not known how many can be picked out.",
        )
    few, leader = found.low_end_metric, found.most_exposed
    tpr, low, high = leading(audit, few.key, "per_hundred")
    accused = f"{100 * few.fpr:g}"
    supposed = "Supposed training" if audit.mia_audit.membership == "assumed" else "Training"
    sure = f" and {what_for}" if (what_for := leads_as(audit, few, leader)) else ""
    by = f"the attack that finds most{sure}" if found.n_attacks > 1 else "the attack"
    more = turned_round(found, leading(audit, TURNED_ROUND, "share"))
    sentence = (
        f"{supposed} records picked out by {by} ({title(str(leader.attack))}), while {accused} in 100 others "
        f"{'is' if accused == '1' else 'are'} wrongly accused."
    )
    return Claim(
        about,
        _TONES["unresolved" if more and level == "none_found" else level],
        (tpr,),
        "of 100 records",
        (sentence,),
        (*_how_sure(low, high, few.fpr, level, (high,)), *more),
        [_in_terms(audit, few.key, few.label)],
        hundred=_hundred(leader.value, leader.low, leader.high),
        alt=f"Of 100 training records about {tpr} can be picked out, at least {low}, at most {high}.",
    )


def _units(audit: Audit) -> Iterator[Claim]:
    """Of those whom records belong to: who has several of a person's records tells that person apart better."""
    unit, task = audit.mia_audit.unit, audit.tasks[0]
    if unit is None or unit.together is None:
        return
    found, about = unit.together.strongest, f"All records of one {shown(unit.column)}"
    level = level_of(found.auroc, AUROC)
    if level == "unresolved":
        reason = shown(worded(found.auroc.reason or "too few of them"))
        sentence: Text = (f"Nothing can be concluded: {reason}.",)
        yield Claim(about, _TONES[level], ("unknown",), "", sentence, ("Everything remains possible.",))
        return
    path = ("unit", "together", "strongest")

    def numbers(key: str, style: str) -> list[Number]:
        return [audited(task, *path, key, end, style=style) for end in ("value", "low", "high")]

    few = found.low_end_metric
    auroc, low, high = numbers(AUROC.key, "per_hundred")
    named = title(str(found.auroc.attack))
    terms = [(AUROC, numbers(AUROC.key, "share")), (few, numbers(few.key, "share"))]
    bar = Bar(start_of(found.auroc.low), 1.0, found.auroc.low, found.auroc.high, found.auroc.value, AUROC.guess)
    more = turned_round(found, numbers(TURNED_ROUND, "share"))
    yield Claim(
        about,
        _TONES["unresolved" if more and level == "none_found" else level],
        (auroc,),
        "of 100 pairs",
        (
            f"Shown all audited records of one {shown(unit.column)} in the training data and all of another, the "
            f"strongest attack ({named}) names the right one that often.",
        ),
        (*_how_sure(low, high, AUROC.guess, level, at_most(found, high)), *more),
        [
            (f"{each.label} ", value, " (", at, " to ", end, ")")
            if not math.isnan(found.by_metric[each.key].value)
            else (f"{each.label} can't be told: {_reason(found.by_metric[each.key].reason)}",)
            for each, (value, at, end) in terms
        ],
        [("", bar, f"A scale from guessing, 50 in 100, to certain: {auroc}, with a range from {low} to {high}.")],
    )


def _reason(told: str | None) -> str:
    return shown(worded(told or "no reason was recorded"))


def _how_sure(low: Number, high: Number, guess_at: float, level: Level, most: Text) -> Text:
    """The range of a number in words; `most` of what is possible where nothing was found."""
    guess = f"{100 * guess_at:g}"
    between: Text = ("Between ", low, " and ", high, " with 95 % confidence")
    if level == "evidence":
        return (*between, f": all of that is above the {guess} of guessing.")
    if level == "reversed":
        return (*between, f": all of that is below the {guess} of guessing. Look for swapped labels.")
    if float(high.value or 0.0) < guess_at:  # of a TPR: fewer members than others above the threshold
        return (*between, f": all of that is below the {guess} of guessing, so nothing was found.")
    return (*between, f". That includes the {guess} of guessing, so nothing was found; up to ", *most, " is possible.")


def _in_terms(audit: Audit, key: str, label: str) -> Text:
    value, low, high = leading(audit, key, "share")
    return (f"{label} ", value, " (", low, " to ", high, ")")


def _by_itself(base: Audit | None) -> Iterator[Text]:
    """What attacks find in the model before fine-tuning, by the one that reaches furthest, as the board has it."""
    if told := told_by_base(base):
        yield ("The base by itself, on the same records: ", *told)


def _hundred(value: float, low: float, high: float) -> list[str]:
    """Of 100 training records, how sure it is of each that it can be picked out."""
    # Outwards: "at least 4" of a lower end of 3.5 would promise too much. Not by what a float adds to 7 %.
    ends = {
        "sure": math.floor(100 * low + _ROUND_OFF),
        "likely": round(100 * value),
        "maybe": math.ceil(100 * high - _ROUND_OFF),
    }
    return [next((kind for kind, end in ends.items() if place < end), "rest") for place in range(100)]


def _bound(audit: Audit) -> Iterator[Claim]:
    bound = Bound.of(audit)
    if bound is None:
        return
    told = hold(audit, bound)
    tested = {held.outcome for held in told.held if held.outcome != "not_evaluable"}
    outcome = next((each for each in WORST_FIRST if each in tested), told.outcome)
    in_part = told.outcome == "not_evaluable" and bool(tested)
    yield Claim(
        "The declared bound",
        _TONES[told.outcome],
        ("in part not tested" if in_part else _OUTCOMES[told.outcome],),
        "",
        _joined([_of_held(audit, held) for held in told.held]),
        (_SURE[outcome] if outcome != "within" or not in_part else "", f" {_IN_PART}" if in_part else ""),
        [(f"{told.when()[0].upper()}{shown(told.when()[1:])}.",)],
        bars=[(held.label, bar, held.in_words()) for held in told.held if (bar := _bar_of(held)) is not None],
    )


def _joined(texts: Sequence[Text]) -> Text:
    return tuple(part for number, text in enumerate(texts) for part in ((" ",) if number else ()) + text)


def _of_held(audit: Audit, held: Held) -> Text:
    """One short sentence on a metric and its limit."""
    place = f"computed/bound/{held.metric}{'/unit' * held.by_unit}"
    low, high = (Number(getattr(held, end), "share", f"{place}/{end}") for end in ("low", "high"))
    limit = audited(audit.tasks[0], "bound", BOUNDED_BY[held.metric], style="limit")
    of_limit: Text = ("below ", limit, " was declared")
    label = held.label[0].upper() + held.label[1:]
    if held.outcome == "within":
        return (f"{label}: every attack at most ", high, "; ", *of_limit, ".")
    if held.outcome == "exceeded":
        return (f"{label}: at least ", low, "; ", *of_limit, ".")
    if held.reason is not None:
        return (f"{label}: ", *of_limit, f"; {shown(worded(held.reason))}.")
    return (f"{label}: up to ", high, " is possible; ", *of_limit, ".")


def _bar_of(held: Held) -> Bar | None:
    """What is known of a metric beside its limit; None where nothing is."""
    if math.isnan(held.value):
        return None
    if held.metric == EPSILON.key:
        end = 1.5 * max(held.limit, held.value)
        return Bar(0.0, end, held.value, end, limit=held.limit)  # a lower bound leaves the rest open
    high = 1.0 if math.isnan(held.high) else held.high
    low = 0.0 if math.isnan(held.low) else held.low
    if held.metric == AUROC.key:
        return Bar(start_of(low), 1.0, low, high, held.value, AUROC.guess, held.limit)
    return Bar(0.0, min(1.0, 1.4 * max(high, held.limit)), low, high, held.value, limit=held.limit)


def _canaries(audit: Audit) -> Iterator[Claim]:
    task = next((task for task in audit.tasks if task.is_canary_audit), None)
    if task is None:
        return
    epsilon, about = metric(task, EPSILON.key, "share"), "The training itself"
    if epsilon.value is None or math.isnan(epsilon.value):
        reason = shown(worded(str(task.mia_audit.epsilon_lb.get("reason"))))
        sentence: Text = (f"No bound on epsilon: {reason}.",)
        yield Claim(about, _TONES["unresolved"], ("unknown",), "", sentence, ("Nothing is ruled out.",))
        return
    canaries = audited(task, "epsilon_lb", "n_canaries", style="count")
    confidence = audited(task, "epsilon_lb", "confidence", style="percent")
    end = 1.5 * max(epsilon.value, 1.0)
    yield Claim(
        about,
        _TONES["evidence" if epsilon.value > 0 else "none_found"],
        ("≥ ", epsilon),
        "epsilon",
        (
            *("Coins decided which of ", *counted(canaries, "canary", "canaries")),
            " were trained on; so much the guesses give away.",
        ),
        ("At least that, with ", confidence, " confidence. It is a lower bound: 0 does not mean private."),
        bars=[("", Bar(0.0, end, epsilon.value, end), f"Epsilon is at least {epsilon}; above that all is possible.")],
    )
