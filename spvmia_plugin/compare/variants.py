"""How far variants of a model differ, on the same records; and what training seeds of one recipe have in common.

Two variants that were audited with the same records are compared in pairs: both errors are those of the same draw of
documents. Runs that share a name are training seeds of one variant: what differs between them is the training, and the
records where each seed has its own, so their numbers have a mean and an error over seeds, and nothing is paired.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.metrics.arrays import NAN_INTERVAL
from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL, Metric
from spvmia_plugin.metrics.paired import Gain, differences
from spvmia_plugin.results import Audit, HarnessRun, read_latest
from spvmia_plugin.results.comparable import SameData, how_audited, settings_that_differ
from spvmia_plugin.results.comparable import differences as condition_differences
from spvmia_plugin.results.estimate import Estimate, of_attack, of_furthest, of_strongest, task_of
from spvmia_plugin.results.pairing import rows_in
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.schema import MaybeNumber

CONFIDENCE = 0.95
_CHECKPOINT = re.compile(r"(?<![a-z])(?:checkpoint|step)[-_]?(\d+)/?$", re.IGNORECASE)
"""What ends in a step: `step-100-merged` is no checkpoint of a series, but what was made of one."""


@dataclass(frozen=True)
class Variant:
    """One variant: its audit, or those of its training seeds.

    Attributes:
        name: what to call it.
        audits: one, or one a seed.
        step: of the training, where its name or its path says so.
        runs: of the harness that they come from.
    """

    name: str
    audits: Sequence[Audit]
    step: int | None = None
    runs: Sequence[HarnessRun] = ()

    @property
    def audit(self) -> Audit:
        """The first of them."""
        return self.audits[0]

    def strongest(self, metric: Metric) -> Estimate:
        """The number of the attack that tells most, of several seeds the strongest's mean with its error over them.

        A mean over seeds takes no attack that is turned round: one at .2 and one at .8 would be .5.
        """
        if len(self.audits) == 1:
            return of_furthest(self.audit, metric.key)
        found = [of_strongest(audit, metric.key) for audit in self.audits]
        tasks = [task_of(audit, str(each.attack)) for audit, each in zip(self.audits, found, strict=True)]
        mean = over_seeds([each.value for each in found], [of_attack(task, metric.key).stderr for task in tasks])
        return Estimate(mean.value, mean.low, mean.high, CONFIDENCE, mean.stderr, None, reason=mean.reason)


@dataclass(frozen=True)
class Mean:
    """A mean over training seeds.

    Attributes:
        value: NaN where a seed has no number.
        stderr: by the spread over the seeds.
        own: by the audits' own standard errors, as if each seed had records of its own and nothing else differed.
        low: of the interval, by whichever of the two reaches further.
        high: likewise.
        seeds: how many.
        reason: why there is no number, or no interval.
    """

    value: MaybeNumber
    stderr: MaybeNumber
    own: MaybeNumber
    low: MaybeNumber
    high: MaybeNumber
    seeds: int
    reason: str | None = None


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> Mean:
    """The mean of one number over training seeds.

    The interval reaches as far as the spread over the seeds asks for, by Student's t, and no less than the audits' own
    errors do: where few records decide, two seeds often have one number by chance, and the spread is 0.

    Args:
        values: of each seed, between 0 and 1.
        errors: standard error of each value over records; where one is NaN there is no interval.
    """
    if any(math.isnan(value) for value in values):
        nan = math.nan
        return Mean(nan, nan, nan, nan, nan, len(values), "a seed has no number")
    mean = float(np.mean(values))
    stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    own = math.sqrt(float(np.sum(np.square(errors)))) / len(values)
    if len(values) < 2 or math.isnan(own):
        reason = "one seed says nothing of others" if len(values) < 2 else "an audit has no standard error"
        return Mean(mean, stderr, own, math.nan, math.nan, len(values), reason)
    reach = _reach(stderr, len(values) - 1, own, CONFIDENCE)
    return Mean(mean, stderr, own, max(mean - reach, 0.0), min(mean + reach, 1.0), len(values))


def _reach(stderr: float, df: float, own: float, confidence: float) -> float:
    """To either side, at the error over seeds with its degrees of freedom, and at least at the audits' own."""
    tail = 0.5 + confidence / 2
    return max(float(scipy.special.stdtrit(df, tail)) * stderr, float(scipy.special.ndtri(tail)) * own)


