"""From results folders to a combination: a target's audit and its shadows', and what sets them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spvmia_plugin.combination.compare import AUROC, TPR, Comparison, compare
from spvmia_plugin.combination.weights import Scored, fit
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.comparable import base_model, conditions, differences
from spvmia_plugin.results import Audit, read_latest
from spvmia_plugin.results.findings import failed, touches
from spvmia_plugin.shown import shown

_OWN = ("data set", "data", "membership", "members and non-members")
"""Conditions that a shadow need not share with the target: its records are its own. Their share of members counts."""


@dataclass(frozen=True)
class Combined:
    """A combination of the attacks of one audit.

    Attributes:
        comparison: its numbers.
        n_shadow_records: records of all shadows, which the weights were fitted on.
        left_out: attacks of the target's audit that a shadow's lacks.
        warnings: in plain sentences, what may keep the weights from carrying over.
    """

    comparison: Comparison
    n_shadow_records: int
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
        SpvmiaError: an audit cannot be read or has no samples, a shadow is the target's own audit, an attack is
            missing, or the shadows have too few documents.
    """
    audited = _audit(target, "RESULTS")
    known = [_audit(place, "--shadow") for place in shadows]
    for place, audit in zip(shadows, known, strict=True):
        _check_other_records(audited, audit, place)
    there = _attacks(audited)
    common = [name for name in there if all(name in _attacks(audit) for audit in known)]
    chosen = _chosen(attacks, there, common)
    fitted = fit([_scored(audit, chosen) for audit in known], chosen, normalisation)
    return Combined(
        comparison=compare(fitted, _scored(audited, chosen), seed=seed),
        n_shadow_records=sum(len(audit.records) for audit in known),
        left_out=tuple(name for name in there if name not in chosen) if attacks is None else (),
        warnings=tuple(_warnings(audited, known, shadows, chosen)),
    )


def _audit(place: Path, option: str) -> Audit:
    """The one audit of the newest run."""
    audits = read_latest(place).audits
    if len(audits) > 1:
        names = ", ".join(shown(audit.dataset) for audit in audits)
        raise SpvmiaError(
            f"{option}: expected a run that audits one data set, got {names} in {place}; run one of them by itself"
        )
    if not audits[0].has_samples:
        raise SpvmiaError(
            f"{option}: expected the scores of each record, got a run without samples in {place}; run lm_eval with "
            "--log_samples"
        )
    return audits[0]


def _check_other_records(target: Audit, shadow: Audit, place: Path) -> None:
    if shadow.record["data"]["fingerprint"] == target.record["data"]["fingerprint"]:
        raise SpvmiaError(
            f"--shadow: expected an audit of other records, got those of RESULTS in {place}: the weights would be "
            "fitted on the labels they are judged by; fine-tune a shadow on records that are not audited"
        )


def _attacks(audit: Audit) -> list[str]:
    """The attacks that have a score of some record."""
    return [task.attack for task in audit.model_attacks if any(record.score is not None for record in task.records)]


def _chosen(asked: Sequence[str] | None, there: Sequence[str], common: Sequence[str]) -> list[str]:
    if asked is None and not common:
        raise SpvmiaError(
            f"--shadow: expected attacks of RESULTS ({', '.join(there)}), got none of them; run the same tasks on both"
        )
    missing = [name for name in asked or () if name not in common]
    if missing:
        raise SpvmiaError(
            f"--attacks: expected attacks that all audits have ({', '.join(common) or 'none'}), got "
            f"{', '.join(missing)}; leave them out, or run them"
        )
    return list(dict.fromkeys(common if asked is None else asked))


def _scored(audit: Audit, attacks: Sequence[str]) -> Scored:
    tasks = {task.attack: task for task in audit.model_attacks}
    return Scored({name: audit.scores(tasks[name]) for name in attacks}, audit.labels(), audit.clusters())


def _warnings(target: Audit, known: Sequence[Audit], shadows: Sequence[Path], attacks: Sequence[str]) -> list[str]:
    """Failed conditions of the audits, and what sets them apart: weights carry over between models made alike."""
    found = [f"RESULTS: {message}" for message in _failed(target, attacks)]
    ours = _conditions(target, attacks)
    for place, audit in zip(shadows, known, strict=True):
        found += [f"{place}: {message}" for message in _failed(audit, attacks)]
        apart = differences(ours, _conditions(audit, attacks))
        if apart:
            found.append(f"{place}: differs from RESULTS in more than its records: {apart}")
    return [shown(sentence) for sentence in found]


def _failed(audit: Audit, attacks: Sequence[str]) -> list[str]:
    """Messages of the failed conditions that touch a number of a combination of these attacks."""
    asked = [(attack, metric) for attack in attacks for metric in (AUROC, TPR)]
    return [str(finding["message"]) for finding in failed(audit) if any(touches(finding, *number) for number in asked)]


def _conditions(audit: Audit, attacks: Sequence[str]) -> dict[str, str]:
    tasks = [task for task in audit.model_attacks if task.attack in attacks]
    found = conditions(audit, tasks, "models", "fingerprint")
    return {
        **{name: value for name, value in found.items() if name not in _OWN},
        "base model": base_model(audit),
        "share of members": f"{audit.labels().mean():.2f}",
    }
