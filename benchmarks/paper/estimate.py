"""How long a cell will take, from what finished cells took a token."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.cells import MAIN, Cell
from benchmarks.paper.settings import PARAPHRASED
from benchmarks.paper.summary import tokens_alone
from spvmia_plugin.config import AuditConfig

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
        has_main: the main cell was audited with this store, so that what a change leaves as it was is not computed
            again.
        members: `--members`, where it replaces the protocol's.
    """
    options = cell.finetune_options()
    n = members or int(str(options["members"]))
    block = int(str(options["block-size"]))
    config = AuditConfig.from_metadata(cell.audit_options())
    records = (min(n, config.max_samples) + min(int(str(options["nonmembers"])), config.max_samples)) * block
    parts: list[tuple[float, float | None]] = []
    if not has_target:
        parts.append((n * block * float(str(options["epochs"])), rates.finetune))
    settings = {**cell.audit_options(), "mia_block_size": block}
    prompts = int(str(options["prompts"]))
    needs = [tokens_alone(attack, settings, records, prompts) for attack in attacks]
    audited = has_target and has_main and cell.target == cell.main.target
    reuse = audited and (cell.ablation == MAIN or _leaves_reference(cell))
    if not reuse:
        # `lira_candidate` trains a second reference beside the self-prompted one.
        trained = {need["trained"] for need in needs if need["trained"]}
        twice = "lira_candidate" in attacks and any(need["written"] for need in needs)
        parts.append((sum(trained) * (2 if twice and len(trained) == 1 else 1), rates.train))
        parts.append((max((need["written"] for need in needs), default=0), rates.generate))
    elif cell.ablation == MAIN and "lira_candidate" in attacks:
        parts.append((max(need["trained"] for need in needs), rates.train))
    # With the same target and paraphrases, only the reference's side is new.
    paraphrases = 0 if {"spv"} - set(attacks) else 2 * config.perturbations
    same_texts = audited and cell.ablation != MAIN and not set(cell.change.audit) & set(SCORING_OPTIONS)
    scored = _scored(attacks, needs, records, reuse=reuse, cell=cell)
    parts.append(((1 + paraphrases) * records if same_texts else scored, rates.score))
    if any(rate is None for tokens, rate in parts if tokens):
        return None
    return START_SECONDS + sum(tokens * float(rate or 0.0) for tokens, rate in parts)


def _leaves_reference(cell: Cell) -> bool:
    """Whether the reference is the main cell's."""
    change = cell.change
    return not (change.prompts or change.reference) and set(change.audit) <= set(SCORING_OPTIONS)


def _scored(
    attacks: Sequence[str], needs: Sequence[Mapping[str, int]], records: int, *, reuse: bool, cell: Cell
) -> float:
    """Tokens to score: every text once for all attacks; roughly, as the paraphrases dominate."""
    if not attacks:
        return 0.0
    largest = max(need["scored"] for need in needs)
    if reuse and cell.ablation == MAIN and not set(attacks) & set(PARAPHRASED):
        return largest + records
    others = {"recall", "rmia", "lowercase"} & set(attacks)
    extra = sum(need["scored"] for name, need in zip(attacks, needs, strict=True) if name in others)
    return largest + extra + records


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def shown(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "not known yet"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