@dataclass(frozen=True)
class Apart:
    """How far one variant lies from the first.

    Attributes:
        variant: its name.
        gains: by key of the metric, by attack: this variant less the first; simultaneous over all of them.
        why_not: why they could not be compared; None where they were.
        paired: whether on the same records; else by means over seeds.
        alone: attacks that were not compared: a run of either has no scores of theirs.
        otherwise: what their audits differ in, which a difference may come from as well; empty where in nothing.
    """

    variant: str
    gains: Mapping[str, Mapping[str, Gain]]
    why_not: str | None = None
    paired: bool = True
    alone: Sequence[str] = ()
    otherwise: str = ""


@dataclass(frozen=True)
class Compared:
    """Variants on one data set.

    Attributes:
        dataset: its name.
        variants: the first is what the others are compared with.
        low_end: the TPR that speaks for the most exposed few, as the first's records bear it.
        apart: each of the others against the first.
        left_out: variants without an audit of these data.
    """

    dataset: str
    variants: Sequence[Variant]
    low_end: Metric
    apart: Sequence[Apart]
    left_out: Sequence[str]

    @property
    def is_series(self) -> bool:
        """Whether they are checkpoints of one training."""
        steps = [variant.step for variant in self.variants]
        return len(steps) > 2 and None not in steps and len(set(steps)) == len(steps)


def compare(sources: Sequence[Source], same_data: SameData = "fingerprint") -> list[Compared]:
    """Compare variants, the first with each of the others, on every data set of the first.

    Args:
        sources: results of the variants; those that share a name are training seeds of one.
        same_data: how the records of two variants are recognised as the same.

    Raises:
        SpvmiaError: fewer than two variants, one run twice, one that cannot be read, or that has several audits of one
            data set.
    """
    groups: dict[str, list[HarnessRun]] = {}
    for source in sources:
        run = read_latest(source.place)
        groups.setdefault(source.name or _called(run, source, sources), []).append(run)
    if len(groups) < 2 and len(sources) < 2:
        raise SpvmiaError(
            f"RESULTS: expected the results of two variants or more, got {len(sources)}; name the one that the others "
            "are compared with first"
        )
    paths = [run.path.resolve() for runs in groups.values() for run in runs]
    again = next((path for path in paths if paths.count(path) > 1), None)
    if again is not None:
        raise SpvmiaError(f"RESULTS: expected each run once, got {again} several times; a copy of a run is no variant")
    first = next(iter(groups.values()))
    kinds = dict.fromkeys(_kind(audit) for audit in first[0].audits)
    return [_on(kind, groups, same_data) for kind in kinds]


def _kind(audit: Audit) -> str:
    """The data set, as it is called; canaries are other records."""
    return audit.dataset + (", canaries" if audit.tasks[0].is_canary_audit else "")


def _called(run: HarnessRun, source: Source, sources: Sequence[Source]) -> str:
    """The folder's name, unless another's is the same: then the whole path."""
    name = source.place.stem if source.place.is_file() else source.place.name
    alike = [other for other in sources if other.place.name == source.place.name]
    return str(source.place) if len(alike) > 1 else name or run.model


def _on(kind: str, groups: Mapping[str, Sequence[HarnessRun]], same_data: SameData) -> Compared:
    variants: list[Variant] = []
    left_out: list[str] = []
    for name, runs in groups.items():
        of_runs = [[audit for audit in run.audits if _kind(audit) == kind] for run in runs]
        if several := next((audits for audits in of_runs if len(audits) > 1), None):
            raise SpvmiaError(
                f"RESULTS: expected one audit of {shown(kind)!r} in each run, got {len(several)} in {shown(name)}, "
                f"which differ in {settings_that_differ(several)}; run them one by one, with an --output_path each, or "
                "compare two of them in Python: load(RESULTS, TASK).compare(load(OTHER, TASK))"
            )
        if all(of_runs):
            variants.append(Variant(name, [audits[0] for audits in of_runs], _step(name, runs[0]), runs))
        elif not variants and not left_out:
            raise SpvmiaError(
                f"RESULTS: expected an audit of {shown(kind)!r} in each run of {shown(name)}, which the others are "
                "compared with, got a run without one; leave that run out"
            )
        else:
            left_out.append(name)
    if all(variant.step is not None for variant in variants) and len(variants) > 2:
        variants.sort(key=lambda variant: variant.step or 0)
    first, *others = variants
    found = first.audit.strongest
    low_end = METRICS_WITH_INTERVAL[found.low_end] if found else METRICS_WITH_INTERVAL["tpr_at_5pct_fpr"]
    confidence = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    apart = [
        replace(
            _apart(first, other, low_end, confidence, same_data),
            alone=_alone([*first.audits, *other.audits]),
            otherwise=_otherwise([*first.audits, *other.audits]),
        )
        for other in others
    ]
    return Compared(kind, variants, low_end, apart, left_out)


