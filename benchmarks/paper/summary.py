"""From an audit's output folder to the numbers of a summary: nothing in it names a record."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.settings import CALIBRATED
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.results.model import Audit, TaskResult
from spvmia_plugin.results.read import read_latest
from spvmia_plugin.signals import Role, View
from spvmia_plugin.util.schema import as_json

Floats = NDArray[np.float64]

_PLACES = tuple(
    f"mia_{name}"
    for name in (
        *("cache_dir", "base_model", "manifest", "dataset_path", "mask_model", "reference"),
        *("members", "nonmembers", "prompts", "candidate"),
    )
)
"""Options that name a place on a machine rather than a setting."""

WITHOUT_VARIATION = "spv without variation"
WITHOUT_VARIATION_LOG = f"{WITHOUT_VARIATION}, logarithms"
DERIVED: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    WITHOUT_VARIATION: lambda target, reference: np.exp(target) - np.exp(reference),
    WITHOUT_VARIATION_LOG: lambda target, reference: target - reference,
    f"{WITHOUT_VARIATION}, ratio": lambda target, reference: reference / np.minimum(target, -1e-6),
}
"""Scores of the two means that every sample of an attack with the self-prompted reference holds, in nats a token: what
is left of `spv` without paraphrases."""

_METRICS = (
    "auroc",
    "auroc_stderr",
    "auroc_interval",
    "tpr_at_1pct_fpr",
    "tpr_at_0.1pct_fpr",
    "asr",
    "n_members",
    "n_nonmembers",
    "n_clusters",
    "confidence",
)


def summarise_audit(results: Path, target: Path, command: str) -> dict[str, Any]:
    """The summary of one audit, of whatever attacks it holds.

    Args:
        results: lm_eval's output folder.
        target: the target's folder, with its manifest.
        command: the audit's, as it is shown.
    """
    run = read_latest(results)
    if len(run.audits) != 1:
        raise SpvmiaError(
            f"results: expected one audit in {results}, got {len(run.audits)}; name the folder of one run"
        )
    audit = run.audits[0]
    tokens = _record_tokens(audit)
    attacks = {task.attack: _of_task(task, tokens) for task in audit.tasks}
    record = audit.told
    settings = {key: value for key, value in record["settings"].items() if key not in _PLACES}
    reference = record["settings"]["mia_reference"]
    settings["mia_reference"] = reference if reference in ("self_prompt", "base") else "fine-tuned on true data"
    return {
        "target": _digest(target),
        "audits": [
            {
                "command": command,
                "attacks": list(attacks),
                "settings": settings,
                "versions": dict(record["versions"]),
                "cost": _cost(record["cost"]),
                "rates": rates(record),
            }
        ],
        "blind": {key: record["blind"].get(key) for key in ("auroc", "low", "high", "p_value")},
        "attacks": attacks,
        "derived": derived(audit, clusters_of(target)),
    }


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with the attacks of a later audit of the same target; where both have one, the later holds.

    Raises:
        SpvmiaError: they are of different targets or settings.
    """
    if old["target"] != new["target"]:
        raise SpvmiaError("summary: expected an audit of the same weights, got another target; make the cell anew")
    one, two = (audits["audits"][-1]["settings"] for audits in (old, new))
    differing = sorted(key for key in one.keys() & two.keys() if one[key] != two[key])
    if differing:
        raise SpvmiaError(f"summary: expected an audit of the same settings, got others in {', '.join(differing)}")
    kept = {key: value for key, value in old.items() if key not in ("format", "cell")}
    return {
        **kept,
        **new,
        "finetune": old.get("finetune") or new.get("finetune"),
        "audits": [*old["audits"], *new["audits"]],
        "attacks": {**old["attacks"], **new["attacks"]},
        "derived": {**old.get("derived", {}), **new["derived"]},
    }


def clusters_of(target: Path) -> dict[str, str]:
    """Document of each record, from the target's manifest."""
    manifest = read_manifest(target)
    return {entry.id: entry.cluster for entries in manifest.records.values() for entry in entries}


