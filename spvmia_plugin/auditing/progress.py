"""What the stages of an audit cost, counted as they go, and how long the rest of them takes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager

from spvmia_plugin.auditing.forecast import Forecast
from spvmia_plugin.auditing.plan import Stage
from spvmia_plugin.protocols import Backend, Cost
from spvmia_plugin.signals import Role
from spvmia_plugin.util.console import show


class Progress:
    """How far an audit is. Without a plan nothing is told, and costs are counted all the same.

    Args:
        backend: counts what its models do.
        roles: of the audit.
        costs: where the cost of each stage is put, by name.

    Attributes:
        forecast: follows the bars.
    """

    def __init__(self, backend: Backend, roles: Collection[Role], costs: MutableMapping[str, Cost]) -> None:
        self._backend = backend
        # A plugin's backend may know of no further references than it is asked to load.
        self._roles = [role for role in Role if role.nth == 1 or role in roles]
        self._costs = costs
        self._planned: dict[str, int] = {}
        self.forecast = Forecast((), 1.0, show)

    def follow(self, stages: Sequence[Stage], rate: float) -> None:
        """There is a plan now, and a rate of scored tokens a second."""
        self.forecast = Forecast(stages, rate, show)
        self._planned = {stage.name: stage.tokens for stage in stages}

    def planned(self, stage: str) -> int:
        """Tokens of a stage of the plan; 0 without one."""
        return self._planned.get(stage, 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[Cost]:
        """Count what a stage, or a part of it, costs: the models' own counts, and the wall clock."""
        before = {role: self._backend.cost(role) for role in self._roles}
        started = time.perf_counter()
        self.forecast.begin()
        spent = Cost()
        yield spent
        for role, earlier in before.items():
            spent += self._backend.cost(role) - earlier
        spent.seconds = time.perf_counter() - started
        self._costs.setdefault(name, Cost()).__iadd__(spent)

    def done(self, stage: str, tokens: int) -> None:
        """So many tokens of a stage were just done."""
        if planned := self.planned(stage):
            self.forecast.done(stage, tokens / planned)

    def done_share(self, stage: str, share: float) -> None:
        """A share of a stage, of all that was to do of it, was just done."""
        self.forecast.done(stage, share)

    def correct(self, stage: str, tokens: int) -> None:
        """A stage that has not begun has so many tokens, whatever the plan thought."""
        self.forecast.correct(stage, tokens)

    def finish(self, *stages: str) -> None:
        """Nothing is left of these stages."""
        self.forecast.finish(*stages)
