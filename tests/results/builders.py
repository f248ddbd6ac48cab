"""Result folders as lm_eval writes them, made without a model: the numbers come from the package's own statistics.

write_run(tmp_path, [fake_audit({"spv": 2.0, "loss": 0.3})], capabilities={"arc_easy": {"acc": 0.6}})
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.mia_audit import mia_audit
from spvmia_plugin.auditing.outcome import Comparison, Outcome, RecordResult
from spvmia_plugin.auditing.subjects import UnitTold, unit_told
from spvmia_plugin.checks.blind import BlindInterval
from spvmia_plugin.checks.preconditions import Finding, check_preconditions
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.metrics.names import METRICS
from spvmia_plugin.metrics.one_run import CanaryAudit, canary_audit
from spvmia_plugin.metrics.summary import Summary, summarise
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import Cost
from spvmia_plugin.records import AuditData, Membership, Record

STRENGTHS: Mapping[str, float | None] = {"spv": 1.6, "loss": 0.3, "lira_base": 1.0, "lira_candidate": None}
"""A strong attack, a weak one, one between them, and one that could score nothing."""
CALIBRATED = ("spv", "lira_base", "lira_candidate", "ratio", "ez", "wbc", "spv_ez", "spv_wbc", "rmia")
BLIND = BlindInterval(auroc=0.51, low=0.44, high=0.58, p_value=0.4, confidence=0.95, permutations=399)
WARNING = Finding("near_duplicates", "warning", "3 non-members repeat members: the AUROC is too low", {"count": 3})
HIGHER_IS_BETTER = {key: metric.higher_is_better for key, metric in METRICS.items()}


DECLARED = "2026-11-23T19:37:30+00:00"
"""When the options of a fake run were given."""


@dataclass(frozen=True)
class Few:
    """The strength of an attack to which a share of the members alone looks different: those that were memorised."""

    share: float
    strength: float


Scores = Callable[[Sequence[Record], np.random.Generator], "NDArray[np.float64]"]
"""An attack's scores of records by a rule of its own, NaN for those that have none."""
Strengths = Mapping[str, "float | Few | Scores | None"]


@dataclass(frozen=True)
class FakeTask:
    """One task of the results file: its row, its config with `mia_audit`, and the lines of its samples file."""

    name: str
    row: dict[str, object]
    config: dict[str, object]
    samples: list[dict[str, object]]


def fake_records(
    n_members: int,
    n_nonmembers: int,
    *,
    files: Sequence[str] = ("records.jsonl",),
    texts: Sequence[str] | None = None,
    blocks: int = 1,
    seed: int = 0,
) -> tuple[Record, ...]:
    """Records in shuffled order, ids `file:row`, `blocks` of them from each document."""
    count = n_members + n_nonmembers
    labels = np.arange(count) < n_members
    records = []
    for i in range(count):
        row, block = divmod(i, blocks)
        document = f"{files[row % len(files)]}:{row + 1}"
        text = texts[i % len(texts)] if texts else f"ticket {i} of customer {i * 7919 % 10007}, order {i * 104729}"
        records.append(Record(f"{document}#{block}" if block else document, text, bool(labels[i]), document))
    order = np.random.default_rng(seed).permutation(count)
    return tuple(records[i] for i in order)


