"""What the product says of a model, beside a plain float32 pass of one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.libraries import quiet_libraries
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role

TOLERANCE = 1e-5


def plain(model: Any, ids: Sequence[int], context: Sequence[int], prefix_id: int) -> NDArray[np.float64]:
    """Log-probs of `ids` after `context`, from one pass of one row and the definition."""
    before = [prefix_id, *context]  # what a record is conditioned on; the one line to change where that is decided anew
    with torch.no_grad(), quiet_libraries():
        logits = model(torch.tensor([[*before, *ids[:-1]]]), use_cache=False).logits[0, -len(ids) :]
    return logits.double().log_softmax(-1)[range(len(ids)), list(ids)].numpy()


def difference(
    backend: Any, role: Role, model: Any, rows: Sequence[Sequence[int]], context: Sequence[int], prefix_id: int
) -> float:
    """Largest difference between the backend's log-probs under a role and the plain ones under `model`."""
    items = [ScoreInput(tuple(ids), tuple(context)) for ids in rows]
    found = backend.score(role, items, moments=False)
    expected = [plain(model, ids, context, prefix_id) for ids in rows]
    return max(float(np.abs(f.logprob - e).max()) for f, e in zip(found, expected, strict=True))


def verdict(backend: Any, role: Role, model: Any, rows: Any, context: Any, prefix_id: int) -> str:
    """`yes`, or by how much it is off."""
    off = difference(backend, role, model, rows, context, prefix_id)
    return "yes" if off <= TOLERANCE else f"OFF by {off:.1e}"


def seen(check: Callable[[], str]) -> str:
    """What a check says, or how it ended: `refused: ...` by name, or `FAILS: ...`."""
    try:
        return check()
    except SpvmiaError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever comes is what the table tells
        return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
