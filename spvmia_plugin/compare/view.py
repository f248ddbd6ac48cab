"""A comparison for people and for programs: lines, JSON, one HTML file that loads nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spvmia_plugin import __version__
from spvmia_plugin.compare.variants import Compared, Variant, over_seeds
from spvmia_plugin.metrics.names import AUROC, Metric
from spvmia_plugin.metrics.paired import Gain
from spvmia_plugin.report.numbers import title
from spvmia_plugin.results.estimate import Estimate, of_attack
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.schema import as_json
from spvmia_plugin.util.strict_json import finite
from spvmia_plugin.web import drawing
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import printed

FORMAT = 1
"""Version of the JSON's layout."""
COLOURS = ("paper card ink soft line grey", "accent accent-ink wash", "first second third", "warn warn-wash warn-line")


@dataclass(frozen=True)
class Line:
    """One attack of one variant against the first.

    Attributes:
        attack: its name.
        title: its name in full.
        value: of the variant, the metric as it is printed.
        first: of the first variant.
        gain: the difference, as it is printed, with its interval.
        apart: -1 or 1 where the interval leaves out no difference, 0 elsewhere.
        note: why there is no number.
    """

    attack: str
    title: str
    value: str
    first: str
    gain: str
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
    told = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"
    printed_gain = "" if math.isnan(gain.value) else f"{gain.value:+.3f}{told}"
    value, of_first = (printed(_mean(each, attack, metric)) for each in (variant, first))
    return Line(attack, title(attack), value, of_first, printed_gain, sign, shown(gain.reason or ""))


def _mean(variant: Variant, attack: str, metric: Metric) -> float:
    tasks = [next((t for t in audit.model_attacks if t.attack == attack), None) for audit in variant.audits]
    return over_seeds([of_attack(task, metric.key).value for task in tasks]).value


def _or_zero(number: float) -> float:
    return 0.0 if math.isnan(number) else number


def strongest_words(variant: Variant, metric: Metric) -> str:
    """The strongest attack's number of a variant, with its interval."""
    found = variant.strongest(metric)
    if math.isnan(found.value):
        return f"not resolved ({shown(found.reason or 'no reason was recorded')})"
    interval = "" if math.isnan(found.low) else f" ({printed(found.low)} to {printed(found.high)})"
    seeds = f", mean of {len(variant.audits)} seeds" if len(variant.audits) > 1 else ""
    by = f" by {shown(found.attack)}" if found.attack is not None else ""
    return f"{printed(found.value)}{interval}{by}{seeds}"


def in_words(found: Compared, name: str) -> str:
    """What differs between a variant and the first, in one sentence."""
    apart = next(each for each in found.apart if each.variant == name)
    first = shown(found.variants[0].name)
    if apart.why_not is not None:
        return f"not compared with {first}: {shown(apart.why_not)}"
    told = []
    for metric in (AUROC, found.low_end):
        for sign, word in ((1, "more"), (-1, "less")):
            if attacks := [line.attack for line in lines_of(found, name, metric) if line.apart == sign]:
                some = ", ".join(attacks[:3]) + (f" and {len(attacks) - 3} more" if len(attacks) > 3 else "")
                told.append(f"{metric.label} {word} than {first} by {some}")
    return "; ".join(told) or f"no attack tells it from {first}"


def text(comparisons: Sequence[Compared]) -> Iterator[str]:
    """The comparison as lines."""
    for found in comparisons:
        yield f"{shown(found.dataset)}:"
        for variant in found.variants:
            yield f"  {shown(variant.name)}"
            for metric in (AUROC, found.low_end):
                yield f"    {metric.label}: {strongest_words(variant, metric)}"
            if variant is not found.variants[0]:
                yield f"    {in_words(found, variant.name)}"
                yield from _alone_in_words(found, variant.name)
            for finding in failed(variant.audit):
                yield f"    warning: {shown(finding.message)}"
        for name in found.left_out:
            yield f"  left out, without an audit of these data: {shown(name)}"


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


def to_html(comparisons: Sequence[Compared]) -> str:
    """The comparison as one HTML file that loads nothing."""
    return web.render(
        web.templates("spvmia_plugin.compare"),
        "spvmia_plugin.compare",
        "compare",
        web.theme(COLOURS),
        script=False,
        parts=[_part(number, found) for number, found in enumerate(comparisons, 1)],
    )


def _part(number: int, found: Compared) -> dict[str, Any]:
    metrics = (AUROC, found.low_end)
    labels = [metric.label for metric in metrics]
    return {
        "dataset": shown(found.dataset),
        "first": shown(found.variants[0].name),
        "labels": labels,
        "picture": web.trusted(_picture(number, found)),
        "caption": _caption(found),
        "variants": [
            {
                "name": shown(variant.name),
                "strongest": [strongest_words(variant, metric) for metric in metrics],
                "words": "" if variant is found.variants[0] else in_words(found, variant.name),
                "doubts": [shown(finding.message) for finding in failed(variant.audit)],
            }
            for variant in found.variants
        ],
        "differences": [
            {
                "name": shown(apart.variant),
                "why_not": apart.why_not and shown(apart.why_not),
                "paired": apart.paired,
                "alone": [shown(attack) for attack in apart.alone],
                "tables": [(metric.label, lines_of(found, apart.variant, metric)) for metric in metrics],
            }
            for apart in found.apart
        ],
        "left_out": [shown(name) for name in found.left_out],
    }


def _caption(found: Compared) -> str:
    over = "over the steps of the training" if found.is_series else "of each variant"
    return (
        f"The strongest attack {over}: AUROC, and {found.low_end.label}. Bars are intervals that allow for the choice "
        "among the attacks; dashed lines are what guessing gets."
    )


def _picture(number: int, found: Compared) -> str:
    """The strongest attack's AUROC and low end: over training steps of a series, else variant by variant."""

    def draw(_: bool) -> Any:
        variants = found.variants
        figure, axes = drawing.axes(2.6 + (0 if found.is_series else 0.14 * len(variants)))
        for place, (metric, colour) in enumerate(((AUROC, "first"), (found.low_end, "second"))):
            estimates = [variant.strongest(metric) for variant in variants]
            values = [each.value for each in estimates]
            below = [_or_zero(each.value - each.low) for each in estimates]
            above = [_or_zero(each.high - each.value) for each in estimates]
            where = [float(v.step or 0) if found.is_series else k + 0.2 * place for k, v in enumerate(variants)]
            drawn_in = drawing.PALETTE[colour]
            style: dict[str, Any] = {"color": drawn_in, "capsize": 2, "markersize": 4, "label": metric.label}
            if found.is_series:
                axes.errorbar(where, values, yerr=[below, above], fmt="o-", linewidth=1.2, **style)
                axes.axhline(metric.guess, color=drawn_in, linewidth=0.7, linestyle="--")
            else:
                axes.errorbar(values, where, xerr=[below, above], fmt="o", **style)
                axes.axvline(metric.guess, color=drawn_in, linewidth=0.7, linestyle="--")
        if found.is_series:
            axes.set_xlabel("training step")
            axes.set_ylim(0, 1.02)
        else:
            axes.set_yticks(range(len(variants)), [_short(shown(variant.name)) for variant in variants])
            axes.invert_yaxis()
            axes.set_xlim(0, 1.02)
        axes.legend(loc="best")
        return figure

    return drawing.inline(drawing.svg(draw), f"compare-{number}-", _caption(found))


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def to_json_text(comparisons: Sequence[Compared]) -> str:
    """As a file."""
    return json.dumps(to_json(comparisons), indent=1, allow_nan=False) + "\n"