def rates(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds a token of what an audit did: scoring, writing self-prompts, training; None for what it did not do."""
    cost = record["cost"]
    scoring = [stage for name, stage in cost.items() if name.startswith("scoring")]
    trained = record["stages"].get("reference") or {}
    seconds, tokens = trained.get("seconds") or 0.0, trained.get("tokens") or 0
    stage = cost.get("reference") or {"seconds": 0.0, "generated_tokens": 0}
    return {
        "score": _rate(sum(s["seconds"] for s in scoring), sum(s["forward_tokens"] for s in scoring)),
        "train": _rate(seconds, tokens),
        "generate": _rate(stage["seconds"] - seconds, stage["generated_tokens"]),
    }


def derived(audit: Audit, clusters: Mapping[str, str]) -> dict[str, Any]:
    """AUROC and the rest of the scores in `DERIVED`, from any attack with the self-prompted reference."""
    task = next((task for task in audit.tasks if task.attack in CALIBRATED and task.records), None)
    if task is None:
        return {}
    records = [record for record in task.records if record.target is not None and record.reference is not None]
    target, reference = (np.array([getattr(record, name) for record in records]) for name in ("target", "reference"))
    labels = np.array([record.is_member for record in records])
    documents = [clusters.get(record.id, record.cluster) for record in records]
    seed = audit.mia_audit.seed
    found = {name: summarise(score(target, reference), labels, documents, seed=seed) for name, score in DERIVED.items()}
    return {name: _metrics(as_json(summary)) for name, summary in found.items()}


def tokens_alone(attack: str, settings: Mapping[str, Any], tokens: int, prompts: int) -> dict[str, int]:
    """What an attack processes when it is run alone: tokens scored, written and trained on.

    Args:
        attack: its name.
        settings: all `mia_*` options of the audit.
        tokens: of all audited records.
        prompts: held-out documents, the population of RMIA.
    """
    return tokens_together([attack], settings, tokens, prompts)


def tokens_together(
    attacks: Sequence[str],
    settings: Mapping[str, Any],
    tokens: int,
    prompts: int,
    *,
    stored: Collection[Role] = (),
    has_reference: bool = False,
) -> dict[str, int]:
    """The same for several attacks in one run, each text scored once under each model.

    Args:
        attacks: their names.
        settings: all `mia_*` options of the audit.
        tokens: of all audited records.
        prompts: held-out documents, the population of RMIA.
        stored: models whose scores are in the store, and the paraphrases with them.
        has_reference: whether the self-prompted reference is there.
    """
    registry = load_registry()
    given = {key: value for key, value in settings.items() if value is not None}
    config = AuditConfig.from_metadata(given, registry.attack_options)
    needs = {(need.role, need.view) for attack in attacks for need in registry.attack(attack, config).needs}
    pairs = {(role, view) for role, view in needs if role not in stored}
    block, texts = config.block_size or 64, 2 * config.perturbations
    shots = int(config.attack_options.get("mia_recall_shots", 7))
    of_view = {View.NEIGHBOURS: texts * tokens, View.PREFIXED: (1 + shots) * tokens, View.POPULATION: prompts * block}
    scored = sum(of_view.get(view, tokens) for _, view in pairs)
    if not stored and any(view is View.NEIGHBOURS for _, view in pairs) and config.perturbation == "causal":
        scored += tokens  # one pass of the base draws all paraphrases
    roles = {role for role, _ in pairs}
    self_prompts = Role.REFERENCE in roles and config.reference == "self_prompt" and not has_reference
    references = (Role.CANDIDATE in roles) + self_prompts
    trained = round(references * config.self_prompts * config.reference_epochs * block)
    written = config.self_prompts * max(block - config.prompt_tokens, 0) if self_prompts else 0
    return {"scored": scored, "written": written, "trained": trained}


def _of_task(task: TaskResult, tokens: int) -> dict[str, Any]:
    """Numbers of one attack."""
    record = task.told
    alone = tokens_alone(task.attack, record["settings"], tokens, int(record["n"]["prompts"]))
    return {
        **_metrics(record["metrics"]),
        "n_scored": record["n"]["scored"],
        "unscored": dict(record["unscored"]),
        "attack": dict(record["attack"]),
        "tokens_alone": alone,
        "seconds_alone": seconds_alone(alone, rates(record)),
    }


def seconds_alone(tokens: Mapping[str, int], rate: Mapping[str, float | None]) -> float | None:
    """Seconds of an attack run alone at these rates; None where one is not known."""
    parts = [
        (tokens["scored"], rate["score"]),
        (tokens["written"], rate["generate"]),
        (tokens["trained"], rate["train"]),
    ]
    needed = [(count, speed) for count, speed in parts if count]
    if any(speed is None for _, speed in needed):
        return None
    return sum(count * float(speed or 0.0) for count, speed in needed)


def _record_tokens(audit: Audit) -> int:
    """Tokens of all audited records."""
    counted = [[r.n_tokens for r in task.records if r.n_tokens] for task in audit.tasks]
    return max((sum(numbers) for numbers in counted), default=0)


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in _METRICS}


def _cost(cost: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 3) for key, value in stage.items()} for name, stage in cost.items()}


def _rate(seconds: float, tokens: float) -> float | None:
    return seconds / tokens if tokens and seconds > 0 and math.isfinite(seconds) else None


def _digest(target: Path) -> str:
    """SHA-256 of the target's weights."""
    digest = hashlib.sha256()
    for path in sorted(target.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
