"""What to do now, by what was measured: each with the evidence for it and the command that would test it.

No advice stands without a number of the results behind it.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from spvmia_plugin.metrics.arrays import effective_number
from spvmia_plugin.metrics.names import AUROC, BOUNDED_BY, EPSILON, METRICS_WITH_INTERVAL
from spvmia_plugin.metrics.power import needed
from spvmia_plugin.records import clusters_called
from spvmia_plugin.report.advised import Advice
from spvmia_plugin.report.command import command
from spvmia_plugin.report.mending import broken_split, mends
from spvmia_plugin.report.numbers import Number, Text, audited, leading, strongest_task, title
from spvmia_plugin.report.verdict import Verdict, at_most, level_of, spoken_of
from spvmia_plugin.results import Audit, HarnessRun
from spvmia_plugin.results.bound import THEN_AGAIN, Bound, Held, hold
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import worded

_SHARP = 0.6
"""An AUROC that an audit without a finding should be able to rule out."""


def advice(run: HarnessRun, audit: Audit, verdict: Verdict) -> list[Advice]:
    """What to do about an audit of a run, what comes first first."""
    if found := list(broken_split(audit)):
        return found  # numbers of a broken split advise nothing about the model, and more of them nothing either
    found += mends(audit, run.base_of(audit))
    is_mended_first = bool(found)
    found += _bound(run, audit, verdict)
    if not any(each.title.startswith(_LESS) for each in found):  # of which more records would tell no more
        found += _too_few(run, audit, verdict)
    if audit.tasks[0].is_canary_audit:
        return [*found, *_canaries(audit)]
    is_told = any(each.title == _EXCEEDED for each in found)
    found += [*_reversed(audit, verdict), *_exposed(audit, verdict), *_owners(audit), *_duplicates(audit)]
    if not is_mended_first:  # of a number that may be no doing of the training
        found += _recipe(audit, verdict, is_told=is_told)
    told = [each.command for each in found]
    return [replace(each, command=None) if each.command in told[:place] else each for place, each in enumerate(found)]


def _bound(run: HarnessRun, audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    """What each metric asks for whose bound is not shown to hold; those that are exceeded ask for one thing."""
    bound, how = Bound.of(audit), f"{_tell_less(verdict)} {_SAME_BOUND}"
    held = hold(audit, bound).held if bound is not None else ()
    if exceeded := [each for each in held if each.outcome == "exceeded"]:
        told = [
            (f"{each.label[0].upper()}{each.label[1:]} is at least ", low, "; below ", limit, " was declared. ")
            for each in exceeded
            for _, low, limit in (_numbers(audit, each),)
        ]
        yield Advice(_EXCEEDED, tuple(part for text in told for part in text), how)
    yield from (_of_held(run, audit, each, how) for each in held if each.outcome not in ("within", "exceeded"))


def _of_held(run: HarnessRun, audit: Audit, held: Held, tell_less: str) -> Advice:
    value, low, limit = _numbers(audit, held)
    called = "epsilon" if held.metric == EPSILON.key else f"the {held.label}"
    if held.needed is not None:
        unit, n = audit.mia_audit.unit, Number(held.needed, "count", f"{_place(held)}/needed")
        if_so = "of a target that gives nothing away" if math.isnan(held.value) else "if the estimate is the truth"
        return Advice(
            f"Audit more {'units' if held.by_unit else 'records'}, to show the bound on {called}",
            ("About ", n, f" {held.counted} of each class would show it in four of five audits, {if_so}."),
            *_more(run, audit, held.needed * (unit.median_records if held.by_unit and unit else 1)),
        )
    at = "is not below" if held.value >= held.limit else "is too near to"
    if held.reason is None and held.low <= METRICS_WITH_INTERVAL[held.metric].guess:
        open_ = (f", {at} the ", limit, " that was declared, and may be a guess's: its range begins at ", low, ".")
        return Advice(
            f"Audit more {'units' if held.by_unit else 'records'}, to tell whether the bound on {called} holds",
            ("The estimate, ", value, *open_),
            *_more(run, audit, 2 * audit.mia_audit.n.records),
        )
    if held.reason is None:
        if_so = " that was declared, and is no guess's: if it is the truth, more records would hardly show it."
        return Advice(
            f"{_LESS}, to show the bound on {called}",
            ("The estimate, ", value, f", {at} the ", limit, if_so),
            tell_less,
        )
    if held.metric == EPSILON.key and held.outcome == "not_shown":
        return Advice(
            "Show the bound on epsilon by the training",
            ("The canaries say that epsilon is at least ", value, "; no audit shows that it is below ", limit, "."),
            "DP-SGD (opacus, for one) bounds it from above.",
        )
    told = "not shown" if held.outcome == "not_shown" else "can't be shown"
    reason = held.reason.removesuffix(THEN_AGAIN)  # what follows says so
    return Advice(
        f"Make it possible to hold the bound on {called}",
        ("Below ", limit, f" was declared, and {told} to hold: {shown(worded(reason))}."),
        _SAME_BOUND,
    )


def _place(held: Held) -> str:
    return f"computed/bound/{held.metric}{'/unit' * held.by_unit}"


def _numbers(audit: Audit, held: Held) -> tuple[Number, Number, Number]:
    """The estimate, the largest lower end, and the limit."""
    value, low = (Number(getattr(held, end), "share", f"{_place(held)}/{end}") for end in ("value", "low"))
    return value, low, audited(audit.tasks[0], "bound", BOUNDED_BY[held.metric], style="limit")


_LESS = "Train it to tell less"
_EXCEEDED = f"{_LESS}: the declared bound is exceeded"
_SAME_BOUND = "Then audit again with the same bound."


def _tell_less(verdict: Verdict) -> str:
    take_out = "Take out what stands out, train" if verdict.most_exposed == "evidence" else "Train"
    return f"{take_out} fewer passes or with a lower rate, or with differential privacy."


def _too_few(run: HarnessRun, audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    """Where nothing was found, and something may be there."""
    found = audit.strongest
    if found is None or verdict.as_a_whole not in ("none_found", "unresolved") or verdict.rests_on_units:
        return
    key, leader = found.furthest
    if not math.isnan(leader.reach) and leader.reach <= _SHARP:
        return
    value, high = leading(audit, key, "share")[0], leading(audit, AUROC.key, "share")[2]
    upper: Text = (
        () if math.isnan(leader.reach) else ("An AUROC up to ", *at_most(found, high), " cannot be ruled out. ")
    )
    title = "Audit more records before you conclude anything"
    if not any(task.mia_audit.n.scored for task in audit.model_attacks):
        reason = shown(worded(leader.reason or "no reason was recorded"))
        none = ("None of ", audited(audit.tasks[0], "n", "records", style="count"), f" records has a score: {reason}.")
        yield Advice("Find out why no record has a score", none, "Each attack's reasons stand in the table of attacks.")
        return
    called = clusters_called(have_units=audit.mia_audit.unit is not None)
    enough = needed(AUROC, _SHARP, attacks=found.n_attacks)
    most, weighed = _documents(audit, leader.attack)
    if enough is not None and enough > most:
        count = Number(enough, "count", "computed/power/auroc/needed")
        of_null = f" {called} of each class, if the target gives nothing away."
        takes: Text = (*upper, f"To rule out {_SHARP:g} takes about ", count, of_null)
        yield Advice(title, takes, *_more(run, audit, enough))
    elif leader.value > AUROC.guess or key != AUROC.key:  # so many were audited: it is the estimate that keeps it open
        side = "above guessing" if leader.value > AUROC.guess else "below guessing, and tells members turned round"
        yield Advice(
            title,
            (*upper, "The estimate itself, ", value, f", lies {side}: it may give some records away."),
            *_more(run, audit, 2 * audit.mia_audit.n.records),
        )
    elif enough is not None and enough > weighed:
        uneven = f"A few {called} hold most of the records of a class: they tell no more than about "
        count = Number(weighed, "count", "computed/power/documents")
        yield Advice(
            f"Audit other {called} before you conclude anything",
            (*upper, uneven, count, " equally large ones."),
            f"Take records of many {called}, and as many of each.",
        )
    elif not math.isnan(leader.value):
        yield Advice(
            title,
            (*upper, "The estimate itself is ", value, "."),
            *_more(run, audit, 2 * audit.mia_audit.n.records),
        )


def _more(run: HarnessRun, audit: Audit, records: int) -> tuple[str, str | None]:
    """How to audit so many of each class, and the command for it where the data may hold them."""
    n, most = audit.mia_audit.n, audit.mia_audit.settings.get("mia_max_samples")
    if run.config.get("limit") is not None:
        words = command(run)
        del words[(at := words.index("--limit")) : at + 2]
        return "This run was cut short by --limit: leave it out.", shlex.join(words)
    if not isinstance(most, int) or min(n.members, n.nonmembers) < most:
        return "All that there are were audited: keep more back before the next training.", None
    more = {"mia_max_samples": max(records, most + 1)}
    return "Raise mia_max_samples; what the data do not hold, keep back before the next training.", shlex.join(
        command(run, **more)
    )


def _documents(audit: Audit, attack: str | None) -> tuple[int, int]:
    """How many documents, or units, an attack's scored records of the smaller class come from, as the samples say.

    Returns:
        Their number, and that of equally large ones that would tell as much if a document's records told the same.
    """
    if not audit.has_samples:
        return 0, 0
    found = (np.isfinite(audit.scores(task)) for task in audit.model_attacks if task.attack == attack)
    is_scored = next(found, np.ones(len(audit.ids()), bool))
    scored = zip(audit.clusters(), audit.labels().tolist(), is_scored.tolist(), strict=True)
    sizes = {True: Counter[str](), False: Counter[str]()}
    for cluster, label, has_score in scored:
        sizes[label][cluster] += has_score
    each = [[size for size in of_class.values() if size] for of_class in sizes.values()]
    return min(map(len, each)), int(min(effective_number(np.array(n)) if n else 0 for n in each))


def _reversed(audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    if verdict.as_a_whole != "reversed" or audit.strongest is None:
        return
    key, leader = spoken_of(audit.strongest, "reversed")
    value, low, high = leading(audit, key, "share")
    yield Advice(
        "Check which records are members",
        (f"{title(str(leader.attack))} has AUROC ", value, " (", low, " to ", high, "), below guessing."),
        "Swapped labels do that, and members of another kind than the others. Nothing here speaks for the model.",
    )


def _exposed(audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    """Records that stand out by themselves."""
    found = audit.strongest
    if found is None or verdict.most_exposed != "evidence":
        return
    tpr, low, high = leading(audit, found.low_end, "per_hundred")
    accused = f"{100 * found.low_end_metric.fpr:g}"
    yield Advice(
        "Look at the records that stand out, and take them out or reword them",
        (
            *("Of 100 training records about ", tpr, " (", low, " to ", high, ") are picked out while ", accused),
            f" in 100 others are wrongly accused, {_listed(audit, str(found.most_exposed.attack))}.",
        ),
        "Drop, shorten or reword them, train again, and compare on the same records: others may stand out then.",
        "spvmia compare before=results after=results-after --output compare.html",
    )


_FIRST = 3


def _listed(audit: Audit, attack: str) -> str:
    """Which members score highest under an attack."""
    if audit.records is None:
        return "by a run without --log_samples, so that nobody can say which"
    scores = next(audit.scores(task) for task in audit.model_attacks if task.attack == attack)
    members = np.where(audit.labels() & np.isfinite(scores), scores, -np.inf)
    first = [shown(audit.ids()[place]) for place in np.argsort(-members, kind="stable")[:_FIRST].tolist()]
    return (
        f"first of all {' and '.join(filter(None, (', '.join(first[:-1]), first[-1])))}; the table below has the others"
    )


def _owners(audit: Audit) -> Iterator[Advice]:
    """Whose records give them away together, more than one by one."""
    unit = audit.mia_audit.unit
    together = None if unit is None else unit.together
    if unit is None or together is None or level_of(together.strongest.auroc, AUROC) != "evidence":
        return
    of_one, by_record = shown(unit.column), leading(audit, AUROC.key, "share")[0]
    path = ("unit", "together", "strongest", AUROC.key)
    value, low, high = (audited(audit.tasks[0], *path, end, style="share") for end in ("value", "low", "high"))
    yield Advice(
        f"Look at all records of one {of_one}, not at single ones alone",
        (f"By {of_one} the AUROC is ", value, " (", low, " to ", high, "), by record ", by_record, "."),
        "Limit how many records of one are trained on, or leave out whom 'Most exposed units' lists, and train again.",
    )


def _duplicates(audit: Audit) -> Iterator[Advice]:
    finding = next((each for each in audit.mia_audit.preconditions if each.code == "repeated_members"), None)
    count = finding.details.get("count") if finding is not None else None
    if not isinstance(count, int) or not count:
        return
    repeated = Number(count, "count", "mia_audit/preconditions/repeated_members/count")
    members = audited(audit.tasks[0], "n", "members", style="count")
    yield Advice(
        "Take repeated records out of the training data",
        (repeated, " of ", members, " audited members repeat the text of another."),
        "What a model reads several times it remembers better. Train without the repetitions, and compare.",
        "spvmia compare repeated=results once=results-once --output compare.html",
    )


def _recipe(audit: Audit, verdict: Verdict, *, is_told: bool) -> Iterator[Advice]:
    """Fewer passes, where the manifest says how many there were; else what makes a training tell less, once."""
    if verdict.level != "evidence":
        return
    told, unit = audit.mia_audit.data.provenance.get("finetune"), audit.mia_audit.unit
    epochs = told.get("epochs") if isinstance(told, Mapping) else None
    task = strongest_task(audit)
    found = audit.strongest
    if verdict.rests_on_units and unit is not None and unit.together is not None:
        leader = unit.together.strongest.auroc
        path = ("unit", "together", "strongest", AUROC.key)
        value, low, high = (audited(audit.tasks[0], *path, end, style="share") for end in ("value", "low", "high"))
        name, metric = f"By {shown(unit.column)}, {title(str(leader.attack))}", AUROC
    elif found is not None and verdict.as_a_whole != "evidence":
        value, low, high = leading(audit, found.low_end, "share")
        name, metric = title(str(found.most_exposed.attack)), found.low_end_metric
    else:
        value, low, high = leading(audit, AUROC.key, "share")
        name, metric = title(task.attack) if task else "The strongest attack", AUROC
    measured: Text = (f"{name} has {metric.label} ", value, " (", low, " to ", high, ").")
    if not isinstance(epochs, (int, float)) or epochs <= 1:
        if is_told:
            return
        yield Advice(
            "Try a training that tells less",
            measured,
            "Fewer passes, a lower rate, differential privacy. Audit it on the same records, with its capabilities.",
            "spvmia compare before=results after=results-after --output compare.html",
        )
        return
    passes = Number(float(epochs), "count", "mia_audit/data/finetune/epochs")
    yield Advice(
        "Try an earlier checkpoint",
        ("The target read its records ", passes, " times; ", *measured),
        "Exposure grows with every pass, usefulness often does not. Audit the checkpoints, with the capability scores.",
        "spvmia compare results/checkpoint-100 results/checkpoint-200 results/checkpoint-300 --output compare.html",
    )


def _canaries(audit: Audit) -> Iterator[Advice]:
    for task in audit.tasks:
        value = task.metrics.get(EPSILON.key, math.nan)
        limit = _limit(audit)
        if not task.is_canary_audit or math.isnan(value) or not value > limit:
            continue
        epsilon = Number(value, "share", f"results/{task.task}/{EPSILON.key}")
        yield Advice(
            "Train with differential privacy",
            ("The coins of the canaries bound epsilon from below by ", epsilon, f", which is above {limit:g}."),
            "DP-SGD (opacus, for one) has a bound from above. Audit its target with the same canaries.",
            None,
        )


def _limit(audit: Audit) -> float:
    """The epsilon that was declared, else 1: below it no audit of this kind is an alarm."""
    bound = Bound.of(audit)
    return bound.limits.get(EPSILON.key, 1.0) if bound is not None else 1.0


def bound_sentence(audit: Audit) -> str | None:
    """What the audit says of the bound that was declared with the run, in one sentence; None without one."""
    bound = Bound.of(audit)
    if bound is None:
        return None
    verdict = hold(audit, bound)
    told = "; ".join(shown(held.in_words()) for held in verdict.held)
    return f"The declared bound is {verdict.outcome.replace('_', ' ')}: {told}."
