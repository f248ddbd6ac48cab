"""Combines the attacks of an audit with weights fitted on a shadow model, whose members are known."""

from spvmia_plugin.combination.audits import Combined, combine
from spvmia_plugin.combination.weights import NORMALISATIONS, Combination, OnTarget, Scored, compare, fit

__all__ = ["NORMALISATIONS", "Combination", "Combined", "OnTarget", "Scored", "combine", "compare", "fit"]