def fake_audit(
    strengths: Strengths = STRENGTHS,
    *,
    dataset: str = "custom",
    records: Sequence[Record] | None = None,
    findings: Sequence[Finding] | None = None,
    blind: BlindInterval | None = BLIND,
    membership: Membership = "declared",
    settings: Mapping[str, object] | None = None,
    provenance: Mapping[str, object] | None = None,
    fingerprint: str = "4f122957545c49c4db0c93aa13612ee0857e9d7a62254bdcb97f39b2c22f8e32",
    canary: bool = False,
    unscored_every: int = 0,
    details: Mapping[str, object] | None = None,
    stored: bool | Collection[str] = False,
    seed: int = 0,
) -> list[FakeTask]:
    """The tasks of one audit of the same records.

    Args:
        strengths: by attack: how far members' scores lie above those of non-members, in standard deviations, or those
            of some members (`Few`, the same ones under each attack); a rule that gives each record's score; None for an
            attack whose input is missing.
        dataset: the tasks' data set.
        records: what is audited; default 150 members and 150 non-members.
        findings: preconditions; None checks the data as a real run does.
        blind: the blind baseline, None where it was not possible.
        membership: how it is known.
        settings: `mia_*` options the user gave.
        provenance: details added to `data`.
        fingerprint: of the data.
        canary: write `canary_audit_<dataset>` in place of attack tasks (one attack).
        unscored_every: leave every so-manieth record without a score, 0 for none.
        details: more of what a run says of its stages.
        stored: everything was in the store already, nothing was computed; or the attacks of which that is so.
        seed: of the scores.
    """
    records = tuple(records) if records is not None else fake_records(150, 150)
    registry = load_registry()
    config = AuditConfig.from_metadata({"mia_seed": seed, **(settings or {})}, registry.attack_options)
    data = AuditData(
        records,
        (),
        (),
        membership,
        fingerprint,
        "records.jsonl",
        0,
        "./base",
        {"protocol": "given files", **(provenance or {})},
        unit_column="customer" if records[0].unit else None,
        group_column="region" if any(record.group for record in records) else None,
    )
    found = check_preconditions(data) if findings is None else list(findings)
    names = {f"canary_audit_{dataset}" if canary else f"{name}_mia_{dataset}": name for name in strengths}
    attacks = {task: registry.attack(name, config) for task, name in names.items()}
    comparison = Comparison(attacks, seed)
    results = {
        task: _results(strengths[name], records, name, unscored_every, seed + 1 + number)
        for number, (task, name) in enumerate(names.items())
    }
    for task, of_task in results.items():
        comparison.add(task, of_task, records)
    tasks = []
    for task, of_task in results.items():
        summary, canaries = _numbers(records, of_task, canary, seed)
        audit = mia_audit(
            attack=attacks[task], data=data, config=config, summary=summary, results=of_task,
            outcome=_outcome(details or {}, stored, attacks[task]), findings=found, blind=blind, canaries=canaries,
            comparison=comparison, declared=DECLARED, unit=_unit(data, records, of_task, seed),
        )  # fmt: skip
        row = _row(task, len(records), summary, blind, canaries)
        tasks.append(
            FakeTask(
                task,
                row,
                _config(task, dataset, names[task], settings or {}, audit),
                _samples(records, of_task, config),
            )
        )
    return tasks


def _unit(
    data: AuditData, records: Sequence[Record], results: Mapping[str, RecordResult], seed: int
) -> UnitTold | None:
    """What the attack tells of units, where the records are of some."""
    scores = [results[record.id].score for record in records]
    known = [float("nan") if score is None else score for score in scores]
    return None if data.unit_column is None else unit_told(data.unit_column, records, known, seed)


