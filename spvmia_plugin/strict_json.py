"""JSON as the standard has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spvmia_plugin.paths import label


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and the infinities, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def utf8(value: Any) -> Any:
    """A JSON value whose texts UTF-8 can hold: a file name of other bytes becomes what `paths.label` makes of it."""
    if isinstance(value, Mapping):
        return {label(key) if isinstance(key, str) else key: utf8(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [utf8(inner) for inner in value]
    return label(value) if isinstance(value, str) else value
