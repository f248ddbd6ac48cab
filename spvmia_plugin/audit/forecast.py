"""How long an audit still takes, told again when what its stages really take moves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from spvmia_plugin.audit.plan import Stage, duration

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
        self._estimates = {stage.name: stage.seconds(rate) for stage in stages if stage.tokens}
        self._left = dict.fromkeys(self._estimates, 1.0)  # share of each stage
        self._spent: dict[str, tuple[float, float]] = {}  # by kind: seconds as estimated, and as they were
        self._say = say
        self._clock = clock
        self._since = clock()
        self._told = sum(self._estimates.values())

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
            self._say(f"spvmia: about {duration(left)} left ({name} is {pace} than planned)")
            self._told = left

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
