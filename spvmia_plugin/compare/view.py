"""A comparison for people and for programs: lines, JSON, one HTML file that loads nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spvmia_plugin import __version__
from spvmia_plugin.compare.variants import CONFIDENCE, Apart, Compared, Variant, mean_of
from spvmia_plugin.metrics.leaders import below_a_guess
from spvmia_plugin.metrics.names import AUROC, Metric, beside
from spvmia_plugin.metrics.paired import Gain
from spvmia_plugin.report.numbers import plain, title
from spvmia_plugin.report.verdict import why_read_at
from spvmia_plugin.results.estimate import Estimate, of_attack, task_of
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.schema import as_json
from spvmia_plugin.util.strict_json import finite
from spvmia_plugin.web import drawing
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import MISSING, interval, listed, printed, ran, worded

FORMAT = 1
"""Version of the JSON's layout."""
_LEVEL = f"{100 * CONFIDENCE:g} %"
_WIDTH = 4.0
"""Inches of a picture: two stand side by side, and one is not scaled down on a phone."""
COLOURS = ("paper card ink soft line grey", "accent accent-ink wash", "first", "warn warn-wash warn-line")


@dataclass(frozen=True)
class Line:
    """One attack of one variant against the first.

    Attributes:
        attack: its name.
        title: its name in full.
        value: of the variant, the metric as it is printed.
        first: of the first variant.
        gain: the difference, as it is printed.
        ends: its interval, likewise.
        apart: -1 or 1 where the interval leaves out no difference, 0 elsewhere.
        note: why there is no number.
    """

    attack: str
    title: str
    value: str
    first: str
    gain: str
    ends: str
    apart: int
    note: str


def lines_of(found: Compared, name: str, metric: Metric) -> list[Line]:
    """The attacks that a variant and the first have, the largest difference first."""
    apart = next(each for each in found.apart if each.variant == name)
    variant = next(each for each in found.variants if each.name == name)
    of_metric = apart.gains.get(metric.key, {})
    order = sorted(of_metric, key=lambda attack: -abs(_or_zero(of_metric[attack].value)))
    return [_line(found.variants[0], variant, attack, metric, of_metric[attack]) for attack in order]


def _line(first: Variant, variant: Variant, attack: str, metric: Metric, gain: Gain) -> Line:
    low, high = gain.interval
    sign = 0 if math.isnan(low) else int(low > 0) - int(high < 0)
    ends = "" if math.isnan(low) else f"{_signed(low)} to {_signed(high)}"
    value, of_first = (printed(_mean(each, attack, metric)) for each in (variant, first))
    return Line(attack, title(attack), value, of_first, _signed(gain.value), ends, sign, shown(gain.reason or ""))


def _signed(difference: float) -> str:
    """A difference with its sign, in as many decimals as it takes to be told from none; one of rounding has no sign."""
    if math.isnan(difference):
        return MISSING
    told = beside(difference, 0.0)
    return printed(0.0) if not float(told) else told if difference < 0 else f"+{told}"


def _mean(variant: Variant, attack: str, metric: Metric) -> float:
    return mean_of(variant, attack, metric).value


def _or_zero(number: float) -> float:
    return 0.0 if math.isnan(number) else number


def strongest_words(variant: Variant, metric: Metric) -> str:
    """The strongest attack's number of a variant, with its interval."""
    found = variant.strongest(metric)
    if math.isnan(found.value):
        return f"not resolved ({shown(found.reason or 'no reason was recorded')})"
    ends = "" if math.isnan(found.low) else f" ({printed(found.low)} to {printed(found.high)})"
    seeds = f", mean of {len(variant.audits)} seeds" if len(variant.audits) > 1 else ""
    by = f" by {_attack(found, metric)}" if found.attack is not None else ""
    return f"{printed(found.value)}{ends}{by}{seeds}"


def _attack(found: Estimate, metric: Metric) -> str:
    """What an estimate is of, and what it reaches turned round where its lower end lies further from guessing."""
    if metric != AUROC or not 1 - found.low > found.high:
        return shown(found.attack or "")
    return f"{shown(found.attack or '')}, turned round up to {printed(1 - found.low)}"


