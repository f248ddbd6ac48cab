"""A run as the report sees it, made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.report.html import render
from spvmia_plugin.results import HarnessRun, read_latest
from tests.results.builders import WARNING, fake_audit, fake_records, write_run


@dataclass(frozen=True)
class Reported:
    """One run: its folder, its results file as JSON, what was read of it, and its page."""

    folder: Path
    raw: dict[str, Any]
    run: HarnessRun
    page: str


def reported(folder: Path, *audits: Any, **options: Any) -> Reported:
    path = write_run(folder, audits, **options)
    run = read_latest(folder)
    return Reported(folder, json.loads(path.read_text(encoding="utf-8")), run, render(run))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory) -> Reported:
    """Four attacks and the blind one, a failed precondition, records without a score, a capability."""
    audit = fake_audit(
        {"spv": 1.6, "loss": 0.3, "bag_of_words": 0.0, "lira_base": 1.0, "lira_candidate": None},
        records=fake_records(150, 160, blocks=2),
        findings=[WARNING],
        settings={"mia_preset": "quick", "mia_cache_dir": "./a folder/cache"},
        unscored_every=40,
    )
    return reported(tmp_path_factory.mktemp("plain"), audit, capabilities={"arc_easy": {"acc": 0.5123456}})
