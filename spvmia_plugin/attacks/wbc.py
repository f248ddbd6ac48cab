"""The window-based comparison attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.attacks.common import is_count, token_differences
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Need, RecordSignals, Role

WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)


@dataclass(frozen=True)
class Wbc(Attack):
    """score = mean over the windows w of the share of positions with sum of d over w tokens > 0.

    WBC, Chen et al. 2026, arXiv 2601.02751; d_t = l_t(theta) - l_t(base), windows of w tokens at every position.

    Which one this is: the ten window sizes of the authors' code. A window longer than the text is clamped to it, as in
    their code, so that every size counts once for every record, with one position then: short texts keep a score on
    the same scale. A sum of exactly 0 counts as a vote against membership. All scored tokens count.

    Attributes:
        windows: window sizes in tokens.
        reference: whose log-probability is subtracted.
    """

    name = "wbc"
    options = {"windows": "mia_wbc_windows"}  # noqa: RUF012 - ClassVar in the base
    reference: ClassVar[Role] = Role.BASE

    windows: tuple[int, ...] = WINDOWS

    def __post_init__(self) -> None:
        if not isinstance(self.windows, (list, tuple)) or not self.windows or not all(map(is_count, self.windows)):
            raise SpvmiaError(
                f"mia_wbc_windows: expected a list of whole numbers >= 1, got {self.windows!r}; "
                f"the default is {list(WINDOWS)}"
            )
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON and YAML give lists

    @property
    def needs(self) -> frozenset[Need]:
        """The record under target and reference."""
        return frozenset({Need(Role.TARGET), Need(self.reference)})

    def score_record(self, signals: RecordSignals) -> float:
        """The mean share of windows in which the target beats the reference."""
        difference = token_differences(self.reference, signals)
        sizes = [min(window, len(difference)) for window in self.windows]
        # Summed window by window: differences of running sums would leave rounding where a sum is exactly 0.
        return float(np.mean([np.mean(sliding_window_view(difference, size).sum(axis=1) > 0) for size in sizes]))
