"""What is left of a plan, corrected by what stages really take: for the bar of the one at work, and a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from spvmia_plugin.auditing.plan import Stage, duration

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
        self._took: dict[str, float] = {}  # seconds of each stage that was not told to be over
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

    def __call__(self, name: str, share: float, *, kept: bool = False) -> str:
        """Follow a bar; what it says at its end. Of a training alone nobody else tells how far it is."""
        if _kind(name) == "training" and kept:
            self._keep(name, share)
        elif _kind(name) == "training":
            self.done(name, share)
        left = self.seconds
        return f"about {duration(left)} in all" if left else ""

    def begin(self) -> None:
        """A stage begins: the time until now was that of none."""
        self._since = self._clock()

    def done(self, name: str, share: float) -> None:
        """A share of a stage, of all that was to do of it, took the time since the last call."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        if name not in self._left:
            return
        was_over = not self._left[name]
        share = min(share, self._left[name])
        self._left[name] = self._left[name] - share if self._left[name] - share > 1e-9 else 0.0
        estimated, real = self._spent.get(_kind(name), (0.0, 0.0))
        self._spent[_kind(name)] = estimated + share * self._estimates[name], real + seconds
        if was_over:  # more of it than the plan knew, and how much is left nobody knows
            return
        self._took[name] = self._took.get(name, 0.0) + seconds
        self._told = max(0.0, self._told - seconds)
        if not self._left[name]:
            self._end(name)
            return
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
            if self._left.get(name):
                self._leave_out(name, self._left[name])
                self._end(name)

    def _keep(self, name: str, share: float) -> None:
        """A share of a stage was done by a run that was stopped, which the plan did not know; the rest begins now."""
        self.begin()
        if name in self._left and share:
            self._say(f"spvmia: {name} goes on where it was stopped, at {100 * share:.0f} %")
            self._leave_out(name, min(share, self._left[name]))

    def _leave_out(self, name: str, share: float) -> None:
        """Nobody has to do a share of a stage, and nobody is surprised that it took no time."""
        self._told = max(0.0, self._told - share * self._estimates[name] * self._factor(_kind(name)))
        self._left[name] -= share

    def _end(self, name: str) -> None:
        """Say that a stage is over, if it took long enough to wait for."""
        if (took := self._took.pop(name, 0.0)) < LEAST_SECONDS:
            return
        left = self.seconds
        self._say(f"spvmia: {name} took {duration(took)}{f', about {duration(left)} left' if left else ''}")
        self._told, self._last = left, ""

    def _factor(self, kind: str) -> float:
        """How much longer a kind of work takes than estimated."""
        estimated, real = self._spent.get(kind, (0.0, 0.0))
        return real / estimated if estimated else 1.0


def _kind(name: str) -> str:
    """Stages of one kind go at one rate: scoring under any model, training any reference."""
    return name.partition(" ")[0]