def write_run(
    folder: Path,
    audits: Sequence[Sequence[FakeTask]],
    *,
    capabilities: Mapping[str, Mapping[str, float]] | None = None,
    model: str = "./adapter",
    model_args: Mapping[str, object] | None = None,
    config: Mapping[str, object] | None = None,
    date: datetime = datetime(2026, 11, 23, 19, 43, 12, 664116, tzinfo=timezone.utc),
    with_samples: bool = True,
) -> Path:
    """Write the results and samples files of one run below `folder`, as `lm_eval --output_path folder` does.

    Args:
        folder: `--output_path`.
        audits: from `fake_audit`.
        capabilities: metrics by ordinary task; each gets a standard error of 0.01, `higher_is_better` and 100 samples.
        model: its name; the files lie in a folder named after it.
        model_args: of the harness's config; default names a base and `model` as adapter.
        config: further entries of the harness's config.
        date: of the run, part of the file names.
        with_samples: False for a run without `--log_samples`.

    Returns:
        The results file.
    """
    tasks = [task for audit in audits for task in audit]
    stamp = date.replace(tzinfo=None).isoformat().replace(":", "-")
    place = folder / model.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    ordinary = capabilities or {}
    raw: dict[str, Any] = {
        "results": {task.name: task.row for task in tasks}
        | {name: _capability_row(name, metrics) for name, metrics in ordinary.items()},
        "group_subtasks": {},
        "configs": {task.name: task.config for task in tasks}
        | {name: {"task": name, "metadata": {"version": 1.0}} for name in ordinary},
        "versions": dict.fromkeys([*(task.name for task in tasks), *ordinary], 1.0),
        "n-shot": dict.fromkeys([*(task.name for task in tasks), *ordinary], 0),
        "higher_is_better": {task.name: HIGHER_IS_BETTER for task in tasks}
        | {name: dict.fromkeys(metrics, True) for name, metrics in ordinary.items()},
        "n-samples": {task.name: dict.fromkeys(("original", "effective"), len(task.samples)) for task in tasks}
        | {name: {"original": 100, "effective": 100} for name in ordinary},
        "config": {
            "model": "hf", "model_args": {"pretrained": "./base", "peft": model} if model_args is None else model_args,
            "model_num_parameters": 139399488, "model_dtype": "torch.bfloat16", "batch_size": "16", "batch_sizes": [],
            "device": "cpu", "use_cache": None, "limit": None, "bootstrap_iters": 100000, "gen_kwargs": {},
            "random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234, **(config or {}),
        },
        "git_hash": None, "date": date.timestamp(), "transformers_version": "5.23.0", "lm_eval_version": "0.4.13",
        "max_length": 8192, "model_source": "hf", "model_name": model, "model_name_sanitized": model.replace("/", "__"),
        "total_evaluation_time_seconds": "342.13",
    }  # fmt: skip
    results = place / f"results_{stamp}.json"
    results.write_text(json.dumps(raw, indent=2, ensure_ascii=False), encoding="utf-8")
    if with_samples:
        for task in tasks:
            lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in task.samples)
            (place / f"samples_{task.name}_{stamp}.jsonl").write_text(lines, encoding="utf-8")
    return results


def _results(
    strength: float | Few | Scores | None, records: Sequence[Record], attack: str, unscored_every: int, seed: int
) -> dict[str, RecordResult]:
    """What one attack says of each record: normal scores, and mean log-probabilities that fit them."""
    if strength is None:
        reason = f"{attack}: expected other data of the same domain, got none; set mia_candidate"
        return {record.id: RecordResult(None, reason) for record in records}
    if callable(strength):
        scores = strength(records, np.random.default_rng(seed))
        return {
            record.id: RecordResult(None, "fewer than 8 tokens") if math.isnan(score) else RecordResult(float(score))
            for record, score in zip(records, scores, strict=True)
        }
    few = strength if isinstance(strength, Few) else Few(1.0, strength)
    exposed = {record.id for record in _first_members(records, few.share)}
    rng = np.random.default_rng(seed)
    results = {}
    for i, record in enumerate(records):
        score = float(rng.normal(few.strength if record.id in exposed else 0.0))
        reference = float(rng.normal(-3.5, 0.5))
        reason = "fewer than 8 tokens" if unscored_every and i % unscored_every == 0 else None
        results[record.id] = RecordResult(
            score=None if reason else score,
            reason=reason,
            n_tokens=int(rng.integers(8, 64)),
            target=reference + score / 10,
            reference=reference if attack in CALIBRATED else None,
            p_value=float(ndtr(-score)) if attack == "lira_offline" and not reason else None,
        )
    return results


def _first_members(records: Sequence[Record], share: float) -> Sequence[Record]:
    members = [record for record in records if record.is_member]
    return members[: round(share * len(members))]


def _numbers(
    records: Sequence[Record], results: Mapping[str, RecordResult], canary: bool, seed: int
) -> tuple[Summary, CanaryAudit | None]:
    scored = [(record, score) for record in records if (score := results[record.id].score) is not None]
    summary = summarise(
        [score for _, score in scored],
        [record.is_member for record, _ in scored],
        [record.cluster for record, _ in scored],
        seed=seed,
    )
    if not canary:
        return summary, None
    scores = [np.nan if (score := results[record.id].score) is None else score for record in records]
    return summary, canary_audit(scores, [record.is_member for record in records], seed=seed)