def _alone(audits: Sequence[Audit]) -> list[str]:
    """Attacks with scores in some of the audits and not in all."""
    scored = [{task.attack for task in audit.model_attacks if task.records is not None} for audit in audits]
    every = {attack for attacks in scored for attack in attacks}
    return sorted(attack for attack in every if not all(attack in attacks for attacks in scored))


def _otherwise(audits: Sequence[Audit]) -> str:
    """What audits differ in besides model, training and records, the first held against each of the others, in words.

    Two variants told apart by attacks of other parameters, or behind a server that hides what another one shows, differ
    by how they were audited.
    """
    common = set.intersection(*({task.attack for task in audit.model_attacks} for audit in audits))
    first, *others = (
        how_audited(audit, sorted((t for t in audit.model_attacks if t.attack in common), key=lambda t: t.attack))
        for audit in audits
    )
    return next((words for other in others if (words := condition_differences(other, first))), "")


def _step(name: str, run: HarnessRun) -> int | None:
    """The training step that a variant's name, or the path of its weights, ends in."""
    arguments = run.config.get("model_args")
    path = str(arguments.get("peft") or arguments.get("pretrained") or "") if isinstance(arguments, Mapping) else ""
    found = _CHECKPOINT.search(name) or _CHECKPOINT.search(path)
    return int(found[1]) if found else None


def _apart(first: Variant, other: Variant, low_end: Metric, confidence: float, same_data: SameData) -> Apart:
    if len(first.audits) > 1 or len(other.audits) > 1:
        return _apart_over_seeds(first, other, low_end, confidence)
    try:
        rows = rows_in(first.audit, other.audit, same_data)
    except SpvmiaError as error:
        return Apart(other.name, {}, str(error.code).removeprefix("results: "))
    ours = {task.attack: other.audit.scores(task)[rows] for task in other.audit.model_attacks}
    theirs = {task.attack: first.audit.scores(task) for task in first.audit.model_attacks}
    audit = first.audit
    gains = differences(
        ours, theirs, audit.labels(), audit.clusters(), seed=audit.mia_audit.seed, confidence=confidence
    )
    return Apart(other.name, gains)


def _apart_over_seeds(first: Variant, other: Variant, low_end: Metric, confidence: float) -> Apart:
    """Differences of means over seeds, by Welch's t with the confidence that several of them need (Bonferroni)."""
    common = [t.attack for t in other.audit.model_attacks if t.attack in {u.attack for u in first.audit.model_attacks}]
    metrics = (AUROC, low_end)
    each = 1 - (1 - confidence) / max(len(common) * len(metrics), 1)
    gains: dict[str, dict[str, Gain]] = {
        metric.key: {
            attack: _welch(mean_of(other, attack, metric), mean_of(first, attack, metric), each) for attack in common
        }
        for metric in metrics
    }
    return Apart(other.name, gains, paired=False)


def mean_of(variant: Variant, attack: str, metric: Metric) -> Mean:
    """An attack's number over the training seeds of a variant."""
    found = [of_attack(task_of(audit, attack), metric.key) for audit in variant.audits]
    return over_seeds([each.value for each in found], [each.stderr for each in found])


def _welch(ours: Mean, theirs: Mean, confidence: float) -> Gain:
    """The difference of two means, with Welch's interval (Welch 1947), or that of the audits' own errors if wider."""
    value = ours.value - theirs.value
    if reason := ours.reason or theirs.reason:
        return Gain(value, NAN_INTERVAL, reason)
    parts = [each.stderr**2 for each in (ours, theirs)]
    total = sum(parts)
    free = sum(part**2 / (each.seeds - 1) for part, each in zip(parts, (ours, theirs), strict=True))
    df = total**2 / free if free else 1.0  # without a spread it asks for nothing
    reach = _reach(math.sqrt(total), df, math.hypot(ours.own, theirs.own), confidence)
    return Gain(value, (max(value - reach, -1.0), min(value + reach, 1.0)))
