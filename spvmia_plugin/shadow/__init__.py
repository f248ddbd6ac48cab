"""`spvmia shadow`: shadows of a target, and weights of `learned` that are fitted on them."""

from __future__ import annotations

from spvmia_plugin.shadow.plan import ShadowConfig as ShadowConfig
from spvmia_plugin.shadow.run import make_shadows as make_shadows