def _outcome(details: Mapping[str, object], stored: bool | Collection[str], attack: Attack) -> Outcome:
    is_stored = stored if isinstance(stored, bool) else attack.name in stored
    texts, tokens = 300, 9600
    asked = {(need.role, need.view): Amount(texts, tokens, 0 if is_stored else tokens) for need in attack.needs}
    stages = {
        "self-prompts": Cost(0, 16000, 0, 31.5, 8),
        "reference": Cost(0, 0, 48000, 200.25, 96),
        "paraphrases": Cost(12800, 0, 0, 13.198674942999787, 7),
        "scoring: target": Cost(183013, 0, 0, 513.7867665260001, 151),
        "scoring: reference": Cost(140800, 0, 0, 261.5192360630008, 69),
    }
    return Outcome(
        stages={name: Cost(0, 0, 0, 0.25, 0) for name in stages} if stored is True else stages,
        asked=asked,
        notes=["3 records are longer than the model's context and were scored in windows"],
        details={
            "reference": {"kind": "self_prompt", "self_prompts": 250},
            "paraphrases": {"kind": "causal"},
            **details,
        },
        models={
            "target": {
                "backend": "hf",
                "dtype": "bfloat16",
                "weights": [{"files": {"model.safetensors": "7ef9" * 16}}],
            },
            "reference": {
                "backend": "hf",
                "dtype": "bfloat16",
                "weights": [{"files": {"adapter.safetensors": "8de2"}}],
            },
        },
    )


def _row(
    task: str, n: int, summary: Summary, blind: BlindInterval | None, canaries: CanaryAudit | None
) -> dict[str, object]:
    """The harness's row, NaN and "N/A" as it writes them."""
    one, tenth = summary.tpr_at_1pct_fpr, summary.tpr_at_0_1pct_fpr
    values: list[tuple[str, object, object]] = [
        ("auroc", summary.auroc, summary.auroc_stderr),
        ("tpr_at_1pct_fpr", one.value, one.stderr),
        ("tpr_at_0.1pct_fpr", tenth.value, tenth.stderr),
        ("asr", summary.asr, "N/A"),
        ("blind_auroc", blind.auroc if blind else np.nan, "N/A"),
        ("epsilon_lb", canaries.epsilon_lb if canaries else np.nan, "N/A"),
        ("privacy_score", summary.privacy_score, "N/A"),
    ]
    row: dict[str, object] = {"name": task, "alias": task, "sample_len": n}
    for name, value, stderr in values:
        row |= {f"{name},none": value, f"{name}_stderr,none": stderr}
    return row | {"sample_count": {f"{name},none": n for name, _, _ in values}}


def _capability_row(name: str, metrics: Mapping[str, float]) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "alias": name, "sample_len": 100}
    for metric, value in metrics.items():
        row |= {f"{metric},none": value, f"{metric}_stderr,none": 0.01}
    return row


def _config(
    task: str, dataset: str, attack: str, settings: Mapping[str, object], audit: Mapping[str, object]
) -> dict[str, object]:
    metadata = {"version": 1.0, "spvmia_attack": attack, "spvmia_dataset": dataset, **settings, "mia_audit": audit}
    return {"task": task, "output_type": "spvmia_audit", "num_fewshot": 0, "metadata": metadata}


def _samples(
    records: Sequence[Record], results: Mapping[str, RecordResult], config: AuditConfig
) -> list[dict[str, object]]:
    samples: list[dict[str, object]] = []
    for number, record in enumerate(records):
        doc: dict[str, object] = {"id": record.id, "is_member": record.is_member}
        doc |= {} if record.group is None else {"group": record.group}
        answer = results[record.id].to_json()
        samples.append(
            {
                "doc_id": number,
                "doc": doc | {"text": record.text} if config.log_text else doc,
                "target": "member" if record.is_member else "nonmember",
                "arguments": {"gen_args_0": {"arg_0": record.id}},
                "resps": [[answer]],
                "filtered_resps": [answer],
                "filter": "none",
                "metrics": list(HIGHER_IS_BETTER),
            }
        )
    return samples