def _is_turned_round(variant: Variant, attack: str) -> bool:
    """Whether an attack's AUROC lies surely below a guess in a variant; of seeds, their mean."""
    alone = len(variant.audits) == 1
    found = of_attack(task_of(variant.audit, attack), AUROC.key) if alone else mean_of(variant, attack, AUROC)
    return found.high < AUROC.guess


def in_words(found: Compared, name: str) -> str:
    """What differs between a variant and the first, in one sentence."""
    apart = next(each for each in found.apart if each.variant == name)
    first = shown(found.variants[0].name)
    if apart.why_not is not None:
        return f"not compared with {first}: {shown(apart.why_not)}"
    told = []
    lines = [line for metric in (AUROC, found.low_end) for line in lines_of(found, name, metric)]
    if lines and all(line.note for line in lines):  # without an interval nothing is told apart, and nothing is alike
        reasons = "; ".join(dict.fromkeys(line.note for line in lines))
        return f"no attack can say whether it differs from {first}: {reasons}{_otherwise(apart)}"
    turned = _turned_round(found, name)
    for metric in (AUROC, found.low_end):
        for sign, word in ((1, "higher"), (-1, "lower")):
            apart_so = [line.attack for line in lines_of(found, name, metric) if line.apart == sign]
            if attacks := [attack for attack in apart_so if attack not in turned]:
                some = ", ".join(attacks[:3]) + (f" and {len(attacks) - 3} more" if len(attacks) > 3 else "")
                told.append(f"{word} {metric.label} than {first} under {some}")
    told += turned.values()
    return ("; ".join(told) or _no_difference(found)) + _otherwise(apart)


def _turned_round(found: Compared, name: str) -> dict[str, str]:
    """In what a variant differs under attacks that lie below a guess in it or in the first, in words by attack.

    Under such an attack "higher" is not leakier: from .003 to .5 the model gives less away.
    """
    first, variant = found.variants[0], next(each for each in found.variants if each.name == name)
    differ: dict[str, list[str]] = {}
    for metric in (AUROC, found.low_end):
        for line in lines_of(found, name, metric):
            if line.apart:
                differ.setdefault(line.attack, []).append(metric.label)
    told = {}
    for attack, labels in differ.items():
        below = [shown(each.name) for each in (first, variant) if _is_turned_round(each, attack)]
        if below:
            what = " and ".join(labels) + (" differs" if len(labels) == 1 else " differ")
            ours, theirs = (_mean(each, attack, AUROC) for each in (variant, first))
            told[attack] = (
                f"{what} under {shown(attack)}, which lies below a guess in {' and '.join(below)}: {AUROC.label} "
                f"{printed(ours)} against {printed(theirs)}, turned round {printed(1 - ours)} against "
                f"{printed(1 - theirs)}"
            )
    return told


def _otherwise(apart: Apart) -> str:
    """What else a difference may come from, or hide behind."""
    return f"; audited otherwise, which may be all there is to it: {shown(apart.otherwise)}" if apart.otherwise else ""


def _no_difference(found: Compared) -> str:
    return f"no attack tells it from {shown(found.variants[0].name)}"


def text(comparisons: Sequence[Compared]) -> Iterator[str]:
    """The comparison as lines."""
    for found in comparisons:
        yield f"{shown(found.dataset)}, intervals of {_LEVEL}:"
        for variant in found.variants:
            yield f"  {shown(variant.name)}"
            for metric in (AUROC, found.low_end):
                yield f"    {metric.label}: {strongest_words(variant, metric)}"
            if variant is not found.variants[0]:
                yield f"    {in_words(found, variant.name)}"
                yield from _alone_in_words(found, variant.name)
        for names, messages in doubts(found):
            yield from (f"  warning, {names}: {words}" for words in messages)
        if why := _why_read_at(found):
            yield f"  {why}"
        for name in found.left_out:
            yield f"  left out, without an audit of these data: {shown(name)}"


def _why_read_at(found: Compared) -> str:
    """Why the most exposed few are read at another FPR than 1 %, as the first's records bear it; empty at that one."""
    audit = found.variants[0].audit
    why = plain(why_read_at(audit, audit.strongest)) if audit.strongest is not None else ""
    return f"of {shown(found.variants[0].name)} the most exposed few are read{why}" if why else ""


