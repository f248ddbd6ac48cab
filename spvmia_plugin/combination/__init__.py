"""A weighted sum of attacks, fitted on shadows, and what it has over each of them: `spvmia combine`."""

from __future__ import annotations

from spvmia_plugin.combination.audits import Combined as Combined
from spvmia_plugin.combination.audits import combine as combine
from spvmia_plugin.combination.fitting import NORMALISATIONS as NORMALISATIONS
from spvmia_plugin.combination.fitting import Combination as Combination
from spvmia_plugin.combination.fitting import OnTarget as OnTarget
from spvmia_plugin.combination.fitting import Scored as Scored
from spvmia_plugin.combination.fitting import compare as compare
from spvmia_plugin.combination.fitting import features as features
from spvmia_plugin.combination.fitting import fit as fit
