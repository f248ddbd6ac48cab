"""Results of several models, made without any: each has weights of its own, and what else a test wants to differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from spvmia_plugin.checks import Finding
from spvmia_plugin.records import Record
from tests.results.builders import FakeTask, fake_audit, fake_records, write_run

ATTACKS = {"spv": 1.6, "loss": 0.3, "lira_base": 1.0}
RECIPE = {"method": "lora", "epochs": 3.0, "lr": 2e-4, "lora_rank": 16, "members": 150, "seed": 0}
TOO_FEW = Finding("too_few_nonmembers_0.1pct", "warning", "150 non-members cannot resolve 0.1 %", {})
DUPLICATES = Finding("near_duplicates", "warning", "3 of 150 non-members repeat members: AUROC is too low", {})


def audited(
    strengths: Mapping[str, float | None] = ATTACKS,
    *,
    weights: str = "light",
    recipe: Mapping[str, object] = RECIPE,
    findings: Sequence[Finding] = (TOO_FEW,),
    base: str = "base",
    records: Sequence[Record] | None = None,
    **options: Any,
) -> list[FakeTask]:
    """The tasks of an audit of the model whose adapter is called `weights`; by default of 60 members, 100 others."""
    records = fake_records(60, 100) if records is None else records
    provenance = {"split": "random", "finetune": dict(recipe)}
    tasks = fake_audit(
        strengths, records=records, findings=findings, membership="manifest", provenance=provenance, **options
    )
    models = {
        "base": {"dtype": "bfloat16", "weights": [file_of(base)]},
        "target": {"dtype": "bfloat16", "weights": [file_of(base)] + ([file_of(weights)] if weights != base else [])},
    }
    for task in tasks:
        audit_of(task)["models"] = models
    return tasks


def file_of(name: str) -> dict[str, object]:
    return {"files": {"model.safetensors": hashlib.sha256(name.encode()).hexdigest()}}


def audit_of(task: FakeTask) -> dict[str, Any]:
    found: dict[str, Any] = task.config["metadata"]["mia_audit"]  # type: ignore[index]
    return found


def model(
    folder: Path, name: str, *audits: Sequence[FakeTask], acc: float | None = 0.5, day: int = 0, **options: Any
) -> Path:
    """Write one run of a model; without audits it has capability scores alone. Returns the results file."""
    capabilities = {} if acc is None else {"arc_easy": {"acc": acc}}
    date = datetime(2026, 11, 1, tzinfo=timezone.utc) + timedelta(days=day)
    return write_run(folder, audits, model=name, capabilities=capabilities, date=date, **options)


def three_models(folder: Path) -> Path:
    """One model that gives little away and can little, one that gives much and can much, one of which neither holds."""
    model(folder, "org/private", audited({"spv": 0.2, "loss": 0.1}, weights="private"), acc=0.4)
    model(folder, "org/capable", audited({"spv": 2.0, "loss": 0.4}, weights="capable"), acc=0.7)
    model(folder, "org/neither", audited({"spv": 1.0, "loss": 0.2}, weights="neither"), acc=0.3)
    return folder
