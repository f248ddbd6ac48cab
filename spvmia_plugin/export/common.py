"""What all exports share: whose number it is, which metric it is elsewhere, the protocol, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.leaders import NOBODY, Leader, below_a_guess
from spvmia_plugin.metrics.names import (
    ASR,
    AUROC,
    BLIND,
    EPSILON,
    METRICS,
    PRIVACY,
    TPR_01PCT,
    TPR_1PCT,
    TPR_5PCT,
    TPRS,
    Metric,
)
from spvmia_plugin.results.comparable import conditions, digest, settings_that_differ
from spvmia_plugin.results.estimate import Estimate, of_attack, of_furthest, of_strongest, of_turned_round
from spvmia_plugin.results.model import MOSTLY_UNSCORED, Audit, HarnessRun, TaskResult, failed, touches
from spvmia_plugin.util.console import shown

LOCAL_DEVELOPER = "local"
"""Namespace of a model that lies in a folder and has no hub id."""


@dataclass(frozen=True, slots=True)
class About:
    """What others ask of a metric.

    Attributes:
        id: a canonical id where there is one, else one in our namespace.
        kind: family of metrics it may be averaged with.
        description: what it says.
        interval: how its interval is computed, None where it has none.
    """

    id: str
    kind: str
    description: str
    interval: str | None = None


_TPR = "share of members above a threshold that {} of non-members exceed, read between two of them"
_TPR_INTERVAL = "two-sided, the threshold being estimated as well"

ABOUT: Mapping[Metric, About] = {
    AUROC: About(
        "auroc",
        "auroc",
        "probability that the attack scores a training record above a held-out one; 0.5 is what guessing reaches",
        "DeLong, summed within documents, logit-transformed",
    ),
    TPR_5PCT: About("spvmia.tpr_at_5pct_fpr", "tpr_at_fpr", _TPR.format("5 %"), _TPR_INTERVAL),
    TPR_1PCT: About("spvmia.tpr_at_1pct_fpr", "tpr_at_fpr", _TPR.format("1 %"), _TPR_INTERVAL),
    TPR_01PCT: About("spvmia.tpr_at_0.1pct_fpr", "tpr_at_fpr", _TPR.format("0.1 %"), _TPR_INTERVAL),
    ASR: About(
        "spvmia.attack_success_rate",
        "accuracy",
        "1 - equal error rate of the attack",
        "errors of TPR and FPR at the crossing, summed within documents, logit-transformed",
    ),
    BLIND: About(
        "spvmia.blind_auroc",
        "auroc",
        "AUROC of a classifier that sees words and length but no model; above 0.5 the data give membership away",
        "permutation of the documents' labels",
    ),
    EPSILON: About(
        "spvmia.epsilon_lower_bound",
        "epsilon",
        "lower bound on the epsilon of differential privacy, from canaries included by coin flips",
    ),
    PRIVACY: About(
        "spvmia.privacy_score", "privacy_score", "1 - 2 |AUROC - 0.5|: 1 if the attack does no better than guessing"
    ),
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Lines:
    """Lines of a file, made anew each time they are asked for: those of 200,000 records are never held at once."""

    def __init__(self, make: Callable[[], Iterator[str]]) -> None:
        """Take what makes them."""
        self._make = make

    def __iter__(self) -> Iterator[str]:
        """Each line with its end."""
        return self._make()


Files: TypeAlias = "dict[str, str | Lines]"
"""Path below the output folder -> content. `Lines` name training records: such a file is its owner's alone."""


@dataclass(frozen=True)
class ExportOptions:
    """What the results do not know and a format wants.

    Attributes:
        model_id: hub id of the model, "org/name"; None for the harness's name.
        organization: who ran the audit.
        evaluator: their relation to the model's developer: first_party, third_party, collaborative or other.
        benchmark: the Hub's data set that hosts the leaderboard.
        instances: whether to write a line for each record: its id, its label and its score, never its text.
    """

    model_id: str | None = None
    organization: str = "unknown"
    evaluator: str = "first_party"
    benchmark: str | None = None
    instances: bool = False


def model_id(run: HarnessRun, options: ExportOptions) -> str:
    """The model as "org/name": a folder's last name under `local` unless the user says better.

    Raises:
        SpvmiaError: `--model-id` is no such id.
    """
    if options.model_id is not None:
        if not _HUB_ID.fullmatch(options.model_id):
            raise SpvmiaError(f"--model-id: expected ORG/NAME as on the Hub, got {options.model_id!r}; name both parts")
        return options.model_id
    if _HUB_ID.fullmatch(run.model) and not _is_local(run):
        return run.model
    name = re.sub(r"[^\w.-]+", "-", Path(run.model).name, flags=re.ASCII).strip("-.") or "model"
    return f"{LOCAL_DEVELOPER}/{name}"


def _is_local(run: HarnessRun) -> bool:
    """Whether the model came from a folder: `org/name` may be one. Weights of the hub are known by their commit."""
    weights = [part for audit in run.audits for part in audit.mia_audit.weights("target")]
    return bool(weights) and "hub" not in weights[-1]


def protocol_digits(audit: Audit, *tasks: TaskResult) -> str:
    """Digits that two results of these attacks share exactly if a leaderboard may compare them."""
    ordered = sorted(tasks, key=lambda task: task.attack)
    return digest(conditions(audit, ordered, "models", "fingerprint"))


