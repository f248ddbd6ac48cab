"""The plan of an audit: stages, counts, what the store has, tokens left and an estimate, shown before any long work."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.auditing.calibrate import Calibration, prompting
from spvmia_plugin.auditing.continuations import STAGE, Missing
from spvmia_plugin.auditing.gradients import GRADIENT_FACTOR, StoredGradients
from spvmia_plugin.auditing.roles import CALLED, Player, build_order
from spvmia_plugin.auditing.sheets import Request, Sheet
from spvmia_plugin.auditing.stored import Stock, StoredSignals
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Perturbation
from spvmia_plugin.records import AuditData
from spvmia_plugin.signals import Role, View
from spvmia_plugin.util.console import columns

GENERATION_FACTOR = 6.0
"""A sampled token costs about this many scored ones: its forward pass serves one position a row."""
TRAINING_FACTOR = 4.0
"""A trained token costs about this many scored ones: forward, backward, and the step."""


@dataclass(frozen=True)
class Stage:
    """One line of the plan.

    Attributes:
        name: what is done.
        count: how many units, `unit` their name.
        tokens: tokens to process; 0 where the store has everything.
        factor: cost of a token relative to a scored one.
        sent: tokens of what the target is prompted with, where it writes.
        kept: how many of `count` the store has.
    """

    name: str
    count: int
    unit: str
    tokens: int
    factor: float = 1.0
    sent: int = 0
    kept: int = 0

    def seconds(self, rate: float) -> float:
        """Estimate at `rate` scored tokens a second."""
        return self.tokens * self.factor / rate


def added(stages: Iterable[Stage]) -> list[Stage]:
    """Stages of one name as one, in the order of the names."""
    found: dict[str, Stage] = {}
    for stage in stages:
        before = found.get(stage.name)
        if before is not None:
            sums = {name: getattr(stage, name) + getattr(before, name) for name in ("count", "tokens", "sent", "kept")}
            stage = replace(stage, **sums)
        found[stage.name] = stage
    return list(found.values())


class Planner:
    """Counts what is to do for some of an audit's records, and what the store has of it.

    Args:
        lengths: tokens of each record.
        unmade: the records whose paraphrases the store does not have.
        config: settings.
    """

    def __init__(self, lengths: Mapping[str, int], unmade: Collection[str], config: AuditConfig) -> None:
        self._config = config
        self._count = len(lengths)
        self._draws = 2 * config.perturbations
        self._unmade = [lengths[record_id] for record_id in unmade]

    def paraphrases(self, perturbation: Perturbation) -> Stage:
        """Paraphrases that are to be made."""
        tokens = int(perturbation.passes * sum(self._unmade))
        kept = self._draws * (self._count - len(self._unmade))
        return Stage(f"paraphrases ({perturbation.name})", self._draws * self._count, "texts", tokens, kept=kept)

    def scoring(self, player: Player, requests: Sequence[Request], signals: StoredSignals) -> Stage:
        """Sequences of one role. Paraphrases that are not made yet count as long as their record."""
        unmade = self._unmade if View.NEIGHBOURS in player.views else []
        count = sum(len(request.inputs) for request in requests) + self._draws * len(unmade)
        found = [signals.stock(request) for request in requests]
        tokens = sum(each.missing for each in found) + self._draws * sum(unmade)
        return Stage(f"scoring: {player.role.value}", count, "texts", tokens, kept=sum(each.kept for each in found))

    def continuing(self, missing: Missing) -> Stage:
        """Continuations that the target has not written yet."""
        count, kept = missing.texts + missing.kept, missing.kept
        return Stage(STAGE, count, "texts", missing.tokens, GENERATION_FACTOR, missing.sent, kept)

    def gradients(
        self, player: Player, model: Role, sheets: Sequence[Sheet], known: StoredGradients, *, is_there: bool
    ) -> Stage:
        """Gradients of one role's loss; all of them, where the model is not there yet."""
        able = [sequence for sheet in sheets if (sequence := sheet.differentiated()) is not None]
        found = known.stock(model, able) if is_there else Stock(0, sum(len(each.item.token_ids) for each in able))
        name = f"gradients: {player.role.value}"
        return Stage(name, len(able), "texts", found.missing, GRADIENT_FACTOR, kept=found.kept)


