"""The window-based comparison attack, calibrated by self-prompts."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.wbc import Wbc
from spvmia_plugin.signals import Role


@dataclass(frozen=True)
class SpvWbc(Wbc):
    """score = the share of windows as in `wbc`, with the self-prompt reference phi in place of the base model.

    No paper: `wbc` (Chen et al. 2026, arXiv 2601.02751) under the calibration of Fu et al. 2024, arXiv 2311.06062.

    Which one this is: `wbc` in all but the reference, with the same option for the windows.
    """

    name = "spv_wbc"
    reference = Role.REFERENCE