def warnings(task: TaskResult) -> list[str]:
    """Findings that say the exported numbers should not be used as they are, in words.

    A metric that a finding leaves NaN is not exported, and needs no warning.
    """
    return warnings_of(task, AUROC, task.attack)


def warnings_of(of: Audit | TaskResult, metric: Metric, attack: str | None) -> list[str]:
    """The same of one metric of one attack."""
    return [finding.message for finding in failed(of) if touches(finding, attack, metric.key)]


def left_out(task: TaskResult) -> str | None:
    """That an attack has no score for too many records, in words: one of the `warnings` on its numbers; else None."""
    return next((finding.message for finding in failed(task) if finding.code == MOSTLY_UNSCORED), None)


def of_the_strongest(audit: Audit) -> list[tuple[Metric, Estimate]]:
    """What the strongest attacks show: the AUROC, and the TPR at as low an FPR as the non-members bear."""
    few = audit.strongest.low_end_metric if audit.strongest else TPR_1PCT
    return [(metric, of_strongest(audit, metric.key)) for metric in (AUROC, few)]


def told_below(audit: Audit, metric: Metric, strongest: Estimate) -> str | None:
    """What another attack, below guessing, tells or may tell that the strongest's number does not, in words; else None.

    The number stays that of the strongest attack, and "lower is more private" is not true of the other: by the AUROC
    where it reaches further, by a TPR wherever there is one, as nobody knows how many it picks out turned round.

    Args:
        audit: the attacks.
        metric: the AUROC or a TPR.
        strongest: the number.
    """
    if metric in TPRS:
        turned = NOBODY if audit.strongest is None else audit.strongest.turned_round
        return None if turned.attack in (None, strongest.attack) else below_a_guess(turned)
    found = of_furthest(audit, metric.key)
    if found.attack is None or found.attack == strongest.attack:
        return None
    number = (
        f"{found.attack} reaches {name_of(metric)} {found.value!r} ({found.low!r} to {found.high!r}), below guessing"
    )
    if found.high < metric.guess:
        return f"{number}, and tells members better: turned round that is {1 - found.value:.4f}"
    return f"{number}, and may tell members better: turned round up to {1 - found.low:.4f}"


def strongest_turned_round(audit: Audit, metric: Metric, strongest: Estimate) -> str | None:
    """The same as `turned_round` of the strongest's own number: its attack may lie below guessing, as all others."""
    auroc = strongest if metric == AUROC else of_turned_round(audit)
    if auroc is None or auroc.attack != strongest.attack:
        return None
    return turned_round(metric, strongest, auroc)


def turned_round(metric: Metric, found: Estimate, auroc: Estimate) -> str | None:
    """What a number of an attack whose AUROC lies surely below guessing leaves open, in words; None of any other.

    Of such a number lower is no more private: who knows of it says the opposite of the attack.

    Args:
        metric: whose number it is.
        found: the number.
        auroc: of the same attack, with an interval that holds for this number.
    """
    if not auroc.high < AUROC.guess:
        return None
    if metric in TPRS:
        return below_a_guess(Leader(auroc.attack, auroc.value, auroc.low, auroc.high))
    if metric in (AUROC, ASR) and found.value < metric.guess:
        return f"below guessing, where lower is no more private: turned round it is {1 - found.value:.4f}"
    return None


def interval_method(metric: Metric, found: Estimate, *, chosen: bool) -> str:
    """How an exported interval was computed, and what it holds for: this number alone, or whichever was chosen."""
    if chosen:
        attacks = f"{found.chosen_among} attack{'' if found.chosen_among == 1 else 's'}"
        return f"simultaneous over {attacks}, AUROC and TPRs (max statistic by document)"
    return f"pointwise: {ABOUT[metric].interval}"


def of_the_same_data(run: HarnessRun, audit: Audit) -> list[Audit]:
    """The run's audits of the same data with attacks on the model, under whatever settings, this one among them."""
    audited = _audited(audit)
    return [other for other in run.audits if other.model_attacks and _audited(other) == audited]


def _audited(audit: Audit) -> tuple[object, ...]:
    return (audit.dataset, audit.tasks[0].is_canary_audit, audit.mia_audit.data.fingerprint)


def one_by_one(audits: Sequence[Audit]) -> SpvmiaError:
    """Why several audits of one data set cannot be told in one number, and what to do."""
    return SpvmiaError(
        f"RESULTS: expected one audit of {shown(audits[0].dataset)!r}, as the format has one number of it, got "
        f"{len(audits)}, which differ in {settings_that_differ(audits)}; run them one by one, with an --output_path "
        "each: what is in the store is not computed again"
    )


def notes(task: TaskResult) -> list[str]:
    """Findings that should be known, and why a metric is left out."""
    told = warnings(task)
    return [finding.message for finding in task.mia_audit.preconditions if finding.message not in told]


def source_name(audit: Audit) -> str:
    """Where the audited records come from, without the folders above."""
    return Path(audit.mia_audit.data.source or audit.dataset).name


def name_of(metric: Metric) -> str:
    """A metric's name for other sites, which write no space before "%"."""
    return metric.label.replace(" %", "%")


def estimates(task: TaskResult) -> Iterator[tuple[Metric, Estimate]]:
    """All numbers of a task, exactly as the harness printed them, those that cannot be resolved as NaN."""
    return ((metric, of_attack(task, key)) for key, metric in METRICS.items())
