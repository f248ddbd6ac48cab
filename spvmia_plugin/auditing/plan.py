"""The plan of an audit: stages, counts, tokens and an estimate, shown before any long work and corrected as it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from spvmia_plugin.auditing.calibrate import Calibration, prompting
from spvmia_plugin.auditing.continuations import STAGE, Missing
from spvmia_plugin.auditing.gradients import GRADIENT_FACTOR, StoredGradients
from spvmia_plugin.auditing.roles import CALLED, Player, build_order
from spvmia_plugin.auditing.sequences import Request, Sheet
from spvmia_plugin.auditing.stored import StoredSignals
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Perturbation
from spvmia_plugin.records import AuditData
from spvmia_plugin.signals import Role, View
from spvmia_plugin.util.console import shown

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
    """

    name: str
    count: int
    unit: str
    tokens: int
    factor: float = 1.0
    sent: int = 0

    def seconds(self, rate: float) -> float:
        """Estimate at `rate` scored tokens a second."""
        return self.tokens * self.factor / rate


def added(stages: Iterable[Stage]) -> list[Stage]:
    """Stages of one name as one, in the order of the names."""
    found: dict[str, Stage] = {}
    for stage in stages:
        before = found.get(stage.name)
        if before is not None:
            count, tokens, sent = stage.count + before.count, stage.tokens + before.tokens, stage.sent + before.sent
            stage = replace(stage, count=count, tokens=tokens, sent=sent)
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
        return Stage(f"paraphrases ({perturbation.name})", self._draws * self._count, "texts", tokens)

    def scoring(self, player: Player, requests: Sequence[Request], signals: StoredSignals) -> Stage:
        """Sequences of one role. Paraphrases that are not made yet count as long as their record."""
        unmade = self._unmade if View.NEIGHBOURS in player.views else []
        count = sum(len(request.inputs) for request in requests) + self._draws * len(unmade)
        tokens = sum(map(signals.missing, requests)) + self._draws * sum(unmade)
        return Stage(f"scoring: {player.role.value}", count, "texts", tokens)

    def continuing(self, missing: Missing) -> Stage:
        """Continuations that the target has not written yet."""
        return Stage(STAGE, missing.texts, "texts", missing.tokens, GENERATION_FACTOR, missing.sent)

    def gradients(
        self, player: Player, model: Role, sheets: Sequence[Sheet], known: StoredGradients, *, is_there: bool
    ) -> Stage:
        """Gradients of one role's loss; all of them, where the model is not there yet."""
        able = [sequence for sheet in sheets if (sequence := sheet.differentiated()) is not None]
        tokens = known.missing(model, able) if is_there else sum(len(each.item.token_ids) for each in able)
        return Stage(f"gradients: {player.role.value}", len(able), "texts", tokens, GRADIENT_FACTOR)


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
            to_do = max(texts - calibration.stored_self_prompts(player.role.nth), 0)
            tokens = max(0, int(to_do * expected.written))
            sent = max(0, int(to_do * (expected.tokens - expected.written)))
            stages.append(Stage(prompting(player.role.nth), to_do, "texts", tokens, GENERATION_FACTOR, sent))
        known = 0 if calibration.is_ready(player) else calibration.known_tokens(player)
        passed = texts * expected.tokens if known is None else known
        tokens = int(passed * config.reference_epochs / calibration.processes)
        stages.append(Stage(f"training the {CALLED[player.role]}", texts, "texts", tokens, TRAINING_FACTOR))
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


def render(title: str, stages: Sequence[Stage], rate: float | None, *, measured: bool = True) -> str:
    """The plan as a plain table; `rate` in scored tokens a second, None if none is known, `measured` or reckoned."""
    rows = [("stage", "count", "tokens", "about")]
    for stage in stages:
        about = "from store" if not stage.tokens else duration(stage.seconds(rate)) if rate else ""
        rows.append((stage.name, f"{stage.count:,} {stage.unit}", f"{stage.tokens:,}", about))
    if rate:
        total = sum(stage.seconds(rate) for stage in stages)
        rows.append(("total", "", f"{sum(stage.tokens for stage in stages):,}", duration(total)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}".rstrip()
        for row in rows
    ]
    told = f" at {rate:,.0f} tokens/s{', measured just now' if measured else ''}" if rate else ""
    shrink = "  to shrink it: --limit, mia_max_samples, mia_self_prompts, mia_perturbations, mia_preset=quick"
    return "\n".join([f"{title}{told}", *lines, shrink])


