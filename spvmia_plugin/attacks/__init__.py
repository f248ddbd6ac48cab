"""The attacks: one frozen dataclass a file, pure NumPy. `docs/attacks.md` compares them."""

from __future__ import annotations

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.attacks.detectgpt import DetectGPT
from spvmia_plugin.attacks.ez import Ez
from spvmia_plugin.attacks.lira_base import LiraBase
from spvmia_plugin.attacks.lira_candidate import LiraCandidate
from spvmia_plugin.attacks.loss import Loss
from spvmia_plugin.attacks.lowercase import Lowercase
from spvmia_plugin.attacks.min_k import MinK
from spvmia_plugin.attacks.min_k_pp import MinKPlusPlus
from spvmia_plugin.attacks.neighbour import Neighbour
from spvmia_plugin.attacks.ratio import Ratio
from spvmia_plugin.attacks.recall import Recall
from spvmia_plugin.attacks.rmia import Rmia
from spvmia_plugin.attacks.spv import Spv
from spvmia_plugin.attacks.spv_ez import SpvEz
from spvmia_plugin.attacks.spv_wbc import SpvWbc
from spvmia_plugin.attacks.wbc import Wbc
from spvmia_plugin.attacks.zlib_entropy import Zlib

BUILTIN_ATTACKS: tuple[type[Attack], ...] = (
    Loss,
    Zlib,
    Lowercase,
    MinK,
    MinKPlusPlus,
    Neighbour,
    DetectGPT,
    LiraBase,
    LiraCandidate,
    Ratio,
    Ez,
    Wbc,
    Recall,
    Rmia,
    BagOfWords,
    SpvEz,
    SpvWbc,
    Spv,
)
"""In the order of DESIGN section 4: reference-free, calibrated by the base, by a population, by self-prompts."""

__all__ = ["BUILTIN_ATTACKS", "Attack", "BlindAttack", *(attack.__name__ for attack in BUILTIN_ATTACKS)]
