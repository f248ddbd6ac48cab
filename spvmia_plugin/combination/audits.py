"""A combination of the attacks of one audit, fitted on audits of shadows: `spvmia combine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spvmia_plugin.combination.fitting import OnTarget, Scored, compare, fit
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.records import clusters_called
from spvmia_plugin.results import Audit, read_latest
from spvmia_plugin.results.comparable import base_model, conditions, differences, target_identity
from spvmia_plugin.results.model import failed, touches
from spvmia_plugin.util.console import shown

_OWN = ("data set", "data", "membership", "members and non-members")
"""Conditions that a shadow need not share with the target: its records are its own. Their share of members counts."""
TARGET, SHADOW = "RESULTS", "--shadow"


@dataclass(frozen=True)
class Combined:
    """A combination of the attacks of one audit.

    Attributes:
        on_target: its numbers.
        n_shadow_records: records of all shadows, which the weights were fitted on.
        shadow_unscored: how many of them an attack has no score for, by attack.
        left_out: attacks of the target's audit that a shadow has no scores of.
        warnings: in plain sentences, what may keep the weights from carrying over, and what limits the numbers.
    """

    on_target: OnTarget
    n_shadow_records: int
    shadow_unscored: Mapping[str, int]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def combine(
    target: Path,
    shadows: Sequence[Path],
    attacks: Sequence[str] | None = None,
    normalisation: str = "z",
    seed: int = 0,
) -> Combined:
    """Fit a combination on the newest audits of shadows and apply it to the newest audit of a target.

    Args:
        target: results folder of lm_eval, or a results file.
        shadows: the same of models that were fine-tuned by the target's recipe on records of known membership.
        attacks: what to combine; None for all attacks on the model that the audits have in common.
        normalisation: `z` or `rank`.
        seed: of the bootstraps.

    Raises:
        SpvmiaError: an audit cannot be read or has no samples, two audits are of one model or of the same records, an
            attack is missing, or an audit has too few records of a class.
    """
    left_out: list[str] = []
    audited = _audit(target, TARGET, left_out)
    known = [_audit(place, SHADOW, left_out) for place in shadows]
    _check_both_classes(audited, target)
    _check_apart([(TARGET, audited), *((str(place), audit) for place, audit in zip(shadows, known, strict=True))])
    places = {TARGET: audited, **{str(place): audit for place, audit in zip(shadows, known, strict=True)}}
    fitted = {name: (place, why) for place, audit in places.items() for name, why in _fitted_on_itself(audit).items()}
    there = _attacks(audited)
    common = [name for name in there if name not in fitted and all(name in _attacks(audit) for audit in known)]
    chosen = _chosen(attacks, there, common, fitted)
    if attacks is None:
        told = (f"left out: {name}, whose weights {why}, in {place}" for name, (place, why) in fitted.items())
        left_out += map(shown, told)
    scored = [_scored(audit, chosen) for audit in known]
    on_target = compare(fit(scored, chosen, normalisation), _scored(audited, chosen), seed=seed)
    # The combination's own limits; the TPR at 0.1 % is not among its numbers.
    numbers = on_target.combined
    limits = [text for text in numbers.warnings if text != numbers.tpr_at_0_1pct_fpr.reason]
    return Combined(
        on_target=on_target,
        n_shadow_records=sum(len(one.labels) for one in scored),
        shadow_unscored={name: sum(one.unscored(name) for one in scored) for name in chosen},
        left_out=tuple(name for name in there if name not in (*chosen, *fitted)) if attacks is None else (),
        warnings=(*_warnings(audited, known, shadows, chosen), *limits, *left_out),
    )


def _audit(place: Path, option: str, left_out: list[str]) -> Audit:
    """The one audit of the newest run; canaries that were planted beside the records are another matter.

    Older runs that cannot be read are added to `left_out`.
    """
    run = read_latest(place, option)
    found = run.audits
    left_out += [shown(f"left out: {problem}") for problem in run.left_out]
    audits = [audit for audit in found if not audit.tasks[0].is_canary_audit] or found
    if len(audits) > 1:
        names = ", ".join(shown(audit.dataset) for audit in audits)
        raise SpvmiaError(
            f"{option}: expected a run that audits one set of records, got {names} in {place}; run one by itself"
        )
    if not audits[0].has_samples:
        raise SpvmiaError(
            f"{option}: expected the scores of each record, got a run without samples in {place}; run lm_eval with "
            "--log_samples"
        )
    if not _attacks(audits[0]):
        raise SpvmiaError(
            f"{option}: expected an attack on the model that scored a record, got none in {place}; run other attacks"
        )
    return audits[0]


def _check_both_classes(target: Audit, place: Path) -> None:
    members = int(target.labels().sum())
    others = len(target.ids()) - members
    if not (members and others):
        raise SpvmiaError(
            f"{TARGET}: expected members and non-members, got {members} and {others} in {place}; audit both"
        )


def _check_apart(audits: Sequence[tuple[str, Audit]]) -> None:
    """No two audits of one model or of the same records: labels would be fitted and judged, or fitted twice."""
    seen: dict[tuple[str, str], str] = {}
    for name, audit in audits:
        data = audit.mia_audit.data
        marks = {
            "the same records and prompts": data.fingerprint,
            "records of the same manifest": data.provenance.get("manifest_fingerprint"),
            "the same model": target_identity(audit),
        }
        for what, value in marks.items():
            if value and (what, str(value)) in seen:
                other = seen[what, str(value)]
                raise SpvmiaError(
                    f"{SHADOW}: expected audits of different models on different records, got {what} in "
                    f"{shown(other)} and {shown(name)}: weights must not be fitted on labels they are judged by; "
                    "fine-tune a shadow on records that are not audited"
                )
            seen[what, str(value)] = name


def _attacks(audit: Audit) -> list[str]:
    """The attacks that have a score of some record."""
    return [task.attack for task in audit.model_attacks if np.isfinite(task.scores()).any()]


def _fitted_on_itself(audit: Audit) -> dict[str, str]:
    """Attacks whose weights were fitted on the labels of this very audit, as far as its results tell, and why."""
    own = audit.mia_audit.data.provenance.get("manifest_fingerprint")
    found = {}
    for task in audit.model_attacks:
        told = task.mia_audit.learned
        if told is None or told.get("weights") != "shadow":
            continue
        fitted_on = told.get("fitted_on")
        if not isinstance(fitted_on, list):
            found[task.attack] = "may have been fitted on its labels: results of an earlier version do not tell"
        elif own in fitted_on:
            found[task.attack] = "were fitted on its records and labels"
    return found


def _chosen(
    asked: Sequence[str] | None, there: Sequence[str], common: Sequence[str], fitted: Mapping[str, tuple[str, str]]
) -> list[str]:
    if asked is None and not common:
        raise SpvmiaError(
            f"{SHADOW}: expected attacks of RESULTS ({', '.join(there)}), got none of them; run the same tasks on both"
        )
    missing = [name for name in asked or () if name not in common]
    if of_itself := [name for name in missing if name in fitted]:
        place, why = fitted[of_itself[0]]
        raise SpvmiaError(
            f"--attacks: expected attacks whose weights know no label that they are combined by, got "
            f"{of_itself[0]!r}, whose weights {why}, in {shown(place)}; leave it out, or audit without mia_shadow"
        )
    if missing or asked == []:
        raise SpvmiaError(
            f"--attacks: expected attacks that all audits have scores of ({', '.join(common) or 'none'}), got "
            f"{', '.join(map(repr, missing)) or 'none'}; leave them out, or run them"
        )
    return list(dict.fromkeys(common if asked is None else asked))


def _scored(audit: Audit, attacks: Sequence[str]) -> Scored:
    tasks = {task.attack: task for task in audit.model_attacks}
    called = clusters_called(have_units=audit.mia_audit.unit is not None)
    return Scored({name: audit.scores(tasks[name]) for name in attacks}, audit.labels(), audit.clusters(), called)


def _warnings(target: Audit, known: Sequence[Audit], shadows: Sequence[Path], attacks: Sequence[str]) -> list[str]:
    """Failed conditions of the audits, and what sets them apart: weights carry over between models made alike."""
    found = [f"{TARGET}: {message}" for message in _failed(target, attacks)]
    for place, audit in zip(shadows, known, strict=True):
        found += [f"{place}: {message}" for message in _failed(audit, attacks)]
        apart = differences(*_conditions(target, audit, attacks))
        if apart:
            found.append(f"{place}: made or audited otherwise than RESULTS: {apart}")
    return [shown(sentence) for sentence in found]


def _failed(audit: Audit, attacks: Sequence[str]) -> list[str]:
    """Messages of the failed conditions that touch a number of a combination of these attacks."""
    asked = [(attack, metric.key) for attack in attacks for metric in (AUROC, TPR_1PCT)]
    return [finding.message for finding in failed(audit) if any(touches(finding, *number) for number in asked)]


def _conditions(one: Audit, other: Audit, attacks: Sequence[str]) -> list[dict[str, str]]:
    """What the two should have in common; the base model by its weights where both audits loaded it, else by name."""
    audits = (one, other)
    loaded = all(audit.mia_audit.weights("base") for audit in audits)
    result = []
    for audit in audits:
        tasks = [task for task in audit.model_attacks if task.attack in attacks]
        found = conditions(audit, tasks, "models", "fingerprint")
        result.append(
            {
                **{name: value for name, value in found.items() if name not in _OWN},
                "base model": base_model(audit) if loaded else str(audit.mia_audit.data.base_model),
                "share of members": f"{audit.labels().mean():.2f}",
            }
        )
    return result
