"""What all exports share: whose number it is, under which protocol, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.comparable import conditions, digest
from spvmia_plugin.results.findings import failed, touches
from spvmia_plugin.results.model import Audit, HarnessRun, TaskResult

LOCAL_DEVELOPER = "local"
"""Namespace of a model that lies in a folder and has no hub id."""

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
    weights = [w for audit in run.audits for w in audit.record.get("models", {}).get("target", {}).get("weights", [])]
    return bool(weights) and "hub" not in weights[-1]


def protocol_digits(audit: Audit, *tasks: TaskResult) -> str:
    """Digits that two results of these attacks share exactly if a leaderboard may compare them."""
    ordered = sorted(tasks, key=lambda task: task.attack)
    return digest(conditions(audit, ordered, "models", "fingerprint"))


def warnings(task: TaskResult) -> list[str]:
    """Findings that say the exported numbers should not be used as they are, in words.

    A metric that a finding leaves NaN is not exported, and needs no warning.
    """
    return [str(finding["message"]) for finding in failed(task) if touches(finding, task.attack, "auroc")]


def notes(task: TaskResult) -> list[str]:
    """Findings that should be known, and why a metric is left out."""
    told = warnings(task)
    messages = (str(finding["message"]) for finding in task.record["preconditions"])
    return [message for message in messages if message not in told]


def source_name(audit: Audit) -> str:
    """Where the audited records come from, without the folders above."""
    return Path(str(audit.record["data"].get("source") or audit.dataset)).name
