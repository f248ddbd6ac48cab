"""The error zone attack, calibrated by self-prompts."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.ez import Ez
from spvmia_plugin.signals import Role


@dataclass(frozen=True)
class SpvEz(Ez):
    """score = P / (P + M) as in `ez`, with the self-prompt reference phi in place of the base model.

    No paper: `ez` (Ilic et al. 2026, arXiv 2601.12104) under the calibration of Fu et al. 2024, arXiv 2311.06062.

    Which one this is: the `distillation` option of ez-mia comes close (a reference tuned on generations of the
    target); there the prompts are longer and the sampling is truncated (temperature 0.9, top_p 0.9).
    """

    name = "spv_ez"
    reference = Role.REFERENCE