def _alone_in_words(found: Compared, name: str) -> Iterator[str]:
    alone = next((apart.alone for apart in found.apart if apart.variant == name), ())
    if alone:
        yield f"    not compared, without scores in both: {', '.join(map(shown, alone))}"


def to_json(comparisons: Sequence[Compared]) -> dict[str, Any]:
    """The comparison for programs, unrounded; NaN is null."""
    content = {
        "format": FORMAT,
        "generator": f"spvmia-plugin {__version__}",
        "comparisons": [
            {
                "dataset": found.dataset,
                "is_series": found.is_series,
                "low_end": found.low_end.key,
                "variants": [
                    {
                        "name": variant.name,
                        "step": variant.step,
                        "seeds": len(variant.audits),
                        "strongest": {
                            metric.key: _estimate_json(variant.strongest(metric)) for metric in (AUROC, found.low_end)
                        },
                    }
                    for variant in found.variants
                ],
                "differences": [
                    {
                        "variant": apart.variant,
                        "first": found.variants[0].name,
                        "paired": apart.paired,
                        "why_not": apart.why_not,
                        "not_compared": list(apart.alone),
                        "audited_otherwise": apart.otherwise or None,
                        "gains": {
                            key: {attack: as_json(gain) for attack, gain in gains.items()}
                            for key, gains in apart.gains.items()
                        },
                    }
                    for apart in found.apart
                ],
                "left_out": list(found.left_out),
            }
            for found in comparisons
        ],
    }
    clean: dict[str, Any] = finite(content)
    return clean


def _estimate_json(found: Estimate) -> Mapping[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "attack": found.attack, "reason": found.reason}


def verdict(found: Compared) -> list[str]:
    """What the comparison found, a sentence for each thing that can be said of variants."""
    alike: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for apart in found.apart:
        words = in_words(found, apart.variant)
        (alike if words == _no_difference(found) else others).append((shown(apart.variant), words))
    first = shown(found.variants[0].name)
    same = [f"No attack tells {listed(name for name, _ in alike)} from {first}."] if alike else []
    return [*(f"{name}: {words}." for name, words in others), *same]


def doubts(found: Compared) -> list[tuple[str, list[str]]]:
    """Failed preconditions and what an attack below a guess leaves open, each told once: whose they are, and what."""
    whose: dict[str, list[str]] = {}
    for variant in found.variants:
        messages = [finding.message for finding in failed(variant.audit)]
        leaders = (audit.strongest.turned_round for audit in variant.audits if audit.strongest is not None)
        messages += [below_a_guess(leader) for leader in leaders if leader.attack is not None][:1]
        for message in messages:
            whose.setdefault(shown(worded(message)), []).append(shown(variant.name))
    told: dict[str, list[str]] = {}
    for words, names in whose.items():
        told.setdefault("all variants" if len(names) == len(found.variants) else listed(names), []).append(words)
    return list(told.items())


def to_html(comparisons: Sequence[Compared]) -> str:
    """The comparison as one HTML file that loads nothing."""
    variants = [variant for found in comparisons for variant in found.variants]
    runs = [run for variant in variants for run in variant.runs]
    return web.render(
        web.templates("spvmia_plugin.compare"),
        "spvmia_plugin.compare",
        "compare",
        web.theme(COLOURS),
        script=False,
        ran=ran(
            (run.date for run in runs),
            (str(audit.mia_audit.versions["spvmia-plugin"]) for variant in variants for audit in variant.audits),
            (run.versions["lm_eval_version"] for run in runs if "lm_eval_version" in run.versions),
        ),
        confidence=_LEVEL,
        parts=[_part(number, found) for number, found in enumerate(comparisons, 1)],
    )


