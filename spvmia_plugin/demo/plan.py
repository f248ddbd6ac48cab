"""What one demo does: its sizes, its folders, and the commands it runs, as anyone would type them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from spvmia_plugin.demo.capability import TASK
from spvmia_plugin.errors import SpvmiaError, did_you_mean

ATTACKS = ("spv_mia", "loss_mia", "min_k_mia", "neighbour_mia", "lira_base_mia")
SEED = 0


@dataclass(frozen=True)
class Size:
    """How much one demo does, and about how long each step takes on two cores without a GPU.

    Attributes:
        members: tickets the target is trained on; as many others are the non-members.
        prompts: held-out tickets whose beginnings prompt the target.
        questions: of the capability task.
        epochs: of the target.
        self_prompts: texts sampled from the target, which the reference is trained on.
        minutes: estimates for the model, the fine-tuning and the audit; the corpus takes none.
    """

    members: int
    prompts: int
    questions: int
    epochs: int
    self_prompts: int
    minutes: tuple[float, float, float]

    @property
    def tickets(self) -> int:
        """All tickets of the corpus."""
        return 2 * self.members + self.prompts


SIZES = {
    "small": Size(members=100, prompts=120, questions=40, epochs=3, self_prompts=120, minutes=(1, 2, 5)),
    "medium": Size(members=250, prompts=250, questions=200, epochs=3, self_prompts=250, minutes=(1, 4, 13)),
    "large": Size(members=600, prompts=600, questions=400, epochs=3, self_prompts=600, minutes=(1, 9, 31)),
}

TRAINING = {
    "lr": 5e-4,
    "lora-rank": 16,
    "lora-alpha": 32,
    "lora-dropout": 0,
    "lora-targets": "all-linear",
    "batch-size": 8,
    "block-size": 0,
    "seed": SEED,
}
"""Options of `spvmia finetune` that every size shares: a leak that the simple attacks see, and understate."""

AUDIT = {"mia_preset": "quick", "mia_reference_lr": 5e-4, "mia_perturbations": 2}
"""Options of the audit that every size shares."""


def size_named(name: str) -> Size:
    """Return the size with this name.

    Raises:
        SpvmiaError: there is none.
    """
    if name not in SIZES:
        raise SpvmiaError(f"--size: expected one of {', '.join(SIZES)}, got {name!r}{did_you_mean(name, SIZES)}")
    return SIZES[name]


@dataclass(frozen=True)
class Layout:
    """Where a demo keeps what it makes. All but the model, which demos share, lies below `root`."""

    root: Path

    @property
    def model(self) -> Path:
        """SmolLM2-135M."""
        return Path(platformdirs.user_cache_dir("spvmia")) / "models" / "SmolLM2-135M"

    @property
    def corpus(self) -> Path:
        """The made-up private corpus."""
        return self.root / "corpus.jsonl"

    @property
    def target(self) -> Path:
        """The fine-tuned adapter and its manifest."""
        return self.root / "target"

    @property
    def tasks(self) -> Path:
        """The folder for `--include_path`."""
        return self.root / "tasks"

    @property
    def cache(self) -> Path:
        """The audit's store: self-prompts, reference, signals."""
        return self.root / "cache"

    @property
    def results(self) -> Path:
        """The harness's results and samples."""
        return self.root / "results"

    @property
    def table(self) -> Path:
        """What the harness printed."""
        return self.root / "lm_eval.txt"

    @property
    def report(self) -> Path:
        """The page that says what it means."""
        return self.root / "report.html"

    @property
    def progress(self) -> Path:
        """Which steps are finished, and with which settings."""
        return self.root / "steps.json"


def demo_model_command(layout: Layout) -> list[str]:
    """The command that fetches and writes the model."""
    return ["spvmia", "demo-model", str(layout.model)]


def finetune_command(layout: Layout, size: Size) -> list[str]:
    """The command that makes the target."""
    options: Mapping[str, object] = {
        "model": layout.model,
        "data": layout.corpus,
        "output": layout.target,
        "members": size.members,
        "nonmembers": size.members,
        "prompts": size.prompts,
        "epochs": size.epochs,
        **TRAINING,
    }
    return ["spvmia", "finetune", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]


def lm_eval_command(layout: Layout, size: Size) -> list[str]:
    """The command of the harness that audits the target: nothing in it belongs to the demo but the paths."""
    metadata = {**AUDIT, "mia_self_prompts": size.self_prompts, "mia_cache_dir": str(layout.cache)}
    tasks = [*(f"{attack}_custom" for attack in ATTACKS), TASK]
    return [
        *("lm_eval", "run", "--model", "hf"),
        *("--model_args", f"pretrained={layout.model},peft={layout.target}"),
        *("--tasks", ",".join(tasks)),
        *("--include_path", str(layout.tasks)),
        *("--metadata", json.dumps(metadata)),
        *("--batch_size", "16"),
        *("--output_path", str(layout.results)),
        "--log_samples",
    ]


def report_command(layout: Layout) -> list[str]:
    """The command that writes the report."""
    return ["spvmia", "report", str(layout.results), "--output", str(layout.report)]


def as_process(command: list[str]) -> list[str]:
    """The same command in this Python, whatever is first on the PATH."""
    module = {"spvmia": "spvmia_plugin", "lm_eval": "lm_eval"}[command[0]]
    return [sys.executable, "-m", module, *command[1:]]


def settings_of(size: Size) -> dict[str, object]:
    """Everything that changes what a demo computes, JSON-ready."""
    sizes = {key: value for key, value in asdict(size).items() if key != "minutes"}
    return {**sizes, "training": TRAINING, "audit": AUDIT, "seed": SEED}
