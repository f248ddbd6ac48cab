"""What the product says of a model, beside a plain float32 pass of one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.models import naive

TOLERANCE = 1e-5


def plain(model: Any, item: ScoreInput) -> NDArray[np.float64]:
    """Log-probs of what is scored of a sequence, from one pass of one row and the definition."""
    with quiet_libraries():
        return naive(partial(model, use_cache=False), item)[0].numpy()


def difference(backend: Any, role: Role, model: Any, rows: Sequence[Sequence[int]], context: Sequence[int]) -> float:
    """Largest difference between the backend's log-probs under a role and the plain ones under `model`."""
    items = [ScoreInput(tuple(ids), tuple(context)) for ids in rows]
    found = backend.score(role, items, moments=False)
    expected = [plain(model, item) for item in items]
    return max(float(np.abs(f.logprob - e).max()) for f, e in zip(found, expected, strict=True))


def verdict(backend: Any, role: Role, model: Any, rows: Any, context: Any) -> str:
    """`yes`, or by how much it is off."""
    off = difference(backend, role, model, rows, context)
    return "yes" if off <= TOLERANCE else f"OFF by {off:.1e}"


def seen(check: Callable[[], str]) -> str:
    """What a check says, or how it ended: `refused: ...` by name, or `FAILS: ...`."""
    try:
        return check()
    except SpvmiaError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever comes is what the table tells
        return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
