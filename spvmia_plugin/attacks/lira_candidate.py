"""The log-likelihood ratio against a model tuned on other data of the domain."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.attacks.lira_base import LiraBase
from spvmia_plugin.signals import Role


@dataclass(frozen=True)
class LiraCandidate(LiraBase):
    """score = L_theta - L_candidate, the candidate being the base fine-tuned on `mia_candidate`.

    The baseline LiRA-Candidate of Fu et al. 2024, arXiv 2311.06062: what an attacker does who has other data of the
    same domain.

    Which one this is: `lira_base` with another reference, trained by the settings of the self-prompt
    reference; the paper's code trains it by a separate script with settings of its own.
    """

    name = "lira_candidate"
    reference = Role.CANDIDATE
