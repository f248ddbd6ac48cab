"""Paraphrases of the audited texts: the built-in kinds. torch is imported when a mask model is loaded, not before."""

from __future__ import annotations

from spvmia_plugin.perturb.causal import Causal
from spvmia_plugin.perturb.embedding import Embedding
from spvmia_plugin.perturb.mask_fill import MaskFill
from spvmia_plugin.protocols import Perturbation

BUILTIN_PERTURBATIONS: tuple[type[Perturbation], ...] = (MaskFill, Causal, Embedding)

__all__ = ["BUILTIN_PERTURBATIONS", "Causal", "Embedding", "MaskFill"]