def show(text: str) -> None:
    """Print to stderr, where progress goes: stdout stays the harness's. File names in it drive no terminal."""
    print("\n".join(map(shown, text.split("\n"))), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words for people."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


MOVED = 0.25
"""A remaining time that differs by more than this share from the one last told is told anew."""
LEAST_SECONDS = 10.0
"""What is measured, and what is left, for less than this says nothing worth a line."""


class Forecast:
    """What is left of a plan. A kind of work begins with the plan's estimate; its real rate replaces that.

    Args:
        stages: the plan's; without any, nothing is told.
        rate: scored tokens a second, as measured for the plan.
        say: tells people.
        clock: seconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        rate: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stages = {stage.name: stage for stage in stages if stage.tokens}
        self._rate = rate
        self._estimates = {stage.name: stage.seconds(rate) for stage in self._stages.values()}
        self._left = dict.fromkeys(self._estimates, 1.0)  # share of each stage
        self._spent: dict[str, tuple[float, float]] = {}  # by kind: seconds as estimated, and as they were
        self._say = say
        self._clock = clock
        self._since = clock()
        self._told = sum(self._estimates.values())
        self._last = ""

    @property
    def seconds(self) -> float:
        """What is left."""
        return sum(
            share * self._estimates[name] * self._factor(_kind(name)) for name, share in self._left.items() if share
        )

    def begin(self) -> None:
        """A stage begins: the time until now was that of none."""
        self._since = self._clock()

    def done(self, name: str, share: float) -> None:
        """A share of a stage, of all that was to do of it, took the time since the last call."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        if name not in self._left:
            return
        share = min(share, self._left[name])
        self._left[name] = self._left[name] - share if self._left[name] - share > 1e-9 else 0.0
        estimated, real = self._spent.get(_kind(name), (0.0, 0.0))
        self._spent[_kind(name)] = estimated + share * self._estimates[name], real + seconds
        self._told = max(0.0, self._told - seconds)
        left = self.seconds
        moved = abs(left - self._told) > MOVED * max(left, self._told)
        if moved and left and max(left, self._told) > LEAST_SECONDS and real + seconds > LEAST_SECONDS:
            pace = "slower" if left > self._told else "faster"
            line = f"spvmia: about {duration(left)} left ({name} is {pace} than planned)"
            if line != self._last:  # a stage that slows down as it goes has as much left again and again
                self._say(line)
            self._told, self._last = left, line

    def correct(self, name: str, tokens: int) -> None:
        """A stage that has not begun has so many tokens, whatever the plan thought."""
        if name not in self._left:
            return
        before, planned = self.seconds, self._stages[name].tokens
        self._estimates[name] = replace(self._stages[name], tokens=tokens).seconds(self._rate)
        left = self.seconds
        self._told = max(0.0, self._told + left - before)
        if abs(left - before) > MOVED * max(left, before) and max(left, before) > LEAST_SECONDS:
            self._say(f"spvmia: about {duration(left)} left ({name} has {tokens:,} tokens, not {planned:,} as planned)")

    def finish(self, *names: str) -> None:
        """Nothing is left of these stages, whatever the plan thought."""
        for name in names:
            if name in self._left:
                self._told = max(0.0, self._told - self._left[name] * self._estimates[name] * self._factor(_kind(name)))
                self._left[name] = 0.0

    def _factor(self, kind: str) -> float:
        """How much longer a kind of work takes than estimated."""
        estimated, real = self._spent.get(kind, (0.0, 0.0))
        return real / estimated if estimated else 1.0


def _kind(name: str) -> str:
    """Stages of one kind go at one rate: scoring under any model, training any reference."""
    return name.partition(" ")[0]
