"""How long a cell will take, from what finished cells took a token."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.cells import MAIN, Cell
from benchmarks.paper.summary import tokens_together
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.signals import Role

START_SECONDS = 40.0
"""Of starting the two commands: imports, loading the model, the record of the results."""

SCORING_OPTIONS = ("mia_perturbation", "mia_perturbations", "mia_mask_rate", "mia_noise", "mia_mask_model")
"""Options that leave the reference, and the scores of the records themselves, as they are."""


@dataclass(frozen=True)
class Rates:
    """Seconds a token, None where nothing was measured.

    Attributes:
        finetune: of the target's training.
        score: of a forward pass.
        train: of a reference's training.
        generate: of writing.
    """

    finetune: float | None
    score: float | None
    train: float | None
    generate: float | None


def measured_rates(summaries: Mapping[Cell, Mapping[str, Any]], base: str, protocol: str) -> Rates:
    """Medians over the finished cells of a base model and protocol."""
    mine = [summary for cell, summary in summaries.items() if (cell.base, cell.protocol) == (base, protocol)]
    tuned = [summary["finetune"] for summary in mine if summary.get("finetune")]
    audits = [audit["rates"] for summary in mine for audit in summary["audits"]]
    return Rates(
        finetune=_median(f["seconds"] / f["tokens"] for f in tuned if f.get("seconds") and f.get("tokens")),
        **{kind: _median(rate[kind] for rate in audits if rate.get(kind)) for kind in ("score", "train", "generate")},
    )


def seconds_needed(
    cell: Cell, attacks: Sequence[str], rates: Rates, *, has_target: bool, has_main: bool, members: int | None = None
) -> float | None:
    """Seconds that a cell's missing attacks take, None if a rate is not known.

    Args:
        cell: which.
        attacks: those still to be run.
        rates: of `measured_rates`.
        has_target: its target is there.
        has_main: the main cell was audited with this store by all attacks, so that what a change leaves as it was is
            not computed again.
        members: `--members`, where it replaces the protocol's.
    """
    options = cell.finetune_options()
    n = members or int(str(options["members"]))
    block = int(str(options["block-size"]))
    config = AuditConfig.from_metadata(cell.audit_options())
    records = (min(n, config.max_samples) + min(int(str(options["nonmembers"])), config.max_samples)) * block
    audited = has_main and cell.target == cell.main.target
    leaves_paraphrases = not _changed(cell) & set(SCORING_OPTIONS)
    need = tokens_together(
        attacks,
        {**cell.audit_options(), "mia_block_size": block},
        records,
        int(str(options["prompts"])),
        stored=(Role.TARGET,) if audited and leaves_paraphrases and cell.ablation != MAIN else (),
        has_reference=audited and _leaves_reference(cell),
    )
    parts = [
        (0.0 if has_target else n * block * float(str(options["epochs"])), rates.finetune),
        (need["scored"], rates.score),
        (need["written"], rates.generate),
        (need["trained"], rates.train),
    ]
    if any(rate is None for tokens, rate in parts if tokens):
        return None
    return START_SECONDS + sum(tokens * float(rate or 0.0) for tokens, rate in parts)


def _leaves_reference(cell: Cell) -> bool:
    """Whether the reference is the main cell's."""
    change = cell.change
    return not (change.prompts or change.reference) and _changed(cell) <= set(SCORING_OPTIONS)


def _changed(cell: Cell) -> set[str]:
    """Options of the audit that differ from the main cell's."""
    own, main = cell.audit_options(), cell.main.audit_options()
    return {key for key, value in own.items() if main.get(key) != value}


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def shown(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "not known yet"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