def _part(number: int, found: Compared) -> dict[str, Any]:
    metrics = (AUROC, found.low_end)
    return {
        "dataset": shown(found.dataset),
        "first": shown(found.variants[0].name),
        "labels": [metric.label for metric in metrics],
        "verdict": verdict(found),
        "pictures": [
            web.trusted(_picture(f"compare-{number}-{place}-", found, metric)) for place, metric in enumerate(metrics)
        ],
        "caption": _caption(found),
        "variants": [
            {"name": shown(variant.name), "strongest": [_strongest(variant, metric) for metric in metrics]}
            for variant in found.variants
        ],
        "doubts": doubts(found),
        "differences": [
            {
                "name": shown(apart.variant),
                "why_not": apart.why_not and shown(apart.why_not),
                "paired": apart.paired,
                "alone": [shown(attack) for attack in apart.alone],
                "rows": _rows(found, apart.variant, metrics),
            }
            for apart in found.apart
        ],
        "left_out": [shown(name) for name in found.left_out],
    }


def _strongest(variant: Variant, metric: Metric) -> tuple[str, str]:
    """The strongest attack's number of a variant as it stands in a cell, and what stands below it."""
    number = variant.strongest(metric)
    if math.isnan(number.value):
        return MISSING, shown(number.reason or "no reason was recorded")
    seeds = f"mean of {len(variant.audits)} seeds" if len(variant.audits) > 1 else ""
    by = "" if number.attack is None else _attack(number, metric)
    return printed(number.value), ", ".join(filter(None, (interval(number.low, number.high), by, seeds)))


def _rows(found: Compared, name: str, metrics: Sequence[Metric]) -> list[tuple[str, list[Line]]]:
    """Of each attack its numbers by every metric, those with the largest difference of the first one on top."""
    by_metric = [{line.attack: line for line in lines_of(found, name, metric)} for metric in metrics]
    return [(line.title, [lines[attack] for lines in by_metric]) for attack, line in by_metric[0].items()]


def _caption(found: Compared) -> str:
    why = _why_read_at(found)
    over = "over the steps of the training" if found.is_series else "of each variant"
    return (
        f"The strongest attack {over}. Bars are intervals that allow for the choice among the attacks; the dashed line "
        f"is what guessing gets.{f' {why[0].upper()}{why[1:]}.' if why else ''}"
    )


def _picture(prefix: str, found: Compared, metric: Metric) -> str:
    """The strongest attack by a metric: over training steps of a series, else variant by variant."""
    estimates = [variant.strongest(metric) for variant in found.variants]
    values = [each.value for each in estimates]
    reach = [
        [_or_zero(each.value - each.low) for each in estimates],
        [_or_zero(each.high - each.value) for each in estimates],
    ]
    lowest = min([metric.guess, *(each.low for each in estimates if not math.isnan(each.low))])
    limits = (max(0.0, lowest - 0.05), 1.02)
    colour, line = drawing.PALETTE["first"], drawing.PALETTE["ink"]
    style: dict[str, Any] = {"color": colour, "capsize": 2, "markersize": 4}
    name = f"{metric.label}, strongest attack"

    def draw(_: bool) -> Any:
        if found.is_series:
            figure, axes = drawing.axes(2.6, _WIDTH)
            steps = [float(variant.step or 0) for variant in found.variants]
            axes.errorbar(steps, values, yerr=reach, fmt="o-", linewidth=1.2, **style)
            axes.axhline(metric.guess, color=line, linewidth=0.7, linestyle="--")
            axes.text(steps[-1], metric.guess, "guessing", ha="right", va="bottom", fontsize=8.5)
            axes.set(xlabel="training step", ylabel=name, ylim=limits)
            axes.set_xticks(steps)
        else:
            figure, axes = drawing.axes(0.95 + 0.33 * len(values), _WIDTH)
            axes.errorbar(values, range(len(values)), xerr=reach, fmt="o", **style)
            axes.axvline(metric.guess, color=line, linewidth=0.7, linestyle="--")
            axes.text(metric.guess, -0.62, " guessing", ha="left", va="center", fontsize=8.5)
            axes.set_yticks(range(len(values)), [_short(shown(variant.name)) for variant in found.variants])
            axes.set(xlabel=name, xlim=limits, ylim=(len(values) - 0.5, -0.95))
        return figure

    return drawing.inline(drawing.svg(draw), prefix, f"{name}: {_caption(found)}")


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def to_json_text(comparisons: Sequence[Compared]) -> str:
    """As a file."""
    return json.dumps(to_json(comparisons), indent=1, allow_nan=False) + "\n"
