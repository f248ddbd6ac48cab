"""What to do now, by what was measured: each with the evidence for it and the command that would test it.

No advice stands without a number of the results behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spvmia_plugin.metrics.names import AUROC, EPSILON
from spvmia_plugin.metrics.power import needed
from spvmia_plugin.records import clusters_called
from spvmia_plugin.report.numbers import Number, Text, audited, leading, strongest_task, title
from spvmia_plugin.report.verdict import Verdict
from spvmia_plugin.results import Audit
from spvmia_plugin.results.bound import Bound, hold
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown

_SHARP = 0.6
"""An AUROC that an audit without a finding should be able to rule out."""
_SHIFTS = ("length_shift", "length_spread", "compressibility_shift", "look_shift", "date_shift", "source_shift")
"""Findings that say in what members and others differ by themselves."""


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        title: what to do, in a few words.
        evidence: what was measured that speaks for it.
        how: how to do it.
        command: what would test it; None where that is no command of ours.
    """

    title: str
    evidence: Text
    how: str
    command: str | None = None


def advice(audit: Audit, verdict: Verdict) -> list[Advice]:
    """What to do about an audit, what comes first first."""
    found = [*_broken_split(audit), *_bound(audit), *_too_few(audit, verdict)]
    if not any(each.title == _SPLIT for each in found):  # numbers of a broken split advise nothing about the model
        found += [*_exposed(audit, verdict), *_duplicates(audit), *_recipe(audit, verdict), *_canaries(audit)]
    return found


_SPLIT = "Draw members and non-members anew"


def _broken_split(audit: Audit) -> Iterator[Advice]:
    codes = {finding.code for finding in failed(audit)}
    if "blind_above_chance" not in codes:
        return
    first = audit.tasks[0]
    value, low = (audited(first, "blind", end, style="share") for end in ("auroc", "low"))
    differ = [finding.message.split(":")[0] for finding in failed(audit) if finding.code in _SHIFTS]
    yield Advice(
        _SPLIT,
        ("A baseline that sees no model tells the classes apart with AUROC ", value, " (at least ", low, ")."),
        "Keep non-members back from the one pool that members come from, before the training, at random."
        + (f" What differs now: {'; '.join(map(shown, differ))}." if differ else ""),
        "spvmia finetune --model BASE --data ALL_RECORDS --output target --members 500 --nonmembers 500",
    )


def _bound(audit: Audit) -> Iterator[Advice]:
    bound = Bound.of(audit)
    for held in hold(audit, bound).held if bound is not None else ():
        if held.outcome == "not_shown" and held.needed is not None:
            number = Number(held.needed, "count", f"computed/bound/{held.metric}{'/unit' * held.by_unit}/needed")
            unit = audit.mia_audit.unit
            yield Advice(
                f"Audit more {'units' if held.by_unit else 'records'}, to show the bound on the {held.label}",
                ("About ", number, f" {held.counted} of each class would show it, if the estimate stays what it is."),
                "Raise mia_max_samples, and keep more records back before the next training.",
                _again("mia_max_samples", held.needed * (unit.median_records if held.by_unit and unit else 1)),
            )


def _too_few(audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    """Where nothing was found, and little could have been."""
    found = audit.strongest
    if found is None or verdict.as_a_whole not in ("none_found", "unresolved"):
        return
    leader = found.auroc
    if not math.isnan(leader.high) and leader.high <= _SHARP:
        return
    enough = needed(AUROC, _SHARP, AUROC.guess, found.n_attacks)
    if enough is None or enough <= min(_documents(audit)):
        return  # so many were audited: it is the estimate that keeps it from being ruled out
    _, _, high = leading(audit, AUROC.key, "share")
    count = Number(enough, "count", "computed/power/auroc/needed")
    called = clusters_called(have_units=audit.mia_audit.unit is not None)
    upper: Text = ("An AUROC up to ", high, " cannot be ruled out.") if not math.isnan(leader.high) else ()
    yield Advice(
        "Audit more records before you conclude anything",
        (*upper, f" To rule out {_SHARP:g} takes about ", count, f" {called} of each class."),
        "Raise mia_max_samples where there are more; else keep more back before the next training.",
        _again("mia_max_samples", enough),
    )


def _documents(audit: Audit) -> tuple[int, int]:
    """How many documents, or units, of each class were audited, as the samples say."""
    clusters, labels = audit.clusters(), audit.labels().tolist()
    by_class = [{each for each, label in zip(clusters, labels, strict=True) if label is side} for side in (True, False)]
    return len(by_class[0]), len(by_class[1])


def _again(option: str, value: int) -> str:
    return f"lm_eval ... --metadata '{{\"{option}\": {value}, ...}}'"


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
            " in 100 others are wrongly accused; the table below has their ids, the most exposed first.",
        ),
        "Drop, shorten or reword them, train again, and compare on the same records: others may stand out then.",
        "spvmia compare before=results after=results-after --output compare.html",
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


def _recipe(audit: Audit, verdict: Verdict) -> Iterator[Advice]:
    """Fewer passes, where the manifest says how many there were."""
    told = audit.mia_audit.data.provenance.get("finetune")
    epochs = told.get("epochs") if isinstance(told, Mapping) else None
    if verdict.level != "evidence" or not isinstance(epochs, (int, float)) or epochs <= 1:
        return
    task = strongest_task(audit)
    name = title(task.attack) if task else "the strongest attack"
    value, low, high = leading(audit, AUROC.key, "share")
    passes = Number(float(epochs), "count", "mia_audit/data/finetune/epochs")
    yield Advice(
        "Try an earlier checkpoint",
        ("The target read its records ", passes, f" times; {name} has AUROC ", value, " (", low, " to ", high, ")."),
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
