"""Columns of capability scores: like is compared with like, or gets a column of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spvmia_plugin.leaderboard.entrants import capability_key
from spvmia_plugin.results.model import Capability

Key = tuple[object, ...]


@dataclass(frozen=True)
class Column:
    """A capability score that may be compared across models.

    Attributes:
        key: task, metric, samples, version and few-shot examples; equal for all its scores.
        title: heading: the task and metric, with what tells it from a column of the same name.
        higher_is_better: None where the harness does not say.
    """

    key: Key
    title: str
    higher_is_better: bool | None

    def is_called(self, name: str) -> bool:
        """Whether `name` is the title, or the task alone."""
        return name in (self.title, self.key[0])


def columns_of(rows: Iterable[Mapping[Key, Capability]]) -> list[Column]:
    """The columns of some rows' scores: those that most rows have first."""
    found: dict[Key, list[Capability]] = {}
    for row in rows:
        for key, capability in row.items():
            found.setdefault(key, []).append(capability)
    keys = sorted(found, key=lambda key: -len(found[key]))
    return [Column(key, _title(found[key][0], keys), found[key][0].higher_is_better) for key in keys]


def _title(capability: Capability, keys: Sequence[Key]) -> str:
    key = capability_key(capability)
    title = f"{capability.task}, {capability.metric}"
    if [other[:2] for other in keys].count(key[:2]) == 1:
        return title
    return f"{title} ({capability.n} samples, {capability.fewshot} examples, version {capability.version})"
