"""A weighted sum of attacks, and what it has over each of them: `spvmia combine`.

Its weights are fitted on shadow models, whose members are known; no label of the target touches them. Shadow models as
in Shokri et al. 2017 (arXiv 1610.05820), whose attack model sees confidences where this one sees the scores of attacks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats, check_labels, cluster_codes
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT
from spvmia_plugin.metrics.paired import Gain, gains
from spvmia_plugin.metrics.summary import Summary, summarise
from spvmia_plugin.results import Audit, read_latest
from spvmia_plugin.results.comparable import base_model, conditions, differences, target_identity
from spvmia_plugin.results.model import failed, touches
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.schema import as_json

NORMALISATIONS = ("z", "rank")
STRENGTHS: NDArray[np.float64] = np.logspace(-3, 2, 11)
"""Inverse regularisation strengths that are tried, on the shadows."""
FOLDS = 5
_CLIP = 5.0
"""Standard deviations from the median at which a normalised score is cut off."""
_QUARTILES = 1.349
"""The distance between the quartiles of a normal distribution, in standard deviations."""
_OWN = ("data set", "data", "membership", "members and non-members")
"""Conditions that a shadow need not share with the target: its records are its own. Their share of members counts."""
TARGET, SHADOW = "RESULTS", "--shadow"


@dataclass(frozen=True, eq=False)
class Scored:
    """Attack scores of the records of one audit.

    Attributes:
        scores: (n,) of each attack, NaN where a record has none; higher = member.
        labels: (n,) bool, whether a record is a member.
        clusters: (n,) its document.

    Raises:
        SpvmiaError: lengths differ.
    """

    scores: Mapping[str, Floats]
    labels: Bools
    clusters: Sequence[Hashable]

    def __post_init__(self) -> None:
        arrays = {name: check_labels(scores, self.labels) for name, scores in self.scores.items()}
        object.__setattr__(self, "scores", {name: values for name, (values, _) in arrays.items()})
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.bool_))
        cluster_codes(self.clusters, len(self.labels))

    def unscored(self, attack: str) -> int:
        """How many records an attack has no score for."""
        return int(np.sum(~np.isfinite(self.scores[attack])))


@dataclass(frozen=True)
class Combination:
    """A fitted combination.

    Attributes:
        attacks: in the order of the weights.
        weights: of the normalised scores.
        normalisation: `z` or `rank`.
        strength: the inverse regularisation strength that was chosen, larger = less regularised.
    """

    attacks: tuple[str, ...]
    weights: tuple[float, ...]
    normalisation: str
    strength: float

    def score(self, scores: Mapping[str, Floats]) -> Floats:
        """(n,) combined scores of an audit's records, higher = member; their labels are not asked for."""
        combined: Floats = features(scores, self.attacks, self.normalisation) @ np.array(self.weights)
        return combined


def features(scores: Mapping[str, Floats], attacks: Sequence[str], normalisation: str) -> Floats:
    """(n, k) scores of one audit, each attack on a scale of its own audit.

    Scores of two models are not on one scale. Each attack's are normalised over all records of its audit, members
    and not, which takes no label but assumes that the share of members is about the same in both audits. A record
    without a score gets the middle, 0.
    """
    return np.column_stack([_normalised(scores[name], normalisation) for name in attacks])


def _normalised(values: Floats, normalisation: str) -> Floats:
    known = np.isfinite(values)
    result = np.zeros(len(values))
    if known.sum() < 2:
        return result
    if normalisation == "rank":
        result[known] = (scipy.stats.rankdata(values[known]) - 0.5) / known.sum() - 0.5
        return result
    # Median and quartiles: a handful of huge ratios would squeeze all other records together.
    low, middle, high = np.quantile(values[known], (0.25, 0.5, 0.75))
    scale = (high - low) / _QUARTILES or float(np.std(values[known])) or 1.0
    result[known] = np.clip((values[known] - middle) / scale, -_CLIP, _CLIP)
    return result


def fit(shadows: Sequence[Scored], attacks: Sequence[str], normalisation: str = "z") -> Combination:
    """Fit a logistic regression on the records of all shadows, its strength chosen by folds over their documents.

    Args:
        shadows: audits of shadow models; each is normalised by itself.
        attacks: what to combine.
        normalisation: `z`, by median and quartiles, or `rank`.

    Raises:
        SpvmiaError: the normalisation is unknown, there is no shadow or nothing to combine, an attack was not run on a
            shadow, or a shadow has too few documents of a class.
    """
    if normalisation not in NORMALISATIONS:
        raise SpvmiaError(
            f"--normalise: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}; correct it"
        )
    if not shadows or not attacks:
        raise SpvmiaError(
            f"--shadow: expected at least one shadow and one attack, got {len(shadows)} and {len(attacks)}; name them"
        )
    absent = sorted({name for name in attacks for shadow in shadows if name not in shadow.scores})
    if absent:
        raise SpvmiaError(f"--shadow: expected scores of {', '.join(absent)}, got none; run these attacks on it")
    for shadow in shadows:  # each is normalised by itself, so each needs both classes
        codes = cluster_codes(shadow.clusters, len(shadow.labels))
        for name, chosen in (("members", shadow.labels), ("non-members", ~shadow.labels)):
            if (found := len(np.unique(codes[chosen]))) < FOLDS:
                raise SpvmiaError(
                    f"--shadow: expected {name} of at least {FOLDS} documents, got {found}; audit a shadow of more"
                )
    labels = np.concatenate([shadow.labels for shadow in shadows])
    inputs = np.concatenate([features(shadow.scores, attacks, normalisation) for shadow in shadows])
    # Documents of different shadows may share an id, and are told apart.
    documents = [(number, cluster) for number, shadow in enumerate(shadows) for cluster in shadow.clusters]
    return _fitted(inputs, labels, cluster_codes(documents, len(labels)), attacks, normalisation)