def reference_stages(
    players: Iterable[Player], config: AuditConfig, data: AuditData, calibration: Calibration, mean: float
) -> list[Stage]:
    """Self-prompting, and training the references that are to be trained; `mean` tokens a record of the audit."""
    expected = calibration.expected(mean if data.renderer is not None else config.block_size or mean)
    stages = []
    for player in sorted((each for each in players if each.trained), key=lambda each: build_order(each.role)):
        if player.role.kind is Role.CANDIDATE:
            texts = calibration.candidate_documents()
        else:
            texts = config.self_prompts
            kept = min(calibration.stored_self_prompts(player.role.nth), texts)
            to_do = texts - kept
            tokens = max(0, int(to_do * expected.written))
            sent = max(0, int(to_do * (expected.tokens - expected.written)))
            stages.append(Stage(prompting(player.role.nth), texts, "texts", tokens, GENERATION_FACTOR, sent, kept))
        is_ready = calibration.is_ready(player)
        known = 0 if is_ready else calibration.known_tokens(player)
        passed = texts * expected.tokens if known is None else known
        tokens = int(passed * config.reference_epochs / calibration.processes)
        name, kept = f"training the {CALLED[player.role]}", texts if is_ready else 0
        stages.append(Stage(name, texts, "texts", tokens, TRAINING_FACTOR, kept=kept))
    return stages


LEAST_TRAINED = 0.5
"""A reference that was trained on less than this share of the planned tokens is another than was planned."""


def shortfall(called: str, planned: int, record: Mapping[str, object], processes: int = 1) -> str | None:
    """What to say of a reference that was trained on far less than the plan said; None if it was not.

    Args:
        called: the reference, as people are told of it.
        planned: tokens of the stage, a process; 0 where nothing was planned.
        record: of its training.
        processes: that trained it together.
    """
    trained = record.get("tokens")
    if not isinstance(trained, int) or trained >= LEAST_TRAINED * planned * processes:
        return None
    return (
        f"the {called} was trained on {trained:,} tokens, where the plan counted {planned * processes:,}: its texts "
        "came out shorter than the audited ones"
    )


def shorter_by(stages: Sequence[Stage], config: AuditConfig) -> list[str]:
    """Options that would shorten this plan: those that its work follows, and that are not as low as they get."""
    left = " ".join(stage.name for stage in stages if stage.tokens)
    follows = {
        "mia_self_prompts": "self-prompting" in left or "training the" in left,
        "mia_perturbations": "paraphrases" in left and config.perturbations > 1,
        "mia_continuations": STAGE in left and config.continuations > 1,
        "mia_preset=quick": config.preset != "quick",
    }
    return ["--limit", "mia_max_samples", *(option for option, does in follows.items() if does)]


def render(
    title: str, stages: Sequence[Stage], rate: float | None, shorter: Sequence[str], *, measured: bool = True
) -> str:
    """The plan as a plain table.

    Args:
        title: its first line.
        stages: what is to do.
        rate: scored tokens a second, None if none is known.
        shorter: options that would shorten it.
        measured: whether the rate was measured, or reckoned.
    """
    resumed = any(stage.kept for stage in stages)
    rows = [("stage", "count", "from store", "tokens left" if resumed else "tokens", "about")]
    for stage in stages:
        kept = "all" if stage.kept == stage.count else f"{stage.kept:,}"
        about = duration(stage.seconds(rate)) if rate and stage.tokens else ""
        count = f"{stage.count:,} {stage.unit}"
        rows.append((stage.name, count, kept if stage.kept else "", f"{stage.tokens:,}", about))
    if rate:
        total = sum(stage.seconds(rate) for stage in stages)
        rows.append(("total", "", "", f"{sum(stage.tokens for stage in stages):,}", duration(total)))
    shown_rows = rows if resumed else [(name, count, tokens, about) for name, count, _, tokens, about in rows]
    told = f" at {rate:,.0f} tokens/s{', measured just now' if measured else ''}" if rate else ""
    shrink = f"  to shrink it: {', '.join(shorter)}"
    return "\n".join([f"{title}{told}", *columns(shown_rows, "<" + ">" * (len(shown_rows[0]) - 1)), shrink])


def duration(seconds: float) -> str:
    """Seconds in words for people."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
