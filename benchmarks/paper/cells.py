"""A cell is one fine-tuned model under one audit; its summary is a small JSON file of numbers that is committed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.paper.settings import ABLATIONS, ATTACKS, PROTOCOLS, Change
from spvmia_plugin.config import AuditConfig

RESULTS = Path(__file__).resolve().parent / "results"
MAIN = "main"

Summary = dict[str, Any]


@dataclass(frozen=True, order=True)
class Cell:
    """Which cell.

    Attributes:
        data: name of the data set.
        base: name of the model before fine-tuning.
        protocol: of `settings.PROTOCOLS`.
        method: `lora` or `full`.
        strength: of the protocol's strengths.
        ablation: `main`, or of `settings.ABLATIONS`.
        setting: of the ablation; empty in a main cell.
        seed: of split, fine-tuning and audit.
    """

    data: str
    base: str
    protocol: str
    method: str
    strength: str
    ablation: str = MAIN
    setting: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Its file's name, without the ending."""
        setting = f"{self.ablation}-{self.setting}" if self.setting else self.ablation
        parts = (self.data, self.base, self.protocol, self.method, self.strength, setting)
        return "__".join(map(_safe, [*parts, f"seed{self.seed}"]))

    @property
    def change(self) -> Change:
        """What it changes of the main cell."""
        return ABLATIONS[self.ablation].settings[self.setting] if self.ablation != MAIN else Change()

    @property
    def attacks(self) -> tuple[str, ...]:
        """What it measures."""
        return ATTACKS if self.ablation == MAIN else ABLATIONS[self.ablation].attacks

    @property
    def main(self) -> Cell:
        """The main cell beside it."""
        return Cell(self.data, self.base, self.protocol, self.method, self.strength, seed=self.seed)

    @property
    def target(self) -> str:
        """Name of its target: cells that fine-tune alike share one."""
        options = self.finetune_options()
        method = self.change.peft or options["method"]
        how = (f"{method}", f"epochs-{options['epochs']}", f"lr-{options['lr']}", f"seed{self.seed}")
        return "__".join(map(_safe, (self.data, self.base, self.protocol, *how)))

    def finetune_options(self) -> dict[str, object]:
        """Options of `spvmia finetune`: the protocol's, the strength's, the ablation's."""
        protocol = PROTOCOLS[self.protocol]
        options = {"method": self.method, **protocol.finetune, **protocol.strengths[self.strength]}
        options |= dict(self.change.finetune) | {"seed": self.seed}
        return options | {"lr": _times(options["lr"], self.change.lr_times)}

    def audit_options(self) -> dict[str, object]:
        """`mia_*` options of the audit."""
        options = {**PROTOCOLS[self.protocol].audit, "mia_seed": self.seed, **self.change.audit}
        if self.change.reference_lr_times != 1:
            lr = AuditConfig.from_metadata(options).reference_lr
            options["mia_reference_lr"] = _times(lr, self.change.reference_lr_times)
        return options


def _times(value: object, times: float) -> float:
    return float(f"{float(str(value)) * times:.6g}")


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def ablation_cells(main: Cell, name: str) -> Iterator[Cell]:
    """The cells that an ablation of a main cell runs: what can't be run, and what another cell is, is left out."""
    for setting in ABLATIONS[name].settings:
        cell = replace(main, ablation=name, setting=setting)
        if not not_run(cell) and canonical(cell) == cell:
            yield cell


def not_run(cell: Cell) -> str:
    """Why a setting is listed and never run, or empty."""
    prompt, block = cell.audit_options().get("mia_prompt_tokens", 0), cell.finetune_options()["block-size"]
    if int(str(prompt)) < int(str(block)):
        return ""
    return f"{cell.setting} (a prompt as long as a record, {block} tokens, leaves nothing to write)"


def canonical(cell: Cell) -> Cell:
    """The cell whose numbers a setting shares: the first that does the same, a main cell or one of another ablation.

    A record seen twice is the strength `light`; two pairs are what the main cell has.
    """
    strengths = PROTOCOLS[cell.protocol].strengths
    mains = [replace(cell.main, strength=name) for name in (cell.strength, *strengths)]
    settings = [
        replace(cell, ablation=name, setting=setting) for name, its in ABLATIONS.items() for setting in its.settings
    ]
    done = _done(cell)
    return next((other for other in (*mains, *settings) if _done(other) == done), cell)


@cache  # every setting of an ablation is compared with all others
def _done(cell: Cell) -> tuple[object, ...]:
    """All that a cell does, as far as it can change a number."""
    change = cell.change
    audit = AuditConfig.from_metadata(cell.audit_options())
    return cell.target, audit, change.reference, change.prompts, change.bits


def read_summaries(folder: Path = RESULTS) -> dict[Cell, Summary]:
    """All summaries, by cell."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if "cell" in summary:
            found[Cell(**summary["cell"])] = summary
    return found


def summary_path(cell: Cell, folder: Path = RESULTS) -> Path:
    return folder / f"{cell.name}.json"


def write_summary(cell: Cell, summary: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a summary, whole or not at all."""
    path = summary_path(cell, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    content = {"format": 1, "cell": asdict(cell), **_rounded(summary)}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: more than any of them is sure of."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def missing_attacks(cell: Cell, summary: Mapping[str, Any] | None) -> list[str]:
    """Attacks that a cell should have and its summary does not."""
    there = summary["attacks"] if summary else {}
    return [name for name in cell.attacks if name not in there]


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """The `index`-th of `count` shares; what shares a target stays together, so no two processes train the same."""
    targets = list(dict.fromkeys(cell.main.target for cell in cells))
    own = set(targets[index::count])
    return [cell for cell in cells if cell.main.target in own]