def _fitted(inputs: Floats, labels: Bools, codes: Codes, attacks: Sequence[str], normalisation: str) -> Combination:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    folds = list(StratifiedGroupKFold(FOLDS).split(inputs, labels, codes))
    if any(len(np.unique(labels[held_out])) < 2 for _, held_out in folds):
        raise SpvmiaError(
            f"--shadow: expected documents that {FOLDS} folds of both classes can be made of, got too few, or too many "
            "that hold both classes; audit a shadow of more documents"
        )
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=folds, scoring="roc_auc", error_score="raise"
    )
    search.fit(inputs, labels)
    weights = tuple(map(float, search.best_estimator_.coef_[0]))
    return Combination(tuple(attacks), weights, normalisation, float(search.best_params_["C"]))


@dataclass(frozen=True)
class OnTarget:
    """What a combination found on a target.

    Attributes:
        combination: the weights.
        combined: its numbers.
        singles: those of each attack in it, on the same records: one without a score counts as the attack's median.
        unscored: records that an attack has no score for, by attack.
        best: by metric (`auroc`, `tpr_at_1pct_fpr`) the attack that has most of it on this target. It is chosen with
            the target's labels, which favours it over the combination.
        gain: by metric, the combination less `best`.
    """

    combination: Combination
    combined: Summary
    singles: Mapping[str, Summary]
    unscored: Mapping[str, int]
    best: Mapping[str, str]
    gain: Mapping[str, Gain]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, None for NaN."""
        fitted = self.combination
        return {
            "combination": {
                "metrics": as_json(self.combined),
                "weights": dict(zip(fitted.attacks, fitted.weights, strict=True)),
                "normalisation": fitted.normalisation,
                "strength": fitted.strength,
            },
            "singles": {name: as_json(single) for name, single in self.singles.items()},
            "unscored": dict(self.unscored),
            "best_single": dict(self.best),
            "gain": {metric: as_json(gain) for metric, gain in self.gain.items()},
            "n": self.combined.n_members + self.combined.n_nonmembers,
        }


def compare(combination: Combination, target: Scored, *, seed: int = 0) -> OnTarget:
    """Score a target's records with a combination and set it against the best single attack.

    Args:
        combination: fitted on shadows.
        target: scores of at least the combination's attacks, with the labels that the numbers are computed from.
        seed: of the bootstraps.

    Raises:
        SpvmiaError: an attack of the combination was not run on the target.
    """
    absent = [name for name in combination.attacks if name not in target.scores]
    if absent:
        raise SpvmiaError(f"RESULTS: expected scores of {', '.join(absent)}, got none; run these attacks on the target")
    combined = combination.score(target.scores)
    values = {name: _filled(target.scores[name]) for name in combination.attacks}
    singles = {name: summarise(scores, target.labels, target.clusters, seed=seed) for name, scores in values.items()}
    numbers = {name: single.values() for name, single in singles.items()}
    best = {  # NaN is not the best of anything
        metric.key: max(singles, key=lambda name: np.nan_to_num(numbers[name][metric.key], nan=-math.inf))
        for metric in (AUROC, TPR_1PCT)
    }
    over = {
        name: dict(zip(best, gains(combined, values[name], target.labels, target.clusters, seed=seed), strict=True))
        for name in set(best.values())
    }
    return OnTarget(
        combination=combination,
        combined=summarise(combined, target.labels, target.clusters, seed=seed),
        singles=singles,
        unscored={name: target.unscored(name) for name in combination.attacks},
        best=best,
        gain={metric: over[name][metric] for metric, name in best.items()},
    )


def _filled(scores: Floats) -> Floats:
    """A record without a score gets the median: the rank of a coin toss."""
    known = np.isfinite(scores)
    return np.where(known, scores, np.median(scores[known]) if known.any() else 0.0)


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
    there = _attacks(audited)
    common = [name for name in there if all(name in _attacks(audit) for audit in known)]
    chosen = _chosen(attacks, there, common)
    scored = [_scored(audit, chosen) for audit in known]
    on_target = compare(fit(scored, chosen, normalisation), _scored(audited, chosen), seed=seed)
    # The combination's own limits; the TPR at 0.1 % is not among its numbers.
    numbers = on_target.combined
    limits = [text for text in numbers.warnings if text != numbers.tpr_at_0_1pct_fpr.reason]
    return Combined(
        on_target=on_target,
        n_shadow_records=sum(len(one.labels) for one in scored),
        shadow_unscored={name: sum(one.unscored(name) for one in scored) for name in chosen},
        left_out=tuple(name for name in there if name not in chosen) if attacks is None else (),
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


def _chosen(asked: Sequence[str] | None, there: Sequence[str], common: Sequence[str]) -> list[str]:
    if asked is None and not common:
        raise SpvmiaError(
            f"{SHADOW}: expected attacks of RESULTS ({', '.join(there)}), got none of them; run the same tasks on both"
        )
    missing = [name for name in asked or () if name not in common]
    if missing or asked == []:
        raise SpvmiaError(
            f"--attacks: expected attacks that all audits have scores of ({', '.join(common) or 'none'}), got "
            f"{', '.join(map(repr, missing)) or 'none'}; leave them out, or run them"
        )
    return list(dict.fromkeys(common if asked is None else asked))


def _scored(audit: Audit, attacks: Sequence[str]) -> Scored:
    tasks = {task.attack: task for task in audit.model_attacks}
    return Scored({name: audit.scores(tasks[name]) for name in attacks}, audit.labels(), audit.clusters())


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
